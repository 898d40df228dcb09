"""Attention units by name: which there are, and how one is built.

What the units say of themselves stands in `config.units`, where it can be read without torch.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any

from uvit_dia.config.units import (
    DEFAULT_OPTIONS,
    PLACES,
    UNITS,
    UnitFacts,
    own_number,
    set_without_effect,
    units_with,
)
from uvit_dia.models.units.channel import ECA, SE, SEM, Constant
from uvit_dia.models.units.channel_statistics import SPEM, SRM
from uvit_dia.models.units.own_units import facts_of_class, find_own_unit
from uvit_dia.models.units.protocol import AttentionUnit
from uvit_dia.models.units.recurrent import RecurrentUnit
from uvit_dia.models.units.recurrent_cells import (
    DIALSTMCell,
    DIALSTMLightCell,
    LSTMCell,
    RecurrentCell,
)
from uvit_dia.models.units.spatial import CBAM, SGE, SPA

CELLS = {"lstm": LSTMCell, "dia_lstm": DIALSTMCell, "dia_lstm_light": DIALSTMLightCell}
CELL_OPTIONS = ("reduction", "activation", "num_cells")  # of a cell; others are the unit's
CLASSES: dict[str, type[AttentionUnit]] = {
    "se": SE,
    "eca": ECA,
    "cbam": CBAM,
    "srm": SRM,
    "spa": SPA,
    "sge": SGE,
    "spem": SPEM,
    "sem": SEM,
    "constant": Constant,
}
ATTENTION_NAMES = ("none", *CELLS, *CLASSES)  # those of this project


def complete_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all `attention_options`, those that are not given as `DEFAULT_OPTIONS` has them.

    Raises:
        ValueError: for an option that no unit has, or an unknown `place`.
    """
    unknown = sorted(set(options) - set(DEFAULT_OPTIONS))
    if unknown:
        known = ", ".join(DEFAULT_OPTIONS)
        raise ValueError(f"attention_options has no key {unknown[0]!r}; it has {known}")
    complete = {**DEFAULT_OPTIONS, **options}
    if complete["place"] not in PLACES:
        raise ValueError(f"place must be one of {', '.join(PLACES)}, got {complete['place']!r}")
    return complete


def chosen_blocks(blocks: object, num_blocks: int) -> list[int]:
    """Return the indices that the option `blocks` means, ascending.

    Raises:
        ValueError: if it is neither "all" nor indices of blocks.
    """
    chosen = list(range(num_blocks)) if blocks == "all" else blocks
    if (
        not isinstance(chosen, list | tuple)
        or not chosen
        or not all(type(i) is int and 0 <= i < num_blocks for i in chosen)
    ):
        raise ValueError(
            f"attention_options.blocks must be 'all' or indices in 0 .. {num_blocks - 1},"
            f" got {blocks!r}"
        )
    return sorted(set(chosen))


def make_attention_unit(
    unit: str | type[AttentionUnit],
    channels: int,
    num_extra_tokens: int,
    options: Mapping[str, Any],
    block_indices: Sequence[int] = (0,),
) -> AttentionUnit:
    """Build one attention unit; its initial weights come from `AttentionUnit.initialise`.

    Args:
        unit: one of `ATTENTION_NAMES` but "none", or a unit of your own: its class or its name.
        channels: D, the width of the tokens.
        num_extra_tokens: how many tokens stand before the patches.
        options: complete set of options, see `complete_options`; `shared`, `blocks`, `place` and
            `linear_init` are the caller's.
        block_indices: the blocks that the unit will serve.

    Raises:
        ValueError: for an unknown name, or options that do not fit the channels or the unit.
    """
    make: Callable[..., AttentionUnit]
    if isinstance(unit, str) and unit in CELLS:
        facts = UNITS[unit]
        make = partial(_make_recurrent, CELLS[unit], facts.activation)
    elif isinstance(unit, str) and unit in CLASSES:
        make, facts = CLASSES[unit], UNITS[unit]
    else:
        make = find_own_unit(unit)
        facts = facts_of_class(make)
    _refuse_options_without_effect(str(unit), facts, options)
    arguments = {key: options[key] for key in facts.options}
    for key, own in (("reduction", facts.reduction), ("groups", facts.groups)):
        if arguments.get(key) == 0:
            if own:
                arguments[key] = own_number(own, channels)
            else:  # a unit of the user's own, whose constructor knows
                del arguments[key]
    if "block_indices" in signature(make).parameters:
        arguments["block_indices"] = block_indices
    return make(
        channels,
        **arguments,
        pool=options["pool"],
        num_extra_tokens=num_extra_tokens,
        gate_init=options["gate_init"],
        gate_form=options["gate_form"],
    )


def _make_recurrent(
    cell_class: Callable[..., RecurrentCell],
    own_activation: str,
    channels: int,
    **options: Any,  # noqa: ANN401  # each checks its own
) -> RecurrentUnit:
    of_cell = {key: options.pop(key) for key in CELL_OPTIONS if key in options}
    if of_cell["activation"] == "default":
        of_cell["activation"] = own_activation
    return RecurrentUnit(cell_class(channels, **of_cell), **options)


def _refuse_options_without_effect(name: str, facts: UnitFacts, options: Mapping[str, Any]) -> None:
    option = set_without_effect(facts, options)
    if option is None:
        return
    owners = units_with(option)
    like = [other for other in DEFAULT_OPTIONS if units_with(other) == owners]
    are, has = ("are options", "neither") if len(like) > 1 else ("is an option", "none")
    raise ValueError(f"{' and '.join(like)} {are} of {', '.join(owners)}; {name} has {has}")
