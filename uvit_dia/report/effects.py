"""How large a difference is in units of its spread, and how many seeds it takes to find one.

A report decides by one test: the paired t-test where both sides finished the same seeds, else
Welch's. Power is that test's. An effect here is a true difference of means in standard deviations:
of the differences between pairs where the seeds are paired, else of one seed, whose spread is then
the same on both sides.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from uvit_dia.report.statistics import (
    ALPHA,
    CONFIDENCE,
    paired_test,
    pooled_std,
    spread_of_pairs,
    student_test,
)

POWER = 0.8
MAX_SEEDS = 100_000  # where a search for a number of seeds gives up
NUM_NODES = 64  # of the quadrature over how the sides share the measured spread
LARGE_T = 300.0  # beyond it the normal part of a noncentral t is below its chi part by this factor


@dataclass(frozen=True)
class Effect:
    """A standardised difference of means.

    Attributes:
        g: Hedges' g; negative where the first sample's mean is smaller.
        low: lower end of its 95% interval.
        high: its upper end.
    """

    g: float = math.nan
    low: float = math.nan
    high: float = math.nan


UNKNOWN_EFFECT = Effect()


def hedges_g(a: Sequence[float], b: Sequence[float], *, is_paired: bool = False) -> Effect:
    """Return Hedges' g, the difference of means in pooled standard deviations of one seed.

    g = J (mean(a) - mean(b)) / s with J = Gamma(df/2) / (sqrt(df/2) Gamma((df - 1)/2)),
    df = n_a + n_b - 2 (Hedges 1981, Eq. 6e). The interval is that of the true difference in
    standard deviations, which g estimates: it inverts the noncentral t distribution of the test
    (Steiger and Fouladi 1997; for pairs, nearly, Algina and Keselman 2003) and is not scaled by J.

    Args:
        a: values of the first sample.
        b: of the second.
        is_paired: whether the i-th values of both belong together.
    """
    test = paired_test(a, b) if is_paired else student_test(a, b)
    s = pooled_std(a, b)
    if math.isnan(test.p) or s == 0:
        return UNKNOWN_EFFECT
    d = (float(np.mean(a)) - float(np.mean(b))) / s
    n_a, n_b = len(a), len(b)
    error = math.sqrt(1 / n_a + 1 / n_b)  # of the difference, in the units of d
    if is_paired:
        error = spread_of_pairs(a, b) / (s * math.sqrt(n_a))
    tails = (0.5 + CONFIDENCE / 2, 0.5 - CONFIDENCE / 2)
    low, high = (error * _noncentrality(d / error, int(test.df), tail) for tail in tails)
    return Effect(small_sample_correction(n_a + n_b - 2) * d, low, high)


def small_sample_correction(df: int) -> float:
    """Return J, which takes the bias out of a difference in measured standard deviations."""
    return math.exp(math.lgamma(df / 2) - math.lgamma((df - 1) / 2)) / math.sqrt(df / 2)


def _noncentrality(t: float, df: int, probability: float) -> float:
    """Return the noncentrality of the t distribution at which P(T <= t) is a probability."""
    from scipy import special

    if abs(t) <= LARGE_T:
        return float(special.nctdtrinc(df, probability, t))
    # T is then noncentrality / sqrt(chi2 / df) to a relative 1 / t^2
    share = probability if t > 0 else 1 - probability
    return t * math.sqrt(2 * float(special.gammainccinv(df / 2, share)) / df)


def power_of_test(
    effect: float, n_a: int, n_b: int, *, is_paired: bool, alpha: float = ALPHA
) -> float:
    """Return the chance that the test that decides finds a difference.

    power = P(|T'| > t_crit), T' noncentral t (Cohen 1988, chapter 2). For n pairs df = n - 1 and
    the noncentrality is effect * sqrt(n). Welch's test: let U be the first side's share of the sum
    of squares about the means. U follows a beta distribution with parameters (n_a - 1) / 2 and
    (n_b - 1) / 2, independent of Student's statistic; Welch's is Student's times a factor of U
    alone, and so are its degrees of freedom. The power is the mean over U of the chance that
    Student's statistic exceeds what Welch's threshold amounts to.

    Args:
        effect: true difference of means in standard deviations, as the module says.
        n_a: seeds of one side, at least 2.
        n_b: seeds of the other, at least 2; as many for pairs.
        is_paired: whether the seeds are paired.
        alpha: level of the test, two-sided.

    Raises:
        ValueError: if a side has fewer than 2 seeds.
    """
    from scipy import special

    if min(n_a, n_b) < 2:
        raise ValueError(f"a test needs at least 2 seeds a side, got {n_a} and {n_b}")
    if is_paired:
        df, scale = n_a - 1, math.sqrt(n_a)
        thresholds, weights = np.array([special.stdtrit(df, 1 - alpha / 2)]), np.ones(1)
    else:
        df, scale = n_a + n_b - 2, math.sqrt(n_a * n_b / (n_a + n_b))
        thresholds, weights = _welch_thresholds(n_a, n_b, alpha)
    # SciPy underflows to NaN where the probability is 0
    below, within = (
        np.nan_to_num(special.nctdtr(df, abs(effect) * scale, t)) for t in (-thresholds, thresholds)
    )
    return float(weights @ (1 - within + below))


@lru_cache(maxsize=256)
def _welch_thresholds(n_a: int, n_b: int, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Return what Student's statistic must exceed at nodes of U, and the nodes' weights."""
    from scipy import special

    nodes, weights = np.polynomial.legendre.leggauss(NUM_NODES)
    angle = math.pi / 4 * (nodes + 1)  # U = sin^2: its density is then bounded at both ends
    share = np.sin(angle) ** 2
    a, b = (n_a - 1) / 2, (n_b - 1) / 2
    log_density = (2 * a - 1) * np.log(np.sin(angle)) + (2 * b - 1) * np.log(np.cos(angle))
    weights = weights * np.exp(log_density - special.betaln(a, b)) * math.pi / 2
    ours, theirs = share / ((n_a - 1) * n_a), (1 - share) / ((n_b - 1) * n_b)  # s^2 / n, scaled
    factor = np.sqrt((1 / n_a + 1 / n_b) / (n_a + n_b - 2) / (ours + theirs))
    df = (ours + theirs) ** 2 / (ours**2 / (n_a - 1) + theirs**2 / (n_b - 1))
    return special.stdtrit(df, 1 - alpha / 2) / factor, weights / weights.sum()


@lru_cache(maxsize=1024)
def seeds_needed(
    effect: float, *, is_paired: bool, alpha: float = ALPHA, power: float = POWER
) -> int | None:
    """Return the fewest seeds a side that find an effect with the given power.

    Effect, pairing and level are those of `power_of_test`; the sign of the effect does not matter.
    None above `MAX_SEEDS`, or where there is no effect.
    """
    if not math.isfinite(effect) or effect == 0:
        return None

    def is_enough(n: int) -> bool:
        return power_of_test(effect, n, n, is_paired=is_paired, alpha=alpha) >= power

    high = 2
    while not is_enough(high):
        high *= 2
        if high > MAX_SEEDS:
            return None
    low = high // 2  # not enough, or 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


@lru_cache(maxsize=256)
def detectable_effect(
    n_a: int, n_b: int, *, is_paired: bool, alpha: float = ALPHA, power: float = POWER
) -> float:
    """Return the smallest true effect, in standard deviations, that so many seeds find.

    Seeds, pairing and level are those of `power_of_test`. NaN where a side has fewer than 2 seeds.
    """
    from scipy import optimize

    if min(n_a, n_b) < 2:
        return math.nan

    def excess(effect: float) -> float:
        return power_of_test(effect, n_a, n_b, is_paired=is_paired, alpha=alpha) - power

    high = 1.0
    while excess(high) < 0:
        high *= 2
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-9))
