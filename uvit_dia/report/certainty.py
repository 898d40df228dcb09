"""How sure the answer of a sweep is: what was found, what chance would find, what may be missed."""

from collections.abc import Sequence

from uvit_dia.report.comparisons import HIGHER, LOWER, NOT_TESTED, Comparison
from uvit_dia.report.words import joined, plural, shown, shown_change, shown_p, words


def certainty(comparisons: Sequence[Comparison], num_diverged: int) -> list[tuple[str, str]]:
    """Return in a few short lines how sure the answer is.

    Args:
        comparisons: all that the sweep makes, one or more.
        num_diverged: runs that diverged.

    Returns:
        Each line as its first words and the others.
    """
    tested = [c for c in comparisons if c.verdict != NOT_TESTED]
    lines = []
    if tested:
        lines.append(("Evidence.", _evidence(tested)))
    if any(c.verdict in (LOWER, HIGHER) for c in tested):
        lines.append(("False findings.", words("certainty", "false")))
    lines.append(("Missed differences.", _missed(tested)))
    if num_diverged:
        runs = plural(num_diverged, "run")
        lines.append(("Lost runs.", words("certainty", "diverged", runs=runs)))
    if num_untested := len(comparisons) - len(tested):
        untested = plural(num_untested, "comparison")
        lines.append(("Not tested.", words("certainty", "untested", comparisons=untested)))
    return lines


def _evidence(tested: Sequence[Comparison]) -> str:
    found = [c.p for c in tested if c.verdict in (LOWER, HIGHER)]
    tests = {"the paired t-test" if c.is_paired else "Welch's t-test" for c in tested}
    count = len(tested)
    names = {
        "p": shown_p(max(found) if found else min(c.p for c in tested)),
        "tests": joined(sorted(tests, reverse=True)),
        "correction": words("certainty", "correction", count=count) if count > 1 else "",
    }
    name, several = ("found", len(found)) if found else ("nothing", count)
    return words("certainty", name if several > 1 else f"{name}_one", **names)


def _missed(tested: Sequence[Comparison]) -> str:
    """Say which difference every comparison finds, at the correction's strictest step."""
    if not tested:
        return words("certainty", "no_test")
    limits = {c.detectable(c.strictest): c for c in tested}
    limit = max(limits)
    base = limits[limit].base.summary.mean
    change = shown_change(limit, base).removeprefix("+")
    told = f"{shown(limit, 2)} ({change})" if change else shown(limit, 2)
    counts = {side.summary.n for c in tested for side in (c.ours, c.base)}
    few, many = min(counts), max(counts)
    seeds = plural(many, "seed") if few == many else f"{few} to {many} seeds"
    return words("certainty", "missed", seeds=seeds, limit=told)
