"""The table of attention units: what each of them says of itself, without importing it.

Who needs to know something about a unit asks here, and never compares its name.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class UnitFacts:
    """What is special about a unit.

    Attributes:
        options: which of `model.attention_options` it takes beside shared, pool, blocks and
            gate_init, which every unit takes.
        is_recurrent: whether a state passes from block to block.
        normalises_over_images: whether it normalises over the images of a batch while it trains. It
            needs two images or more at a time, and the gradient of an image depends on the others.
        has_running_averages: whether a forward pass in training moves buffers, which gradient
            checkpointing would move a second time.
    """

    options: tuple[str, ...] = ()
    is_recurrent: bool = False
    normalises_over_images: bool = False
    has_running_averages: bool = False


_CELL = ("activation", "num_cells")

UNITS: dict[str, UnitFacts] = {
    "lstm": UnitFacts(_CELL, is_recurrent=True),
    "dia_lstm": UnitFacts(("reduction", *_CELL), is_recurrent=True),
    "dia_lstm_light": UnitFacts(("reduction", *_CELL), is_recurrent=True),
    "se": UnitFacts(("reduction",)),
    "eca": UnitFacts(),
    "cbam": UnitFacts(("reduction",)),
    "srm": UnitFacts(normalises_over_images=True, has_running_averages=True),
    "spa": UnitFacts(("reduction",)),
    "sge": UnitFacts(("groups",)),
    "spem": UnitFacts(),
    "sem": UnitFacts(("reduction",)),
}


def facts_of(attention: str) -> UnitFacts | None:
    """Return the facts of a `model.attention`; None for "none" and for unknown units."""
    return UNITS.get(attention)


def normalises_over_images(attention: str) -> bool:
    """Say whether a `model.attention` normalises over the images of a batch."""
    facts = facts_of(attention)
    return facts is not None and facts.normalises_over_images


def units_with(option: str) -> tuple[str, ...]:
    """Return the names of the units that take an option."""
    return tuple(name for name, facts in UNITS.items() if option in facts.options)


def is_own_unit(attention: object) -> bool:
    """Say whether a text names a unit of a user's own, such as "my_module:MyUnit"."""
    if not isinstance(attention, str) or attention.count(":") != 1 or len(attention) > 256:
        return False
    return all(part.isidentifier() for part in attention.replace(":", ".").split("."))
