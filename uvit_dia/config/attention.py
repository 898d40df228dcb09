"""The options of the attention unit: a group of a run's config.

A key that is not in older configs has the value with which their runs mean the same.
"""

from dataclasses import dataclass

from uvit_dia.config.fields import Group, key
from uvit_dia.config.rules import BLOCKS, boolean, choice, integer, number
from uvit_dia.config.units import (
    ACTIVATIONS,
    DEFAULT_OPTIONS,
    GATE_FORMS,
    GATE_INITS,
    LINEAR_INITS,
    NORMALISATIONS,
    PLACES,
    POOLS,
    VARIANCES,
)


@dataclass(frozen=True, kw_only=True)
class AttentionOptions(Group, prefix="model.attention_options."):
    """How the attention unit is built; not every unit takes every option."""

    shared: bool = key(boolean(), "One unit for all blocks (DIA), or one a block")
    reduction: int = key(
        integer(0, 65536), "Ratio r of the bottleneck in the unit; 0 for what its authors have"
    )
    groups: int = key(
        integer(0, 65536), "Groups of channels in sge; 0 for what its authors have, 64"
    )
    activation: str = key(
        choice("default", *ACTIVATIONS),
        "Activation of a cell's output; default is tanh for lstm, sigmoid for the DIA cells",
    )
    num_cells: int = key(integer(1, 64), "Stacked cells of a recurrent unit")
    pool: str = key(choice(*POOLS), "Tokens that the unit pools; patches leaves the time token out")
    blocks: str | tuple[int, ...] = key(BLOCKS, "Blocks that carry the unit")
    gate_init: str = key(
        choice(*GATE_INITS),
        "How the gate starts: as the paper's equations, about 0.25; as the identity; or rescaled,"
        " the paper's over its start",
    )
    gate_form: str = key(
        choice(*GATE_FORMS),
        "The gate: the attention map h, h over its mean over the channels, or 1 + a (h - its start)"
        " with weights a that start at 0",
        absent=DEFAULT_OPTIONS["gate_form"],
    )
    place: str = key(
        choice(*PLACES),
        "Where the unit stands: at the input of the MLP (Fig. 7) or at its output (Eq. 4)",
        absent=DEFAULT_OPTIONS["place"],
    )
    linear_init: str = key(
        choice(*LINEAR_INITS),
        "How the unit's Linear layers start: normal of 0.02, or as torch draws them",
        absent=DEFAULT_OPTIONS["linear_init"],
    )
    time_first_state: bool = key(
        boolean(),
        "Whether a recurrent unit's first state is a Linear layer of the time token, and not 0",
        absent=DEFAULT_OPTIONS["time_first_state"],
    )
    forget_bias: float = key(
        number(-10, 10),
        "Added to the biases of the forget gates when a recurrent unit starts",
        absent=DEFAULT_OPTIONS["forget_bias"],
    )
    variance: str = key(
        choice(*VARIANCES),
        "Variance in srm; its authors have the unbiased one",
        absent=DEFAULT_OPTIONS["variance"],
    )
    normalisation: str = key(
        choice(*NORMALISATIONS),
        "Batch normalisations in srm and cbam; default is one a block in srm and none in cbam",
        absent=DEFAULT_OPTIONS["normalisation"],
    )
    mixture_penalty: float = key(
        number(0, 1e6),
        "Weight of spem's penalty in the training loss; its authors have 0.1",
        absent=DEFAULT_OPTIONS["mixture_penalty"],
    )
    constant: float = key(
        number(0, 16, above_low=True),
        "The gate of the unit constant",
        absent=DEFAULT_OPTIONS["constant"],
    )
