"""How many seeds a comparison needs, and what so many seeds can find: power of Student's two-sample t-test.

Effects are true differences of means in standard deviations of one seed, what Hedges' g estimates.
"""

import math

from uvit_dia.reporting.statistics import ALPHA, noncentral_t_cdf

POWER = 0.8
MAX_SEEDS = 100_000  # where a search for a number of seeds gives up


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

    if min(n_a, n_b) < 2:
        raise ValueError(f"a test needs at least 2 seeds a side, got {n_a} and {n_b}")
    df = n_a + n_b - 2
    noncentrality = abs(effect) * math.sqrt(n_a * n_b / (n_a + n_b))
    critical = float(stats.t.isf(alpha / 2, df))
    above = 1 - noncentral_t_cdf(critical, df, noncentrality)
    return above + noncentral_t_cdf(-critical, df, noncentrality)


def seeds_needed(effect: float, *, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """Return how many seeds a side find an effect with the given power; None above `MAX_SEEDS` or for no effect.

    Args:
        effect: true difference of means in standard deviations; its sign does not matter.
        alpha: level of the test, two-sided.
        power: chance of finding it.
    """
    if not math.isfinite(effect) or effect == 0:
        return None

    def is_enough(n: int) -> bool:
        return power_of_test(effect, n, n, alpha=alpha) >= power

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


def detectable_effect(n_a: int, n_b: int, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """Return the smallest true effect, in standard deviations, that so many seeds find with the given power.

    NaN where a side has fewer than two seeds.
    """
    from scipy import optimize

    if min(n_a, n_b) < 2:
        return math.nan

    def excess(effect: float) -> float:
        return power_of_test(effect, n_a, n_b, alpha=alpha) - power

    high = 1.0
    while excess(high) < 0:
        high *= 2
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-9))
