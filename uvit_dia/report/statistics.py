"""Statistics of a few seeds: summaries, tests of two samples, correction for many tests.

The tests are SciPy's. A number that cannot be had is NaN and never a guess: no spread from one
seed, no test where a side has fewer than two seeds or where nothing varies.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

ALPHA = 0.05  # two-sided, as in the paper
CONFIDENCE = 0.95
BOOTSTRAP_RESAMPLES = 9999
ROUNDING = 1e-12  # of the values: differences of pairs that vary by less do not vary


@dataclass(frozen=True)
class Summary:
    """A variant at a batch size, over its seeds.

    Attributes:
        n: number of seeds.
        mean: NaN without seeds.
        std: standard deviation with n - 1; NaN below two seeds.
        low: lower end of the bootstrap interval of the mean; NaN where there is none.
        high: its upper end.
        method: of the interval: "BCa", "percentile", or "" where there is none.
    """

    n: int
    mean: float = math.nan
    std: float = math.nan
    low: float = math.nan
    high: float = math.nan
    method: str = ""


@dataclass(frozen=True)
class Test:
    """A test of equal means; all NaN where it cannot be made.

    Attributes:
        t: the statistic, positive where the first sample's mean is larger.
        df: degrees of freedom.
        p: two-sided.
        low: lower end of the 95% interval of the difference of means that belongs to the test.
        high: its upper end.
    """

    __test__ = False  # not a pytest class

    t: float = math.nan
    df: float = math.nan
    p: float = math.nan
    low: float = math.nan
    high: float = math.nan


UNTESTED = Test()


def summarize(values: Sequence[float], *, seed: int = 0) -> Summary:
    """Summarize a sample with a bootstrap interval of its mean.

    The interval is BCa (Efron 1987), or percentile where BCa fails, as it does for very few or tied
    values. With fewer than about ten values it is too narrow; docs/batch-size-sweeps.md says by how
    much.

    Args:
        values: finite numbers.
        seed: of the resampling.
    """
    n = len(values)
    if n == 0:
        return Summary(0)
    sample = np.asarray(values, dtype=float)
    mean = float(sample.mean())
    if n == 1:
        return Summary(1, mean)
    std = 0.0 if has_no_spread(values) else float(sample.std(ddof=1))
    if std == 0:
        return Summary(n, mean, std)
    for method in ("BCa", "percentile"):
        low, high = _bootstrap(sample, method, seed)
        if math.isfinite(low) and math.isfinite(high):
            return Summary(n, mean, std, low, high, method)
    return Summary(n, mean, std)


def _bootstrap(sample: np.ndarray, method: str, seed: int) -> tuple[float, float]:
    from scipy import stats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy warns where BCa is degenerate; its NaN says so
        interval = stats.bootstrap(
            (sample,),
            np.mean,
            n_resamples=BOOTSTRAP_RESAMPLES,
            confidence_level=CONFIDENCE,
            method=method,
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return float(interval.low), float(interval.high)


def has_no_spread(values: Sequence[float]) -> bool:
    """Return whether all values are equal."""
    return len(set(values)) <= 1


def _is_testable(a: Sequence[float], b: Sequence[float]) -> bool:
    return min(len(a), len(b)) >= 2 and not (has_no_spread(a) and has_no_spread(b))


def student_test(a: Sequence[float], b: Sequence[float]) -> Test:
    """Test with Student's two-sample t-test, which takes both spreads for equal; the paper's."""
    from scipy import stats

    return _test(stats.ttest_ind, a, b, equal_var=True) if _is_testable(a, b) else UNTESTED


def welch_test(a: Sequence[float], b: Sequence[float]) -> Test:
    """Test with Welch's two-sample t-test, which lets the spreads differ."""
    from scipy import stats

    return _test(stats.ttest_ind, a, b, equal_var=False) if _is_testable(a, b) else UNTESTED


def paired_test(a: Sequence[float], b: Sequence[float]) -> Test:
    """Test with the paired t-test; the i-th value of both samples belongs to the same seed.

    Raises:
        ValueError: if the samples differ in length.
    """
    from scipy import stats

    if len(a) != len(b):
        raise ValueError(f"pairs need as many values a side, got {len(a)} and {len(b)}")
    return _test(stats.ttest_rel, a, b) if spread_of_pairs(a, b) > 0 else UNTESTED


def _test(test: Any, a: Sequence[float], b: Sequence[float], **options: bool) -> Test:  # noqa: ANN401
    with warnings.catch_warnings():
        # one side without spread: exact all the same
        warnings.simplefilter("ignore", RuntimeWarning)
        result = test(a, b, **options)
        interval = result.confidence_interval(CONFIDENCE)
    numbers = (result.statistic, result.df, result.pvalue, interval.low, interval.high)
    return Test(*map(float, numbers))


def spread_of_pairs(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the standard deviation of a - b with n - 1; NaN below two pairs, 0 within rounding."""
    if len(a) < 2:
        return math.nan
    differences = np.subtract(a, b)
    largest = float(np.abs([a, b]).max())
    if float(np.ptp(differences)) <= ROUNDING * largest:
        return 0.0
    return float(differences.std(ddof=1))


def pooled_std(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the standard deviation pooled over both samples; NaN where both have one value."""
    df = len(a) + len(b) - 2
    if min(len(a), len(b)) < 1 or df < 1:
        return math.nan
    if has_no_spread(a) and has_no_spread(b):
        return 0.0
    squares = sum(float(np.square(np.asarray(s) - np.mean(s)).sum()) for s in (a, b))
    return math.sqrt(squares / df)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected by Holm (1979): any false finding is as rare as in one test.

    The i-th smallest of m is multiplied by m - i + 1, made non-decreasing, and cut at 1.

    Args:
        p_values: of one family of tests; NaN stands for a test that was not made, which does not
            count.
    """
    made = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    corrected = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(made):
        largest = max(largest, min(1.0, (len(made) - rank) * p))
        corrected[index] = largest
    return corrected


def fisher_test(events_a: int, n_a: int, events_b: int, n_b: int) -> float:
    """Return the two-sided p of Fisher's exact test that an event is equally likely a side."""
    from scipy import stats

    table = [[events_a, n_a - events_a], [events_b, n_b - events_b]]
    return float(stats.fisher_exact(table).pvalue)
