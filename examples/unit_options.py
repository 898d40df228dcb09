"""The unit of an example's network: its flags, such as `--option reduction=16`, and its places."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from uvit_dia import share_attention
from uvit_dia.models.other_backbones.hooks import SharedAttention
from uvit_dia.models.units.registry import ATTENTION_NAMES
from uvit_dia.system.errors import InputError


def add_unit_arguments(made: argparse.ArgumentParser, choices: Sequence[str] | None = None) -> None:
    """Add the flags that choose a unit.

    Args:
        made: the parser of a command.
        choices: the units that may be named; None leaves it to `put_unit`, which knows more.
    """
    names = ", ".join(ATTENTION_NAMES)
    made.add_argument("--unit", default="none", choices=choices, help=names)
    made.add_argument("--unshared", action="store_true", help="one unit a block, not one a stage")
    made.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="of the unit"
    )


def unit_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a command line's unit.

    Raises:
        InputError: if one is not KEY=VALUE, or there is no unit that they could be of.
    """
    options = read_options(arguments.option)
    if arguments.unit == "none" and (options or arguments.unshared):
        raise InputError("--option and --unshared are of a unit; give --unit")
    return options


def put_unit(
    model: nn.Module, targets: Mapping[str, Any], unit: str, **options: object
) -> SharedAttention:
    """Put units into a network by `share_attention`.

    Raises:
        InputError: in its words, if unit or options are not ones that there are.
    """
    try:
        return share_attention(model, targets, unit, **options)
    except (ValueError, TypeError) as error:
        raise InputError(f"--unit {unit}: {error}") from error


def read_options(texts: list[str]) -> dict[str, object]:
    """Return the options of a unit: numbers where they read as numbers, words else.

    Raises:
        InputError: if one is not KEY=VALUE.
    """
    options: dict[str, object] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise InputError(f"--option {text}: must be KEY=VALUE, such as reduction=16")
        options[key] = value
        for kind in (int, float):
            try:
                options[key] = kind(value)
            except ValueError:
                continue
            break
    return options
