"""Every variant of a sweep against its baseline, batch size by batch size, in numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from uvit_dia.report.power import detectable_effect, seeds_needed
from uvit_dia.report.results import SweepResults
from uvit_dia.report.statistics import (
    ALPHA,
    Effect,
    Summary,
    Test,
    difference_interval,
    fisher_test,
    has_no_spread,
    hedges_g,
    holm,
    pooled_std,
    student_test,
    summarize,
    welch_test,
)

LOWER, HIGHER, UNSETTLED, NOT_SHOWN, UNTESTED = (
    "lower",
    "higher",
    "unsettled",
    "not shown",
    "untested",
)


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        variant: its name.
        summary: of the metric over its seeds.
        planned: seeds that the sweep planned.
        diverged: seeds whose training diverged.
        has_no_spread: whether two or more seeds all gave the same value.
    """

    variant: str
    summary: Summary
    planned: int
    diverged: int
    has_no_spread: bool

    @property
    def missing(self) -> int:
        """Planned seeds with neither a value nor a divergence."""
        return max(0, self.planned - self.summary.n - self.diverged)


@dataclass(frozen=True)
class Comparison:
    """A variant against the baseline at one batch size; NaN where a number cannot be had.

    Attributes:
        batch_size: global batch size.
        ours: the variant.
        base: the baseline.
        difference: mean of the variant minus that of the baseline; negative is better.
        low: lower end of the difference's 95% interval, uncorrected.
        high: its upper end.
        student: Student's t-test.
        student_holm: its p after the Holm correction over the batch sizes of this variant.
        welch: Welch's t-test.
        welch_holm: its p after the correction.
        num_tests: batch sizes of this variant that could be tested: the size of Holm's family.
        effect: Hedges' g.
        detectable: smallest difference, in the metric's unit, that so many seeds find with power 0.8, if the
            true spread is the measured one.
        detectable_strict: the same at the strictest step of the correction.
        needed: seeds a side that find an effect as large as the measured g with power 0.8; None where there are
            too many to count, or no effect to find.
        needed_strict: the same at the strictest step.
        fisher_p: of equal chances to diverge, among cells that ended; NaN where none diverged.
    """

    batch_size: int
    ours: Side
    base: Side
    difference: float
    low: float
    high: float
    student: Test
    student_holm: float
    welch: Test
    welch_holm: float
    num_tests: int
    effect: Effect
    detectable: float
    detectable_strict: float
    needed: int | None
    needed_strict: int | None
    fisher_p: float

    @property
    def verdict(self) -> str:
        """What the seeds show: a finding needs both tests, each after the correction, below 0.05."""
        if math.isnan(self.student.p):
            return UNTESTED
        found = [p < ALPHA for p in (self.student_holm, self.welch_holm)]
        if all(found):
            return LOWER if self.difference < 0 else HIGHER
        return UNSETTLED if any(found) else NOT_SHOWN


def compare_variants(results: SweepResults, column: str = "value") -> list[Comparison]:
    """Compare every variant with the baseline (the first variant) at every batch size.

    The Holm correction runs over the batch sizes of a variant: the chance of any false finding among them is at
    most 0.05. It does not run over variants.

    Args:
        results: the sweep.
        column: of its table.

    Returns:
        By variant in the sweep's order, then batch size.
    """
    baseline, *others = results.plan.variants
    comparisons: list[Comparison] = []
    for variant in others:
        family = [
            compare(
                batch_size,
                (variant, results.values(column, variant, batch_size)),
                (baseline, results.values(column, baseline, batch_size)),
                planned=[len(results.rows(v, batch_size)) for v in (variant, baseline)],
                diverged=[results.count("diverged", v, batch_size) for v in (variant, baseline)],
            )
            for batch_size in results.plan.batch_sizes
        ]
        comparisons += correct(family)
    return comparisons


def compare(
    batch_size: int,
    ours: tuple[str, Sequence[float]],
    base: tuple[str, Sequence[float]],
    *,
    planned: Sequence[int] | None = None,
    diverged: Sequence[int] = (0, 0),
) -> Comparison:
    """Compare two samples, as a family of one test.

    Args:
        batch_size: both sides' batch size.
        ours: the variant's name and one value a seed.
        base: the baseline's.
        planned: seeds planned for each side; None for as many as there are.
        diverged: seeds that diverged on each side.
    """
    a, b = ours[1], base[1]
    planned = planned or [len(a) + diverged[0], len(b) + diverged[1]]
    sides = [
        Side(name, summarize(values), count, lost, len(values) > 1 and has_no_spread(values))
        for (name, values), count, lost in zip((ours, base), planned, diverged, strict=True)
    ]
    low, high = difference_interval(a, b)
    student, welch = student_test(a, b), welch_test(a, b)
    ended = [side.summary.n + side.diverged for side in sides]
    fisher_p = math.nan
    if any(diverged) and all(ended):
        fisher_p = fisher_test(diverged[0], ended[0], diverged[1], ended[1])
    comparison = Comparison(
        batch_size=batch_size,
        ours=sides[0],
        base=sides[1],
        difference=sides[0].summary.mean - sides[1].summary.mean,
        low=low,
        high=high,
        student=student,
        student_holm=student.p,
        welch=welch,
        welch_holm=welch.p,
        num_tests=0 if math.isnan(student.p) else 1,
        effect=hedges_g(a, b),
        detectable=pooled_std(a, b) * detectable_effect(len(a), len(b)),
        detectable_strict=math.nan,
        needed=None,
        needed_strict=None,
        fisher_p=fisher_p,
    )
    return correct([comparison])[0]


def correct(family: Sequence[Comparison]) -> list[Comparison]:
    """Correct a family of comparisons for their number, and say what the strictest step of it would take."""
    student = holm([c.student.p for c in family])
    welch = holm([c.welch.p for c in family])
    num_tests = sum(not math.isnan(c.student.p) for c in family)
    strict = ALPHA / max(1, num_tests)
    corrected = []
    for c, student_p, welch_p in zip(family, student, welch, strict=True):
        is_tested = not math.isnan(c.student.p)
        ratio = math.nan
        if is_tested:
            n = (c.ours.summary.n, c.base.summary.n)
            ratio = detectable_effect(*n, alpha=strict) / detectable_effect(*n)
        corrected.append(
            replace(
                c,
                student_holm=student_p,
                welch_holm=welch_p,
                num_tests=num_tests,
                detectable_strict=c.detectable * ratio,
                needed=seeds_needed(c.effect.g) if is_tested else None,
                needed_strict=seeds_needed(c.effect.g, alpha=strict) if is_tested else None,
            )
        )
    return corrected
