"""Comparisons in plain sentences: what the seeds show, how large, how sure, what it would take."""

import math
from collections.abc import Iterable, Sequence

from uvit_dia.report.comparisons import HIGHER, LOWER, NOT_SHOWN, NOT_TESTED, Comparison
from uvit_dia.report.statistics import ALPHA
from uvit_dia.report.words import (
    NBSP,
    joined,
    plural,
    shown,
    shown_count,
    shown_interval,
    shown_p,
    words,
)


def answer(comparisons: Sequence[Comparison], metric: str) -> str:
    """Return what all comparisons say together, in one sentence."""
    baseline = comparisons[0].base.variant
    lower, higher, silent, untested = (
        [c for c in comparisons if c.verdict == verdict]
        for verdict in (LOWER, HIGHER, NOT_SHOWN, NOT_TESTED)
    )
    if len(untested) == len(comparisons):
        return f"Not known: no comparison with {baseline} could be tested."
    if lower or higher:
        found = [f"lower (better) for {_where(lower)}"] if lower else []
        found += [f"higher (worse) for {_where(higher)}"] if higher else []
        text = f"Against {baseline}, {metric} is {joined(found)}"
        if silent:
            show = "shows" if len(silent) == 1 else "show"
            text += f"; {plural(len(silent), 'other comparison')} {show} no difference"
    else:
        many = f"none of {len(silent)} comparisons shows"
        one = "the comparison does not show"
        text = f"Not that these seeds can show: {many if len(silent) > 1 else one}"
        text += f" a difference from {baseline}"
    return f"{text}; {len(untested)} could not be tested." if untested else f"{text}."


def _where(comparisons: Iterable[Comparison]) -> str:
    """Return "dia_lstm at batch size 8 and 16, relu and tanh at batch size 8"."""
    sizes: dict[str, list[int]] = {}
    for c in comparisons:
        sizes.setdefault(c.ours.variant, []).append(c.batch_size)
    variants: dict[str, list[str]] = {}
    for variant, found in sizes.items():
        variants.setdefault(joined(found), []).append(variant)
    return ", ".join(f"{joined(same)} at batch size {size}" for size, same in variants.items())


def reach(comparisons: Sequence[Comparison], metric: str) -> str:
    """Return which differences the seeds of a sweep find at the correction's strictest step."""
    limits = [c.detectable(c.strictest) for c in comparisons if c.verdict != NOT_TESTED]
    if not limits:
        return words("summary", "no_reach")
    found = _to(*(shown(limit, 2) for limit in (min(limits), max(limits))))
    return words("summary", "reach", metric=metric, limits=found)


def headline(comparison: Comparison, metric: str) -> str:
    """Return the answer of a comparison in a few words."""
    return _words(comparison, comparison.verdict, "headlines", metric=metric)


def sentence(comparison: Comparison) -> str:
    """Return a comparison without its headline: direction, size, certainty, what it would take."""
    c, parts = comparison, []
    if c.ours.summary.n and c.base.summary.n:
        parts.append(_means(c))
    if c.verdict == NOT_TESTED:
        parts.append(_why_untested(c))
    else:
        parts += [_tests(c), _what_it_takes(c)]
        parts += [
            _words(c, "one_value", count=side.summary.n, variant=side.variant)
            for side in (c.ours, c.base)
            if side.has_no_spread
        ]
    if c.ours.diverged or c.base.diverged:
        parts.append(_divergences(c))
    if missing := [side for side in (c.ours, c.base) if side.missing]:
        sides = (f"{side.missing} of {side.planned} of {side.variant}" for side in missing)
        parts.append(_words(c, "missing", sides=" and ".join(sides)))
    return " ".join(parts)


def _words(c: Comparison, name: str, group: str = "comparison", **names: object) -> str:
    return words(group, name, ours=c.ours.variant, base=c.base.variant, **names)


def _means(c: Comparison) -> str:
    means = {"ours_mean": c.ours.summary.mean, "base_mean": c.base.summary.mean}
    told = {name: shown(mean, 4) for name, mean in means.items()}
    text = _words(c, "means", difference=shown(c.difference), seeds=_seeds(c), **told)
    if not math.isnan(c.decisive.low):
        text += _words(c, "interval", interval=shown_interval(c.decisive.low, c.decisive.high))
    return f"{text}."


def _seeds(c: Comparison) -> str:
    ours, base = c.ours.summary.n, c.base.summary.n
    if c.is_paired:
        return f"{ours} pairs of seeds"
    return (
        f"{plural(ours, 'seed')} a side" if ours == base else f"{ours} and {plural(base, 'seed')}"
    )


def _why_untested(c: Comparison) -> str:
    sides = (c.ours, c.base)
    for count, name in ((0, "without_value"), (1, "single")):
        variants = [side.variant for side in sides if side.summary.n == count]
        if variants:
            return _words(c, name, variants=" and ".join(variants))
    is_flat = all(side.has_no_spread for side in sides)
    return _words(c, "without_spread" if is_flat else "same_difference")


def _tests(c: Comparison) -> str:
    test = "the paired t-test" if c.is_paired else "Welch's t-test"
    beside = f"Student's {shown_p(c.student.p)}"
    if c.is_paired:
        beside += f", Welch's {shown_p(c.welch.p)}"
    if c.num_tests > 1:
        test += f" after Holm's correction over {c.num_tests} comparisons"
        beside = f"uncorrected {shown_p(c.decisive.p)}; {beside}"
    size = {"g": f"Hedges' g{NBSP}{shown(c.effect.g)}"}
    size["g_interval"] = shown_interval(c.effect.low, c.effect.high)
    text = _words(c, "tests", p=shown_p(c.p), test=test, beside=beside, **size)
    if c.verdict == NOT_SHOWN and c.decisive.p < ALPHA:
        text += " " + _words(c, "uncorrected", count=c.num_tests)
    return text


def _what_it_takes(c: Comparison) -> str:
    """Say how many seeds an effect of the measured size needs, and what these could have found."""
    needed = _to(shown_count(c.needed()), shown_count(c.needed(c.strictest)))
    if c.verdict in (LOWER, HIGHER):
        return _words(c, "found_by_two" if c.needed() is None else "found", needed=needed)
    detectable = _to(shown(c.detectable()), shown(c.detectable(c.strictest)))
    text = _words(c, "not_equal", seeds=_seeds(c), detectable=detectable)
    if c.needed() is not None:
        return text + _words(c, "would_take", needed=needed)
    is_two = c.is_paired and c.ours.summary.n == 2
    return text + _words(c, "two_pairs" if is_two else "out_of_reach")


def _to(first: str, last: str) -> str:
    return first if first == last else f"{first} to {last}"


def _divergences(c: Comparison) -> str:
    ours, base = c.ours, c.base
    ended = [side.summary.n + side.diverged for side in (ours, base)]
    text = _words(
        c,
        "diverged",
        ours_lost=ours.diverged,
        ours_ended=plural(ended[0], "seed"),
        base_lost=base.diverged,
        base_ended=ended[1],
    )
    if not math.isnan(c.fisher_p):
        text += f" (Fisher's exact test: {shown_p(c.fisher_p)})"
    if ours.summary.n and base.summary.n:
        text += _words(c, "survivors")
    return text + "."
