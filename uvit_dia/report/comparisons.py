"""Every variant of a sweep against its baseline, batch size by batch size, in numbers.

One rule, stated beforehand, decides: where both sides finished the same seeds, the paired t-test;
else Welch's. Its p is corrected by Holm over all comparisons of the report, and a difference counts
as shown below 0.05. Student's test, the paper's, stands beside it and decides nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from uvit_dia.report.effects import (
    Effect,
    detectable_effect,
    hedges_g,
    seeds_needed,
    small_sample_correction,
)
from uvit_dia.report.results import SweepResults
from uvit_dia.report.statistics import (
    ALPHA,
    UNTESTED,
    Summary,
    Test,
    fisher_test,
    holm,
    paired_test,
    pooled_std,
    spread_of_pairs,
    student_test,
    summarize,
    welch_test,
)

LOWER, HIGHER, NOT_SHOWN, NOT_TESTED = "lower", "higher", "not shown", "untested"
Sample = Mapping[int, float]  # training seed -> value


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        variant: its name.
        summary: of the metric over its seeds.
        planned: seeds that the sweep planned.
        diverged: seeds whose training diverged.
    """

    variant: str
    summary: Summary
    planned: int
    diverged: int

    @property
    def has_no_spread(self) -> bool:
        """Whether two or more seeds all gave the same value."""
        return self.summary.n > 1 and self.summary.std == 0

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
        is_paired: whether both sides finished the same seeds, two or more.
        student: Student's t-test.
        welch: Welch's t-test.
        paired: the paired t-test; untested where the seeds are not paired.
        spread: the standard deviation against which the deciding test holds the difference: of the
            differences between pairs, else of one seed, pooled over both sides.
        effect: Hedges' g.
        fisher_p: of equal chances to diverge, among cells that ended; NaN where none diverged.
        p: of the deciding test, after Holm's correction over the family.
        num_tests: comparisons of the family that could be tested.
    """

    batch_size: int
    ours: Side
    base: Side
    difference: float
    is_paired: bool
    student: Test
    welch: Test
    paired: Test
    spread: float
    effect: Effect
    fisher_p: float
    p: float
    num_tests: int

    @property
    def decisive(self) -> Test:
        """The test that decides, before the correction."""
        return self.paired if self.is_paired else self.welch

    @property
    def verdict(self) -> str:
        """What the seeds show: LOWER, HIGHER, NOT_SHOWN or NOT_TESTED."""
        if math.isnan(self.decisive.p):
            return NOT_TESTED
        if self.p >= ALPHA:
            return NOT_SHOWN
        return LOWER if self.difference < 0 else HIGHER

    def detectable(self, alpha: float = ALPHA) -> float:
        """Return the smallest difference, in the metric's unit, that so many seeds mostly find.

        That is with power 0.8, if the true spread is the measured one; NaN without a test.
        """
        n = (self.ours.summary.n, self.base.summary.n)
        return self.spread * detectable_effect(*n, is_paired=self.is_paired, alpha=alpha)

    def needed(self, alpha: float = ALPHA) -> int | None:
        """Return how many seeds a side find an effect as large as the measured one, power 0.8.

        None where there are too many to count, no effect to find, no test, or too little to know
        the effect by: with two pairs their spread is almost unknown.
        """
        n = self.ours.summary.n + self.base.summary.n
        df = n // 2 - 1 if self.is_paired else n - 2
        if math.isnan(self.decisive.p) or df < 2:
            return None
        effect = small_sample_correction(df) * self.difference / self.spread
        return seeds_needed(effect, is_paired=self.is_paired, alpha=alpha)

    @property
    def strictest(self) -> float:
        """The level of the strictest step of Holm's correction."""
        return ALPHA / max(1, self.num_tests)


def compare_variants(results: SweepResults, column: str = "value") -> list[Comparison]:
    """Compare every variant with the baseline (the first variant) at every batch size.

    All comparisons are one family: the chance of any false finding among them is at most 0.05.

    Args:
        results: the sweep.
        column: of its table.

    Returns:
        By variant in the sweep's order, then batch size.
    """
    baseline, *others = results.plan.variants
    return correct(
        [
            compare(
                size,
                (variant, results.by_seed(column, variant, size)),
                (baseline, results.by_seed(column, baseline, size)),
                planned=[len(results.rows(v, size)) for v in (variant, baseline)],
                diverged=[results.count("diverged", v, size) for v in (variant, baseline)],
            )
            for variant in others
            for size in results.plan.batch_sizes
        ]
    )


def compare(
    batch_size: int,
    ours: tuple[str, Sample],
    base: tuple[str, Sample],
    *,
    planned: Sequence[int] | None = None,
    diverged: Sequence[int] = (0, 0),
) -> Comparison:
    """Compare two samples, as a family of one test.

    Args:
        batch_size: both sides' batch size.
        ours: the variant's name and its value of each seed.
        base: the baseline's.
        planned: seeds planned for each side; None for as many as there are.
        diverged: seeds that diverged on each side.
    """
    seeds = sorted(ours[1]), sorted(base[1])
    a, b = (
        [side[1][seed] for seed in order] for side, order in zip((ours, base), seeds, strict=True)
    )
    planned = planned or [len(a) + diverged[0], len(b) + diverged[1]]
    sides = [
        Side(name, summarize(values), count, lost)
        for name, values, count, lost in zip(
            (ours[0], base[0]), (a, b), planned, diverged, strict=True
        )
    ]
    is_paired = seeds[0] == seeds[1] and len(a) > 1
    paired, welch = paired_test(a, b) if is_paired else UNTESTED, welch_test(a, b)
    p = paired.p if is_paired else welch.p
    ended = [side.summary.n + side.diverged for side in sides]
    fisher_p = math.nan
    if any(diverged) and all(ended):
        fisher_p = fisher_test(diverged[0], ended[0], diverged[1], ended[1])
    return Comparison(
        batch_size=batch_size,
        ours=sides[0],
        base=sides[1],
        difference=sides[0].summary.mean - sides[1].summary.mean,
        is_paired=is_paired,
        student=student_test(a, b),
        welch=welch,
        paired=paired,
        spread=spread_of_pairs(a, b) if is_paired else pooled_std(a, b),
        effect=hedges_g(a, b, is_paired=is_paired),
        fisher_p=fisher_p,
        p=p,
        num_tests=0 if math.isnan(p) else 1,
    )


def correct(family: Sequence[Comparison]) -> list[Comparison]:
    """Correct a family of comparisons for their number."""
    corrected = holm([c.decisive.p for c in family])
    num_tests = sum(not math.isnan(p) for p in corrected)
    return [replace(c, p=p, num_tests=num_tests) for c, p in zip(family, corrected, strict=True)]
