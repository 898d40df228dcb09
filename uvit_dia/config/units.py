"""The table of attention units: what each of them says of itself, without importing it.

Who needs to know something about a unit asks here, and never compares its name.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class UnitFacts:
    """What is special about a unit.

    Attributes:
        options: which of `model.attention_options` it takes beside shared, pool, blocks, gate_init,
            gate_form, place and linear_init, which every unit takes.
        reduction: r where the option is 0: what the unit's authors have, lowered to what divides
            the channels.
        groups: G where the option is 0, likewise.
        activation: of a recurrent cell, what "default" means.
        is_recurrent: whether a state passes from block to block.
        starts_constant: whether a fresh unit gives the same attention map for any input.
        normalises_over_images: whether it normalises over the images of a batch while it trains. It
            needs two images or more at a time, and the gradient of an image depends on the others.
        has_running_averages: whether a forward pass in training moves buffers, which gradient
            checkpointing would move a second time.
    """

    options: tuple[str, ...] = ()
    reduction: int = 0
    groups: int = 0
    activation: str = ""
    is_recurrent: bool = False
    starts_constant: bool = False
    normalises_over_images: bool = False
    has_running_averages: bool = False


_CELL = ("activation", "num_cells", "time_first_state", "forget_bias")

UNITS: dict[str, UnitFacts] = {
    "lstm": UnitFacts(_CELL, activation="tanh", is_recurrent=True),
    "dia_lstm": UnitFacts(
        ("reduction", *_CELL), reduction=4, activation="sigmoid", is_recurrent=True
    ),
    "dia_lstm_light": UnitFacts(
        ("reduction", *_CELL), reduction=4, activation="sigmoid", is_recurrent=True
    ),
    "se": UnitFacts(("reduction",), reduction=16),
    "eca": UnitFacts(),
    "cbam": UnitFacts(("reduction", "normalisation"), reduction=16),
    "srm": UnitFacts(
        ("variance", "normalisation"),
        starts_constant=True,
        normalises_over_images=True,
        has_running_averages=True,
    ),
    "spa": UnitFacts(("reduction",), reduction=16),
    "sge": UnitFacts(("groups",), groups=64, starts_constant=True),
    "spem": UnitFacts(("mixture_penalty",), starts_constant=True),
    "sem": UnitFacts(("reduction",), reduction=16),
    "constant": UnitFacts(("constant",)),
}

# What the options of words may be.
ACTIVATIONS = ("sigmoid", "tanh", "relu")
POOLS = ("all", "patches")
GATE_INITS = ("paper", "identity", "rescaled")
GATE_FORMS = ("h", "mean_one", "residual")
PLACES = ("mlp_input", "mlp_output")
LINEAR_INITS = ("u_vit", "torch")
VARIANCES = ("biased", "unbiased")
NORMALISATIONS = ("default", "block", "shared")

# What `attention_options` means where it does not say: the unit that older configs describe.
DEFAULT_OPTIONS: dict[str, object] = {
    "shared": True,
    "reduction": 0,  # the unit's own
    "groups": 0,  # the unit's own
    "activation": "default",  # what the paper's cell has
    "num_cells": 1,
    "pool": "all",
    "blocks": "all",
    "gate_init": "paper",
    "gate_form": "h",
    "place": "mlp_input",
    "linear_init": "u_vit",
    "time_first_state": False,
    "forget_bias": 0.0,
    "variance": "biased",
    "normalisation": "default",
    "mixture_penalty": 0.0,
    "constant": 0.25,
}


def facts_of(attention: str) -> UnitFacts | None:
    """Return the facts of a `model.attention`; None for "none" and for unknown units."""
    return UNITS.get(attention)


def normalises_over_images(attention: str) -> bool:
    """Say whether a `model.attention` normalises over the images of a batch."""
    facts = facts_of(attention)
    return facts is not None and facts.normalises_over_images


def moves_averages(attention: str, normalisation: str) -> bool:
    """Say whether a forward pass in training moves buffers of a unit with this option."""
    facts = facts_of(attention)
    return facts is not None and (facts.has_running_averages or normalisation != "default")


def units_with(option: str) -> tuple[str, ...]:
    """Return the names of the units that take an option."""
    return tuple(name for name, facts in UNITS.items() if option in facts.options)


def set_without_effect(attention: str, options: Mapping[str, object]) -> str | None:
    """Return an option that is set and that the unit does not take, or None.

    `reduction` and `groups` are let through: older configs set them whatever the unit is.
    """
    facts = facts_of(attention)
    for name, default in DEFAULT_OPTIONS.items():
        is_limited = units_with(name) and name not in ("reduction", "groups")
        is_taken = facts is None or name in facts.options
        if is_limited and not is_taken and options[name] != default:
            return name
    return None


def own_number(authors: int, channels: int) -> int:
    """Return the authors' r or G, lowered to what divides a width: the largest common divisor."""
    return math.gcd(authors, channels)


def is_own_unit(attention: object) -> bool:
    """Say whether a text names a unit of a user's own, such as "my_module:MyUnit"."""
    if not isinstance(attention, str) or attention.count(":") != 1 or len(attention) > 256:
        return False
    return all(part.isidentifier() for part in attention.replace(":", ".").split("."))
