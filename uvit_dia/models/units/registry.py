"""Attention units by name: which there are, which options they have, and how one is built."""

from collections.abc import Callable, Sequence
from typing import Any

from uvit_dia.models.units.channel import CBAM, ECA, SE, SEM, SGE, SPA, SPEM, SRM
from uvit_dia.models.units.protocol import AttentionUnit
from uvit_dia.models.units.recurrent import RecurrentUnit
from uvit_dia.models.units.recurrent_cells import DIALSTMCell, DIALSTMLightCell, LSTMCell

CELLS = {"lstm": LSTMCell, "dia_lstm": DIALSTMCell, "dia_lstm_light": DIALSTMLightCell}
SAMS: dict[str, Callable[..., AttentionUnit]] = {
    "se": SE,
    "eca": ECA,
    "cbam": CBAM,
    "srm": SRM,
    "spa": SPA,
    "sge": SGE,
    "spem": SPEM,
    "sem": SEM,
}
ATTENTION_NAMES = ("none", *CELLS, *SAMS)
REDUCED = ("dia_lstm", "dia_lstm_light", "se", "cbam", "spa", "sem")  # units that have a reduction
DEFAULT_OPTIONS = {
    "shared": True,
    "reduction": 4,
    "groups": 8,  # of sge
    "activation": "default",  # what the paper's cell has: tanh for lstm, sigmoid for the DIA cells
    "num_cells": 1,
    "pool": "all",
    "blocks": "all",
    "gate_init": "paper",
}


def make_attention_unit(
    name: str,
    channels: int,
    num_extra_tokens: int,
    options: dict[str, Any],
    block_indices: Sequence[int] = (0,),
) -> AttentionUnit:
    """Build one attention unit.

    Args:
        name: one of `ATTENTION_NAMES` but "none".
        channels: D, the width of the tokens.
        num_extra_tokens: how many tokens stand before the patches.
        options: complete set of options, the keys of `DEFAULT_OPTIONS`; `shared` and `blocks` are the caller's.
        block_indices: the blocks that the unit will serve.

    Raises:
        ValueError: for an unknown name, or options that do not fit the channels or the unit.
    """
    common = {
        "pool": options["pool"],
        "num_extra_tokens": num_extra_tokens,
        "gate_init": options["gate_init"],
    }
    arguments: dict[str, Any] = {}
    if name in REDUCED:
        arguments["reduction"] = options["reduction"]
    if name in CELLS:
        arguments["num_cells"] = options["num_cells"]
        if options["activation"] != "default":
            arguments["activation"] = options["activation"]
        return RecurrentUnit(CELLS[name](channels, **arguments), **common)
    if name not in SAMS:
        raise ValueError(f"attention must be one of {', '.join(ATTENTION_NAMES)}, got {name!r}")
    if options["activation"] != "default" or options["num_cells"] != 1:
        raise ValueError(
            f"activation and num_cells are options of {', '.join(CELLS)}; {name} has neither"
        )
    if name == "srm":
        arguments["block_indices"] = block_indices
    if name == "sge":
        arguments["groups"] = options["groups"]
    return SAMS[name](channels, **arguments, **common)
