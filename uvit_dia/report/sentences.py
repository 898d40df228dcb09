"""Comparisons in plain sentences: what the seeds show, how large, how sure, what it would take."""

import math
from collections.abc import Iterable, Sequence

from uvit_dia.report.comparisons import HIGHER, LOWER, NOT_SHOWN, NOT_TESTED, Comparison
from uvit_dia.report.statistics import ALPHA
from uvit_dia.report.words import (
    MAX_NAMED,
    joined,
    places_for,
    plural,
    shown,
    shown_change,
    shown_count,
    shown_interval_to,
    shown_mean,
    shown_p,
    shown_to,
    words,
)


def answer(comparisons: Sequence[Comparison], metric: str) -> str:
    """Return what all comparisons say together, in a few short sentences."""
    baseline = comparisons[0].base.variant
    is_one_size = len({c.batch_size for c in comparisons}) == 1
    lower, higher, silent, untested = (
        [c for c in comparisons if c.verdict == verdict]
        for verdict in (LOWER, HIGHER, NOT_SHOWN, NOT_TESTED)
    )
    if len(untested) == len(comparisons):
        return words("answer", "untested", base=baseline)
    if lower or higher:
        found = [
            f"{told} for {_where(some, is_one_size=is_one_size)}"
            for told, some in (("lower (better)", lower), ("higher (worse)", higher))
            if some
        ]
        parts = [words("answer", "found", base=baseline, metric=metric, found=joined(found))]
        if is_one_size and 0 < len(silent) <= MAX_NAMED:
            variants = joined(c.ours.variant for c in silent)
            parts.append(words("answer", "silent", variants=variants))
        elif silent:
            count = plural(len(silent), "other comparison")
            parts.append(words("answer", "silent_of_many", comparisons=count))
    else:
        text = words("answer", "nothing", base=baseline)
        if len(silent) > 1:
            text += words("answer", "nothing_of_many", count=len(silent))
        parts = [f"{text}."]
    if untested:
        count = plural(len(untested), "comparison")
        parts.append(words("answer", "some_untested", comparisons=count))
    return " ".join(parts)


def _where(comparisons: Iterable[Comparison], *, is_one_size: bool) -> str:
    """Return "relu at batch size 8 and 16 (−4.0% to −2.0%), tanh at batch size 8 (−3.0%)".

    Args:
        comparisons: whose variants, batch sizes and relative differences are told.
        is_one_size: whether all of the report have the same batch size, which is then left out.
    """
    mine: dict[str, list[Comparison]] = {}
    for c in comparisons:
        mine.setdefault(c.ours.variant, []).append(c)
    groups: dict[str, list[str]] = {}
    for variant, found in mine.items():
        groups.setdefault(joined(c.batch_size for c in found), []).append(variant)
    parts = []
    for sizes, variants in groups.items():
        text = joined(variants) if is_one_size else f"{joined(variants)} at batch size {sizes}"
        changes = _changes([c for variant in variants for c in mine[variant]])
        parts.append(f"{text} ({changes})" if changes else text)
    return ", ".join(parts)


def _changes(comparisons: Iterable[Comparison]) -> str:
    ordered = sorted(comparisons, key=lambda c: c.difference)
    shares = [shown_change(c.difference, c.base.summary.mean) for c in (ordered[0], ordered[-1])]
    return _to(*shares) if all(shares) else ""


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
    low, high = c.decisive.low, c.decisive.high
    places = places_for(low, high)
    means = {"ours_mean": c.ours.summary.mean, "base_mean": c.base.summary.mean}
    told = {name: shown_mean(mean, places) for name, mean in means.items()}
    difference = shown_to(c.difference, places)
    text = _words(c, "means", difference=difference, seeds=_seeds(c), **told)
    if change := shown_change(c.difference, c.base.summary.mean):
        text += _words(c, "relative", change=change)
    if not math.isnan(low):
        text += _words(c, "interval", interval=shown_interval_to(low, high, places))
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
    if c.num_tests > 1:
        test += words("certainty", "correction", count=c.num_tests)
    text = _words(c, "tests", p=shown_p(c.p), test=test)
    if c.verdict == NOT_SHOWN and c.decisive.p < ALPHA:
        text += " " + _words(c, "uncorrected", count=c.num_tests)
    return text


def _what_it_takes(c: Comparison) -> str:
    """Say how many seeds an effect of the measured size needs, and what these could have found."""
    count = c.needed(c.strictest)
    needed = shown_count(count)
    if c.verdict in (LOWER, HIGHER):
        return _words(c, "found_by_two" if count is None else "found", needed=needed)
    detectable = shown(c.detectable(c.strictest), 2)
    text = _words(c, "not_equal", seeds=_seeds(c), detectable=detectable)
    if count is not None:
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
