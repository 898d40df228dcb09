"""Units of a user's own: registered by a name, or named as "my_module:MyUnit".

Nothing is imported here. A name comes from a run's `config.json`, too, which others may have
written; only `config.own_units`, which commands call for what their user typed, imports.
"""

import sys
from inspect import signature
from typing import TypeGuard

from uvit_dia.config.units import DEFAULT_OPTIONS, UNITS, UnitFacts, is_own_unit, units_with
from uvit_dia.models.units.protocol import AttentionUnit

_registered: dict[str, type[AttentionUnit]] = {}


def register_unit(name: str, unit: type[AttentionUnit]) -> None:
    """Give a unit a name under which `model.attention` and `share_attention` find it.

    A process that reads a run with this unit must register it, too.

    Args:
        name: an identifier that no other unit has.
        unit: the class, derived from `AttentionUnit`, most easily from `ChannelUnit`. Its
            constructor takes `channels`, the options that it wants of `attention_options`, and
            passes on `**options`.

    Raises:
        ValueError: if the name is taken or no identifier.
        TypeError: if the class is no unit.
    """
    if not name.isidentifier() or name == "none":
        raise ValueError(f"a unit's name must be an identifier other than 'none', got {name!r}")
    known = _registered.get(name)
    is_same = known is not None and _origin(known) == _origin(unit)  # a module that is reloaded
    if name in UNITS and not is_same:
        raise ValueError(f"there is a unit {name!r} already: choose another name")
    if not _is_unit(unit):
        raise TypeError(f"{unit!r} must be a class that derives from uvit_dia.AttentionUnit")
    _registered[name] = unit
    UNITS[name] = facts_of_class(unit)


def find_own_unit(unit: str | type[AttentionUnit]) -> type[AttentionUnit]:
    """Return the class of a unit of the user's own.

    Args:
        unit: the class itself, a registered name, or "my_module:MyUnit" of a module that is
            imported already.

    Raises:
        ValueError: if there is none, or its module is not imported.
    """
    if not isinstance(unit, str):
        if not _is_unit(unit):
            raise ValueError(f"{unit!r} must be a class that derives from uvit_dia.AttentionUnit")
        return unit
    if unit in _registered:
        return _registered[unit]
    if not is_own_unit(unit):
        known = ", ".join(("none", *UNITS))
        raise ValueError(f"attention must be one of {known}, or module:Class; got {unit!r}")
    module_name, _, class_name = unit.partition(":")
    if module_name not in sys.modules:
        raise ValueError(
            f"attention {unit!r} is code that is not imported; if you trust it, import"
            f" {module_name} first, or give --import {module_name}"
        )
    found: object = sys.modules[module_name]
    for part in class_name.split("."):
        # getattr could run the code of a module that makes its attributes when they are asked for
        found = getattr(found, "__dict__", {}).get(part)
    if not _is_unit(found):
        raise ValueError(
            f"attention {unit!r}: {module_name} has no class {class_name} that derives from"
            " uvit_dia.AttentionUnit"
        )
    return found


def facts_of_class(unit: type[AttentionUnit]) -> UnitFacts:
    """Return what the config has to know of a class: the options that its constructor names."""
    parameters = signature(unit).parameters
    return UnitFacts(
        options=tuple(key for key in DEFAULT_OPTIONS if units_with(key) and key in parameters),
        normalises_over_images=unit.normalises_over_images,
        has_running_averages=unit.has_running_averages,
    )


def _is_unit(value: object) -> TypeGuard[type[AttentionUnit]]:
    return isinstance(value, type) and issubclass(value, AttentionUnit)


def _origin(unit: type) -> tuple[str, str]:
    return unit.__module__, unit.__qualname__
