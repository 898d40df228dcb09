"""Statistics of a few seeds: summaries, two-sample tests, correction for many tests, effect size.

The tests are SciPy's. Every number that cannot be had is NaN and never a guess: no spread from one seed, no test
where a side has fewer than two seeds or where nothing varies.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ALPHA = 0.05  # two-sided, as in the paper
CONFIDENCE = 0.95
BOOTSTRAP_RESAMPLES = 9999
LARGE_T = 300.0  # beyond it the normal part of a noncentral t is below its chi part by this factor


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
    mean: float
    std: float
    low: float
    high: float
    method: str


@dataclass(frozen=True)
class Test:
    """A two-sample test of equal means; all NaN where it cannot be made.

    Attributes:
        t: the statistic, positive where the first sample's mean is larger.
        df: degrees of freedom.
        p: two-sided.
    """

    __test__ = False  # not a pytest class

    t: float
    df: float
    p: float


@dataclass(frozen=True)
class Effect:
    """A standardised difference of means.

    Attributes:
        g: Hedges' g; negative where the first sample's mean is smaller.
        low: lower end of its 95% interval.
        high: upper end.
    """

    g: float
    low: float
    high: float


UNTESTED = Test(math.nan, math.nan, math.nan)
UNKNOWN_EFFECT = Effect(math.nan, math.nan, math.nan)


def summarize(values: Sequence[float], *, seed: int = 0) -> Summary:
    """Summarize a sample with a bootstrap interval of its mean.

    The interval is BCa (Efron 1987), or percentile where BCa fails, as it does for very few or tied values. With
    fewer than about ten values it is too narrow; docs/batch-size-sweeps.md says by how much.

    Args:
        values: finite numbers.
        seed: of the resampling.
    """
    n = len(values)
    if n == 0:
        return Summary(0, math.nan, math.nan, math.nan, math.nan, "")
    sample = np.asarray(values, dtype=float)
    mean = float(sample.mean())
    if n == 1:
        return Summary(1, mean, math.nan, math.nan, math.nan, "")
    std = 0.0 if has_no_spread(values) else float(sample.std(ddof=1))
    if std == 0:
        return Summary(n, mean, std, math.nan, math.nan, "")
    for method in ("BCa", "percentile"):
        low, high = _bootstrap(sample, method, seed)
        if math.isfinite(low) and math.isfinite(high):
            return Summary(n, mean, std, low, high, method)
    return Summary(n, mean, std, math.nan, math.nan, "")


def _bootstrap(sample: "np.ndarray", method: str, seed: int) -> tuple[float, float]:
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
    """Test equal means with Student's two-sample t-test, which takes both spreads for equal; the paper's test."""
    return _t_test(a, b, equal_var=True)


def welch_test(a: Sequence[float], b: Sequence[float]) -> Test:
    """Test equal means with Welch's t-test, which lets the spreads differ."""
    return _t_test(a, b, equal_var=False)


def _t_test(a: Sequence[float], b: Sequence[float], *, equal_var: bool) -> Test:
    from scipy import stats

    if not _is_testable(a, b):
        return UNTESTED
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # one side without spread: exact all the same
        result = stats.ttest_ind(a, b, equal_var=equal_var)
    return Test(float(result.statistic), float(result.df), float(result.pvalue))


def difference_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Return the 95% interval of mean(a) - mean(b) that belongs to Student's test; NaN where it cannot be had."""
    from scipy import stats

    if not _is_testable(a, b):
        return math.nan, math.nan
    difference, n = float(np.mean(a)) - float(np.mean(b)), (len(a), len(b))
    error = pooled_std(a, b) * math.sqrt(1 / n[0] + 1 / n[1])
    half = float(stats.t.isf((1 - CONFIDENCE) / 2, sum(n) - 2)) * error
    return difference - half, difference + half


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected by Holm (1979), which holds the chance of any false finding at the level of one test.

    The i-th smallest of m is multiplied by m - i + 1, made non-decreasing, and cut at 1.

    Args:
        p_values: of one family of tests; NaN stands for a test that was not made, and is not counted.
    """
    made = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    corrected = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(made):
        largest = max(largest, min(1.0, (len(made) - rank) * p))
        corrected[index] = largest
    return corrected


def pooled_std(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the standard deviation pooled over both samples; NaN where both have but one value."""
    df = len(a) + len(b) - 2
    if min(len(a), len(b)) < 1 or df < 1:
        return math.nan
    if has_no_spread(a) and has_no_spread(b):
        return 0.0
    squares = sum(float(np.square(np.asarray(s) - np.mean(s)).sum()) for s in (a, b))
    return math.sqrt(squares / df)


def hedges_g(a: Sequence[float], b: Sequence[float]) -> Effect:
    """Return Hedges' g, the difference of means in pooled standard deviations, without small-sample bias.

    g = J (mean(a) - mean(b)) / s with J = Gamma(df/2) / (sqrt(df/2) Gamma((df - 1)/2)) (Hedges 1981, Eq. 6e). The
    interval is that of the true difference in standard deviations, which g estimates: it inverts the noncentral t
    distribution (Steiger and Fouladi 1997), exact for normal values, and is not scaled by J, which would spoil that.
    """
    if not _is_testable(a, b):
        return UNKNOWN_EFFECT
    df = len(a) + len(b) - 2
    scale = math.sqrt(len(a) * len(b) / (len(a) + len(b)))
    d = (float(np.mean(a)) - float(np.mean(b))) / pooled_std(a, b)
    correction = _small_sample_correction(df)
    ends = (_noncentrality(d * scale, df, p) for p in (0.5 + CONFIDENCE / 2, 0.5 - CONFIDENCE / 2))
    low, high = (end / scale for end in ends)
    return Effect(correction * d, low, high)


def _small_sample_correction(df: int) -> float:
    return math.exp(math.lgamma(df / 2) - math.lgamma((df - 1) / 2)) / math.sqrt(df / 2)


def noncentral_t_cdf(t: "float | np.ndarray", df: float, noncentrality: float) -> "np.ndarray":
    """Return P(T <= t) of the noncentral t distribution, in the shape of t; 0 where SciPy underflows to NaN."""
    from scipy import stats

    if noncentrality < 0:  # SciPy is exact on this side only
        return 1 - noncentral_t_cdf(-t, df, -noncentrality)
    return np.nan_to_num(stats.nct.cdf(t, df, noncentrality))


def _noncentrality(t: float, df: int, probability: float) -> float:
    """Return the noncentrality under which T <= t has a probability; the cdf falls as it grows."""
    from scipy import optimize, stats

    if (
        abs(t) > LARGE_T
    ):  # T is then noncentrality / sqrt(chi2 / df) to a relative 1 / t^2; SciPy's cdf fails
        share = probability if t > 0 else 1 - probability
        return t * math.sqrt(float(stats.chi2.isf(share, df)) / df)

    def excess(noncentrality: float) -> float:
        return float(noncentral_t_cdf(t, df, noncentrality)) - probability

    width = 4.0 + abs(t)
    while excess(t - width) < 0 or excess(t + width) > 0:
        width *= 2
    return float(optimize.brentq(excess, t - width, t + width, xtol=1e-9))


def fisher_test(events_a: int, n_a: int, events_b: int, n_b: int) -> float:
    """Return the two-sided p of Fisher's exact test that an event, such as a divergence, is equally likely."""
    from scipy import stats

    table = [[events_a, n_a - events_a], [events_b, n_b - events_b]]
    return float(stats.fisher_exact(table).pvalue)
