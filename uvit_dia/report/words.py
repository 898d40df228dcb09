"""Words, numbers and lists as readers see them. What is said the same way each time: words.toml."""

import math
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

WORDS: dict[str, Any] = tomllib.loads(Path(__file__).with_name("words.toml").read_text("utf-8"))
MAX_NAMED = 4
MINUS = "\N{MINUS SIGN}"
NBSP = "\N{NO-BREAK SPACE}"
NO_PLACES = 9  # so many decimals are no longer read: significant digits stand for them
LONG_NUMBER = 1e7


def words(*keys: str, **names: object) -> str:
    """Return a text of words.toml with names in its places, such as `words("tables", "cells")`."""
    text: Any = WORDS
    for key in keys:
        text = text[key]
    return str(text).format_map({"rule": WORDS["rule"], **WORDS["parts"], **names})


def shown(value: float, digits: int = 3) -> str:
    """Return a measured number with so many significant digits; a dash where there is none."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    text = f"{value:#.{digits}g}".removesuffix(".")
    if "e" in text:
        mantissa, exponent = text.split("e")
        text = f"{value:.0f}" if 0 <= int(exponent) < 7 else f"{mantissa}e{int(exponent)}"
    return text.replace("-", MINUS)


def places_for(low: float, high: float) -> int:
    """Return how many decimals an interval deserves: its half width keeps one or two digits.

    No end that is not 0 is rounded to 0. Without an interval: NO_PLACES.
    """
    half = (high - low) / 2
    if not (math.isfinite(half) and half > 0):
        return NO_PLACES
    places = max(0, math.ceil(math.log10(3 / half)))
    while places < NO_PLACES and any(end and not round(end, places) for end in (low, high)):
        places += 1
    return places


def shown_to(value: float, places: int) -> str:
    """Return a number with so many decimals; with significant digits where there are too many."""
    if not math.isfinite(value) or places >= NO_PLACES or abs(value) >= LONG_NUMBER:
        return shown(value)
    return f"{round(value, places) + 0.0:.{places}f}".replace("-", MINUS)


def shown_interval_to(low: float, high: float, places: int) -> str:
    """Return an interval with so many decimals, or a dash."""
    if math.isnan(low) or math.isnan(high):
        return "–"
    return f"{shown_to(low, places)} to {shown_to(high, places)}"


def capital(text: str) -> str:
    """Return a text that begins with a capital letter."""
    return text[:1].upper() + text[1:]


def shown_mean(value: float, places: int) -> str:
    """Return a number with so many decimals, or more where it would have under three digits."""
    if not math.isfinite(value) or not value:
        return shown(value)
    return shown_to(value, max(places, 2 - math.floor(math.log10(abs(value)))))


def shown_change(difference: float, base: float) -> str:
    """Return a difference relative to a positive value, as "+3.5%" or "−39%"; else ""."""
    if not base > 0 or not math.isfinite(difference / base):
        return ""
    return f"{'+' if difference > 0 else ''}{shown(100 * difference / base, 2)}%"


def shown_with_spread(mean: float, spread: float) -> str:
    """Return "1.234 ± 0.056", or the mean alone where no spread is known."""
    return shown(mean, 4) if math.isnan(spread) else f"{shown(mean, 4)} ± {shown(spread, 2)}"


def shown_p(p: float) -> str:
    """Return "p = 0.012" or "p < 0.0001", which does not break over lines."""
    return f"p{NBSP}<{NBSP}0.0001" if p < 0.0001 else f"p{NBSP}={NBSP}{shown(p, 2)}"


def shown_interval(low: float, high: float, digits: int = 3) -> str:
    """Return "0.12 to 0.34", or a dash."""
    if math.isnan(low) or math.isnan(high):
        return "–"
    return f"{shown(low, digits)} to {shown(high, digits)}"


def shown_count(count: int | None) -> str:
    """Return a number of seeds as exactly as it is known."""
    if count is None:
        return "more than 100,000"
    return str(count) if count < 100 else f"{float(f'{count:.2g}'):,.0f}"


def plural(count: int, noun: str, nouns: str = "") -> str:
    """Return "1 seed" or "3 seeds"; `nouns` is a plural that needs more than an s."""
    return f"{count} {noun}" if count == 1 else f"{count} {nouns or noun + 's'}"


def joined(names: Iterable[object], last: str = " and ") -> str:
    """Return "a", "a and b" or "a, b and c"."""
    *head, tail = [str(name) for name in names] or ["none"]
    return ", ".join(head) + last + tail if head else tail


def short_list(variants: Sequence[str], last: str = " and ") -> str:
    """Return a few names as `joined` does; of many only their number."""
    if len(variants) <= MAX_NAMED:
        return joined(variants, last)
    return f"{len(variants)} variants"
