"""What the value of a config key may be: a check, its words in messages, how a flag is read."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from uvit_dia.config.units import UNITS, is_own_unit

MAX_COUNT = 10**9
REQUIRED: Any = object()  # the `absent` of a key that must be there


@dataclass(frozen=True)
class Rule:
    """What a key may hold.

    Attributes:
        allowed: the allowed values in words, after "allowed is".
        fits: says whether a value is allowed.
        parse: makes a value from the text of a flag and the value that the key has without the flag
            (None for none), whose type it keeps where two types are allowed; ValueError for a text
            that means no value.
        is_switch: whether the flag may stand without a value, for True, and as `--noconfig.KEY`.
        meaning: one line for the help.
        unit: of a number, in the plural; "" for none.
        absent: what a config without this key means; REQUIRED where the key must be there.
    """

    allowed: str
    fits: Callable[[object], bool]
    parse: Callable[[str, object], object]
    is_switch: bool = False
    meaning: str = ""
    unit: str = ""
    absent: object = REQUIRED


def integer(low: int, high: int = MAX_COUNT) -> Rule:
    """Allow an integer in [low, high]."""

    def fits(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return Rule(f"an integer from {low} to {high}", fits, lambda text, _: int(text))


def number(low: float, high: float, *, above_low: bool = False) -> Rule:
    """Allow an integer or a float in [low, high], or in (low, high]; no NaN."""

    def fits(value: object) -> bool:
        return (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and low <= value <= high  # false for NaN, and exact for integers of any size
            and not (above_low and value == low)
        )

    def parse(text: str, present: object) -> int | float:
        is_integer = isinstance(present, int) and text.strip().lstrip("+-").isdecimal()
        return int(text) if is_integer else float(text)

    return Rule(f"a number {'above' if above_low else 'from'} {low:g} to {high:g}", fits, parse)


def choice(*names: str) -> Rule:
    """Allow one of some texts."""

    def fits(value: object) -> bool:
        return isinstance(value, str) and value in names

    return Rule("one of " + ", ".join(names), fits, lambda text, _: text)


def text() -> Rule:
    """Allow any text of at most 4,096 characters."""

    def fits(value: object) -> bool:
        return isinstance(value, str) and len(value) <= 4096

    return Rule("a text", fits, lambda text, _: text)


def colour() -> Rule:
    """Allow white, black, or a colour in hexadecimal digits."""

    def fits(value: object) -> bool:
        names = "white|black|#[0-9a-fA-F]{6}"
        return isinstance(value, str) and re.fullmatch(names, value) is not None

    return Rule("white, black or #rrggbb", fits, lambda text, _: text)


def boolean(*words: str) -> Rule:
    """Allow True, False, and the given words, such as "auto"."""

    def fits(value: object) -> bool:
        return isinstance(value, bool) or (isinstance(value, str) and value in words)

    def parse(text: str, _: object) -> bool | str:
        if text in words:
            return text
        if text.lower() in ("true", "t", "1"):
            return True
        if text.lower() in ("false", "f", "0"):
            return False
        raise ValueError(f"neither true nor false: {text}")

    *first, last = "True", "False", *words
    return Rule(f"{', '.join(first)} or {last}", fits, parse, is_switch=True)


def sequence(allowed: str, fits_items: Callable[[tuple], bool]) -> Rule:
    """Allow a tuple or list whose items, as a tuple, fit; as a flag `a,b` or `(a, b)`."""

    def fits(value: object) -> bool:
        return isinstance(value, tuple | list) and fits_items(tuple(value))

    return Rule(allowed, fits, lambda text, _: parse_items(text))


def parse_items(text: str) -> tuple[object, ...]:
    """Read the items of a flag such as `(0.9, 0.99)` or `fid,kid`: numbers, True, False, or texts.

    >>> parse_items("(0.9, 1)"), parse_items("('fid',)"), parse_items("")
    ((0.9, 1), ('fid',), ())
    """
    items = [item.strip() for item in text.strip().strip("()[]").split(",")]
    if items[-1] == "":  # the comma of a tuple of one
        items.pop()
    return tuple(_parse_item(item) for item in items)


def _parse_item(text: str) -> object:
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip("'\"")


# ---------------------------------------------------------------- single keys


HELD_OUT_LOSS = "held_out_loss"
DISTANCES = ("fid", "kid", "isc", "prc")  # of sampled images, as torch-fidelity names them
METRICS = (*DISTANCES, HELD_OUT_LOSS)


def parse_blocks(value: object) -> Literal["all"] | list[int]:
    """Read `attention_options.blocks`: "all", a text such as "0,1,2", or a sequence of ints.

    Raises:
        ValueError: if it is none of these.
    """
    if value == "all":
        return "all"
    parts = value.strip("()[], ").split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or any(isinstance(p, bool | float) for p in parts):
        raise ValueError(f"not a list of block indices: {value!r}")
    indices = sorted({int(part) for part in parts})
    if not indices or indices[0] < 0:
        raise ValueError(f"not a list of block indices: {value!r}")
    return indices


def _are_blocks(value: object) -> bool:
    try:
        parse_blocks(value)
    except (ValueError, TypeError):
        return False
    return True


BLOCKS = Rule(
    "'all' or block indices such as '0,1,2'",
    _are_blocks,
    lambda text, present: parse_items(text) if isinstance(present, tuple) else text,
)
ATTENTION = Rule(
    f"none, {', '.join(UNITS)} or MODULE:CLASS",
    lambda value: isinstance(value, str) and (value in ("none", *UNITS) or is_own_unit(value)),
    lambda text, _: text,
)
_BETA = number(0, 0.999999)
BETAS = sequence(
    "two numbers from 0 to below 1", lambda items: len(items) == 2 and all(map(_BETA.fits, items))
)
METRIC_NAMES = sequence(
    f"a tuple of {', '.join(METRICS)}, with one of the first four at least",
    lambda items: any(i in DISTANCES for i in items) and all(name in METRICS for name in items),
)
