"""How many seeds a comparison needs, and what so many seeds can find, where a finding needs two tests.

A report calls a difference shown only where Student's and Welch's t-test both find it, so both count for its power.
Effects are true differences of means in standard deviations of one seed, what Hedges' g estimates; both sides have
the same true spread.
"""

import math
from functools import lru_cache

import numpy as np

from uvit_dia.report.statistics import ALPHA, noncentral_t_cdf

POWER = 0.8
MAX_SEEDS = 100_000  # where a search for a number of seeds gives up
NUM_NODES = 64  # of the quadrature over how the sides share the measured spread


def power_of_test(effect: float, n_a: int, n_b: int, *, alpha: float = ALPHA) -> float:
    """Return the chance that Student's two-sided test finds a difference.

    power = P(|T'| > t_crit), T' noncentral t with df = n_a + n_b - 2 and noncentrality
    effect * sqrt(n_a n_b / (n_a + n_b)) (Cohen 1988, chapter 2).

    Args:
        effect: true difference of means in standard deviations.
        n_a: seeds of one side, at least 2.
        n_b: seeds of the other, at least 2.
        alpha: level of the test, two-sided.
    """
    from scipy import stats

    df = _degrees_of_freedom(n_a, n_b)
    critical = float(stats.t.isf(alpha / 2, df))
    return float(_chance_beyond(critical, df, _noncentrality(effect, n_a, n_b)))


def power_of_both_tests(effect: float, n_a: int, n_b: int, *, alpha: float = ALPHA) -> float:
    """Return the chance that Student's and Welch's two-sided tests both find a difference.

    Let U be the first side's share of the sum of squares about the means. Then U follows a beta distribution with
    parameters (n_a - 1) / 2 and (n_b - 1) / 2, independent of Student's statistic; Welch's statistic is Student's
    times a factor of U alone, and so are its degrees of freedom. Both tests pass where Student's statistic exceeds
    the larger of two thresholds, and the power is the mean of that chance over U.

    Args:
        effect: true difference of means in standard deviations.
        n_a: seeds of one side, at least 2.
        n_b: seeds of the other, at least 2.
        alpha: level of each test, two-sided.
    """
    df = _degrees_of_freedom(n_a, n_b)
    thresholds, weights = _thresholds(n_a, n_b, alpha)
    return float(weights @ _chance_beyond(thresholds, df, _noncentrality(effect, n_a, n_b)))


def _degrees_of_freedom(n_a: int, n_b: int) -> int:
    if min(n_a, n_b) < 2:
        raise ValueError(f"a test needs at least 2 seeds a side, got {n_a} and {n_b}")
    return n_a + n_b - 2


def _noncentrality(effect: float, n_a: int, n_b: int) -> float:
    return abs(effect) * math.sqrt(n_a * n_b / (n_a + n_b))


def _chance_beyond(critical: "np.ndarray | float", df: int, noncentrality: float) -> "np.ndarray":
    """Return P(|T'| > critical) of the noncentral t distribution."""
    above = 1 - noncentral_t_cdf(critical, df, noncentrality)
    return above + noncentral_t_cdf(-critical, df, noncentrality)


@lru_cache(maxsize=256)
def _thresholds(n_a: int, n_b: int, alpha: float) -> "tuple[np.ndarray, np.ndarray]":
    """Return what Student's statistic must exceed at nodes of U for both tests to pass, and the nodes' weights."""
    from scipy import special, stats

    nodes, weights = np.polynomial.legendre.leggauss(NUM_NODES)
    angle = math.pi / 4 * (nodes + 1)  # U = sin^2: its density is then bounded at both ends
    share = np.sin(angle) ** 2
    a, b = (n_a - 1) / 2, (n_b - 1) / 2
    log_density = (2 * a - 1) * np.log(np.sin(angle)) + (2 * b - 1) * np.log(np.cos(angle))
    weights = weights * np.exp(log_density - special.betaln(a, b)) * math.pi / 2
    ours, theirs = share / ((n_a - 1) * n_a), (1 - share) / ((n_b - 1) * n_b)  # s^2 / n, scaled
    factor = np.sqrt((1 / n_a + 1 / n_b) / (n_a + n_b - 2) / (ours + theirs))
    df = (ours + theirs) ** 2 / (ours**2 / (n_a - 1) + theirs**2 / (n_b - 1))
    student = stats.t.isf(alpha / 2, n_a + n_b - 2)
    welch = stats.t.isf(alpha / 2, df) / factor
    return np.maximum(student, welch), weights / weights.sum()


def seeds_needed(effect: float, *, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """Return how many seeds a side find an effect by both tests with the given power; None above `MAX_SEEDS` or for no effect.

    Args:
        effect: true difference of means in standard deviations; its sign does not matter.
        alpha: level of each test, two-sided.
        power: chance of finding it.
    """
    if not math.isfinite(effect) or effect == 0:
        return None

    def is_enough(n: int) -> bool:
        return power_of_both_tests(effect, n, n, alpha=alpha) >= power

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
def detectable_effect(n_a: int, n_b: int, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """Return the smallest true effect, in standard deviations, that so many seeds find by both tests.

    NaN where a side has fewer than two seeds.
    """
    from scipy import optimize

    if min(n_a, n_b) < 2:
        return math.nan

    def excess(effect: float) -> float:
        return power_of_both_tests(effect, n_a, n_b, alpha=alpha) - power

    high = 1.0
    while excess(high) < 0:
        high *= 2
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-9))
