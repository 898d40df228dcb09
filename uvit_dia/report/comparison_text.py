"""Comparisons in plain sentences: what the seeds show, how large, how sure, and what more would take."""

import math
from collections.abc import Iterable

from uvit_dia.report.comparisons import HIGHER, LOWER, UNSETTLED, UNTESTED, Comparison, Side
from uvit_dia.report.statistics import ALPHA

MINUS = "\N{MINUS SIGN}"
NBSP = "\N{NO-BREAK SPACE}"


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


def shown_p(p: float) -> str:
    """Return "p = 0.012" or "p < 0.0001", which does not break over lines."""
    return f"p{NBSP}<{NBSP}0.0001" if p < 0.0001 else f"p{NBSP}={NBSP}{shown(p, 2)}"


def shown_interval(low: float, high: float, digits: int = 3) -> str:
    """Return "0.12 to 0.34", or a dash."""
    if math.isnan(low) or math.isnan(high):
        return "–"
    return f"{shown(low, digits)} to {shown(high, digits)}"


def plural(count: int, noun: str) -> str:
    """Return "1 seed" or "3 seeds"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def joined(names: Iterable[object], last: str = " and ") -> str:
    """Return "a", "a and b" or "a, b and c"."""
    *head, tail = [str(name) for name in names] or ["none"]
    return ", ".join(head) + last + tail if head else tail


def headline(comparison: Comparison, metric: str) -> str:
    """Return the answer of a comparison in a few words."""
    ours, base = comparison.ours.variant, comparison.base.variant
    return {
        LOWER: f"{ours} has the lower (better) {metric}.",
        HIGHER: f"{ours} has the higher (worse) {metric}.",
        UNSETTLED: "The two tests disagree; these seeds do not settle it.",
        UNTESTED: "No test can be made.",
    }.get(comparison.verdict, f"No difference from {base} that these seeds can show.")


def sentence(comparison: Comparison) -> str:
    """Return a comparison in plain words, headline left out: direction, size, certainty, what more would take."""
    parts = [_means(comparison)]
    if comparison.verdict == UNTESTED:
        parts.append(_why_untested(comparison))
    else:
        parts += [_tests(comparison), _what_it_takes(comparison)]
        parts += [_spread_warning(side) for side in (comparison.ours, comparison.base)]
    parts += [_divergences(comparison), _missing(comparison)]
    return " ".join(part for part in parts if part)


def _means(c: Comparison) -> str:
    ours, base = c.ours.summary, c.base.summary
    if not ours.n or not base.n:
        return ""
    text = (
        f"{c.ours.variant} {shown(ours.mean, 4)}, {c.base.variant} {shown(base.mean, 4)} ({_seeds(c)}): a "
        f"difference of {shown(c.difference)}"
    )
    if not math.isnan(c.low):
        text += f", 95% interval {shown_interval(c.low, c.high)}"
    return text + "."


def _seeds(c: Comparison) -> str:
    ours, base = c.ours.summary.n, c.base.summary.n
    return (
        f"{plural(ours, 'seed')} a side" if ours == base else f"{ours} and {plural(base, 'seed')}"
    )


def _why_untested(c: Comparison) -> str:
    sides = (c.ours, c.base)
    empty = [side.variant for side in sides if not side.summary.n]
    if empty:
        return f"There is no value of {' and '.join(empty)} to compare."
    single = [side.variant for side in sides if side.summary.n == 1]
    if single:
        return (
            f"With one seed of {' and '.join(single)} nothing says whether this is more than chance; "
            "a test needs at least two seeds a side."
        )
    return (
        "All seeds of a side gave exactly the same value, so there is no spread to hold the difference against; "
        "see whether the seed changes anything."
    )


def _tests(c: Comparison) -> str:
    text = f"{shown_p(c.student_holm)} by Student's test, {shown_p(c.welch_holm)} by Welch's"
    if c.num_tests > 1:
        text += f", after Holm's correction over {c.num_tests} batch sizes"
    text += f"; Hedges' g{NBSP}{shown(c.effect.g)}, 95% interval {shown_interval(c.effect.low, c.effect.high)}."
    if c.verdict == UNSETTLED:
        text += " Student's test takes the two spreads for equal, Welch's does not."
    elif c.verdict not in (LOWER, HIGHER) and c.student.p < ALPHA:
        text += (
            f" Uncorrected, Student's {shown_p(c.student.p)} would pass for a finding; among {c.num_tests} tests "
            "such a value comes up by chance too often."
        )
    return text


def _what_it_takes(c: Comparison) -> str:
    """Say how many seeds an effect of the measured size needs, and what these seeds could have found."""
    if c.verdict in (LOWER, HIGHER, UNSETTLED):
        needed = _with_strict(c, _rounded(c.needed), _rounded(c.needed_strict))
        return f"About {needed} seeds a side find an effect of this size four times in five."
    detectable = _with_strict(c, shown(c.detectable), shown(c.detectable_strict))
    text = (
        f"Equal they need not be: with the spread measured here {_seeds(c)} find, four times in five, only "
        f"differences above {detectable}"
    )
    if c.needed is None:
        return f"{text}; one as small as that measured is out of reach."
    needed = _with_strict(c, _rounded(c.needed), _rounded(c.needed_strict))
    return f"{text}; one of the measured size would take about {needed} seeds a side."


def _rounded(count: int | None) -> str:
    """Return a number of seeds as exactly as it is known."""
    if count is None:
        return "more than 100,000"
    return str(count) if count < 100 else f"{float(f'{count:.2g}'):,.0f}"


def _with_strict(c: Comparison, plain: str, strict: str) -> str:
    """Return a range: what one test at 0.05 takes, to what the strictest step of Holm's correction takes."""
    return plain if c.num_tests < 2 or plain == strict else f"{plain} to {strict}"


def _spread_warning(side: Side) -> str:
    if not side.has_no_spread:
        return ""
    return (
        f"All {side.summary.n} seeds of {side.variant} gave exactly the same value, which real training "
        "seldom does."
    )


def _divergences(c: Comparison) -> str:
    ours, base = c.ours, c.base
    if not ours.diverged and not base.diverged:
        return ""
    ended = [side.summary.n + side.diverged for side in (ours, base)]
    text = (
        f"Diverged: {ours.diverged} of {plural(ended[0], 'seed')} of {ours.variant}, {base.diverged} of "
        f"{ended[1]} of {base.variant}"
    )
    if not math.isnan(c.fisher_p):
        text += f" (Fisher's exact test: {shown_p(c.fisher_p)})"
    if ours.summary.n and base.summary.n:
        text += "; the means are over the survivors, which flatters the side that lost more"
    return text + "."


def _missing(c: Comparison) -> str:
    missing = [side for side in (c.ours, c.base) if side.missing]
    if not missing:
        return ""
    told = " and ".join(f"{side.missing} of {side.planned} of {side.variant}" for side in missing)
    return f"Planned seeds still without a comparable value: {told}."
