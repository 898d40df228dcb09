"""The statistics of the report, against closed forms, numbers by hand, and simulation."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from uvit_dia.report.effects import (
    UNKNOWN_EFFECT,
    detectable_effect,
    hedges_g,
    power_of_test,
    seeds_needed,
)
from uvit_dia.report.statistics import (
    fisher_test,
    holm,
    paired_test,
    spread_of_pairs,
    student_test,
    summarize,
    welch_test,
)

NAN = math.nan


# ------------------------------------------------------------------ tests of two samples


def test_students_test_equals_its_closed_form_at_two_degrees_of_freedom() -> None:
    a, b = [1.0, 3.0], [4.0, 8.0]
    # means 2 and 6, squares 2 and 8, pooled variance 10 / 2 = 5, t = -4 / sqrt(5 (1/2 + 1/2))
    t = -4 / math.sqrt(5)
    test = student_test(a, b)
    assert test.t == pytest.approx(t)
    assert test.df == 2
    assert test.p == pytest.approx(1 - abs(t) / math.sqrt(2 + t**2))  # Student (1908), df = 2


def test_welchs_test_equals_welch_and_satterthwaite() -> None:
    a, b = [1.0, 2.0, 3.0], [2.0, 6.0, 10.0, 14.0]
    error_a, error_b = 1.0 / 3, (80 / 3) / 4
    test = welch_test(a, b)
    assert test.t == pytest.approx((2 - 8) / math.sqrt(error_a + error_b))
    df = (error_a + error_b) ** 2 / (error_a**2 / 2 + error_b**2 / 3)
    assert test.df == pytest.approx(df)
    assert test.p == pytest.approx(2 * stats.t.sf(abs(test.t), df))


@pytest.mark.parametrize(
    ("a", "b"),
    [([1.0], [2.0, 3.0]), ([], [1.0, 2.0]), ([1.0, 1.0], [2.0, 2.0]), ([1.0, 1.0], [1.0, 1.0])],
    ids=["one seed", "no seed", "no spread", "no difference and no spread"],
)
def test_where_no_test_can_be_made_nothing_is_claimed(a: list[float], b: list[float]) -> None:
    for test in (student_test(a, b), welch_test(a, b)):
        assert all(map(math.isnan, (test.p, test.low, test.high)))
    assert hedges_g(a, b) == UNKNOWN_EFFECT


def test_one_side_without_spread_is_tested_all_the_same() -> None:
    a, b = [1.0, 1.0, 1.0], [2.0, 2.2, 2.4]
    pooled = math.sqrt(0.08 / 4)
    assert student_test(a, b).t == pytest.approx(-1.2 / (pooled * math.sqrt(2 / 3)))


@pytest.mark.parametrize("test", [student_test, welch_test, paired_test])
def test_the_interval_excludes_zero_exactly_where_its_test_passes(test: Callable) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        a, b = rng.standard_normal(4), rng.standard_normal(4) + rng.uniform(0, 4)
        found = test(list(a), list(b))
        assert (found.p < 0.05) == (found.low > 0 or found.high < 0)
        assert (found.low + found.high) / 2 == pytest.approx(a.mean() - b.mean())


def test_the_paired_test_equals_its_closed_form() -> None:
    # differences 1, 2, 6: mean 3, standard deviation sqrt(7), t = 3 / sqrt(7 / 3)
    a, b = [2.0, 5.0, 10.0], [1.0, 3.0, 4.0]
    t = 3 / math.sqrt(7 / 3)
    test = paired_test(a, b)
    assert (test.t, test.df) == (pytest.approx(t), 2)
    assert test.p == pytest.approx(1 - t / math.sqrt(2 + t**2))  # Student (1908), df = 2
    assert spread_of_pairs(a, b) == pytest.approx(math.sqrt(7))
    with pytest.raises(ValueError, match="as many values a side"):
        paired_test(a, b[:2])


@pytest.mark.parametrize("shift", [0.0, 0.1, 1e8])
def test_pairs_that_differ_by_rounding_alone_are_not_tested(shift: float) -> None:
    b = [0.1, 0.7, 1.3]
    assert math.isnan(paired_test([value + shift for value in b], b).p)
    assert math.isnan(paired_test([1.0], [2.0]).p)


def test_holm_by_hand() -> None:
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 = 0.02, 0.03, 0.06, 0.04;
    # the last is raised to 0.06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_does_not_count_tests_that_were_not_made() -> None:
    corrected = holm([0.02, NAN, 0.01])
    assert corrected[0] == pytest.approx(0.02)
    assert math.isnan(corrected[1])
    assert corrected[2] == pytest.approx(0.02)


def test_fishers_test_by_hand() -> None:
    # 3 of 3 against 0 of 3: two of the 20 ways to choose 3 of 6 are as extreme
    assert fisher_test(3, 3, 0, 3) == pytest.approx(0.1)
    # 2 of 3 against 0 of 3: (3 + 3) of the 15 ways to choose 2 of 6
    assert fisher_test(2, 3, 0, 3) == pytest.approx(0.4)


# ------------------------------------------------------------------ summaries


def test_summary_of_three_values() -> None:
    summary = summarize([1.0, 2.0, 4.0])
    assert (summary.n, summary.method) == (3, "BCa")
    assert summary.mean == pytest.approx(7 / 3)
    assert summary.std == pytest.approx(math.sqrt((16 / 9 + 1 / 9 + 25 / 9) / 2))
    assert 1 <= summary.low <= summary.mean <= summary.high <= 4
    assert summary == summarize([1.0, 2.0, 4.0])  # its randomness is seeded


def test_summaries_that_have_no_interval() -> None:
    assert summarize([]).n == 0
    assert math.isnan(summarize([]).mean)
    one, equal = summarize([2.0]), summarize([0.1, 0.1, 0.1])
    assert (one.mean, one.method) == (2.0, "")
    assert math.isnan(one.std)
    assert (equal.mean, equal.std, equal.method) == (pytest.approx(0.1), 0.0, "")
    assert math.isnan(equal.low)


def test_where_bca_fails_the_percentile_interval_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    real = stats.bootstrap

    def without_bca(*args: object, **options: object) -> object:
        result = real(*args, **options)
        if options["method"] == "BCa":
            result.confidence_interval = result.confidence_interval._replace(low=NAN)
        return result

    monkeypatch.setattr(stats, "bootstrap", without_bca)
    summary = summarize([1.0, 2.0, 4.0, 8.0])
    assert summary.method == "percentile"
    assert 1 <= summary.low < summary.mean < summary.high <= 8


def test_bootstrap_interval_of_many_values_is_the_normal_one() -> None:
    values = np.random.default_rng(1).standard_normal(400)
    summary = summarize(list(values))
    half = 1.96 * values.std(ddof=1) / 20
    assert summary.low == pytest.approx(values.mean() - half, abs=0.01)
    assert summary.high == pytest.approx(values.mean() + half, abs=0.01)


# ------------------------------------------------------------------ effect size


def test_hedges_g_by_hand() -> None:
    # difference -1, pooled standard deviation 1,
    # J(4) = Gamma(2) / (sqrt(2) Gamma(3/2)) = sqrt(2 / pi)
    effect = hedges_g([1.0, 2.0, 3.0], [2.0, 3.0, 4.0])
    assert effect.g == pytest.approx(-math.sqrt(2 / math.pi))
    assert effect.low < effect.g < effect.high
    turned = hedges_g([2.0, 3.0, 4.0], [1.0, 2.0, 3.0])
    assert (turned.g, turned.low, turned.high) == pytest.approx(
        (-effect.g, -effect.high, -effect.low)
    )


def test_the_interval_of_g_inverts_the_noncentral_t_distribution() -> None:
    a, b = [1.0, 2.0, 3.5, 3.0], [0.2, 1.0, 0.4]
    t, scale = student_test(a, b).t, math.sqrt(4 * 3 / 7)
    effect = hedges_g(a, b)
    assert stats.nct.cdf(t, 5, effect.low * scale) == pytest.approx(0.975, abs=1e-6)
    assert stats.nct.cdf(t, 5, effect.high * scale) == pytest.approx(0.025, abs=1e-6)


def test_g_is_unbiased_and_its_interval_covers() -> None:
    rng, effects = np.random.default_rng(2), []
    for _ in range(1500):
        effects.append(hedges_g(list(rng.standard_normal(3) + 1.5), list(rng.standard_normal(3))))
    assert np.mean([e.g for e in effects]) == pytest.approx(1.5, abs=0.1)
    assert np.mean([e.low <= 1.5 <= e.high for e in effects]) == pytest.approx(0.95, abs=0.017)


def test_enormous_effects_have_intervals_in_order() -> None:
    for shift in (3.0, 30.0, 300.0, 3e4, 3e8):
        effect = hedges_g([shift, shift + 0.01, shift + 0.02], [0.0, 0.01, 0.02])
        assert 0 < effect.low < effect.g < effect.high < math.inf


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_the_interval_of_g_covers_for_pairs(correlation: float) -> None:
    rng, found = np.random.default_rng(6), []
    for _ in range(1500):
        common = math.sqrt(correlation) * rng.standard_normal(3)
        a, b = (common + math.sqrt(1 - correlation) * rng.standard_normal(3) for _ in range(2))
        effect = hedges_g(list(a + 1.5), list(b), is_paired=True)
        found.append(effect.low <= 1.5 <= effect.high)
    assert np.mean(found) == pytest.approx(0.95, abs=0.025)


# ------------------------------------------------------------------ power

BOTH = pytest.mark.parametrize("is_paired", [True, False], ids=["paired", "Welch"])


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 394), (0.5, 64), (0.8, 26), (1.0, 17)])
def test_seeds_needed_are_those_of_published_tables(effect: float, seeds: int) -> None:
    # Cohen (1988), Table 2.4.1: 393, 64, 26, 17 at a two-sided 0.05 and power 0.80 (0.2: 394 when
    # computed exactly)
    assert seeds_needed(effect, is_paired=False) == seeds
    assert seeds_needed(-effect, is_paired=False) == seeds


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_pairs_needed_are_those_of_published_programs(effect: float, seeds: int) -> None:
    # G*Power 3.1, "means: difference between two dependent means", two-sided 0.05, power 0.80
    assert seeds_needed(effect, is_paired=True) == seeds


@BOTH
def test_seeds_needed_are_the_fewest(is_paired: bool) -> None:
    for effect in (0.7, 1.3, 2.0, 3.0):
        n = seeds_needed(effect, is_paired=is_paired)
        assert n is not None
        assert power_of_test(effect, n, n, is_paired=is_paired) >= 0.8
        assert n == 2 or power_of_test(effect, n - 1, n - 1, is_paired=is_paired) < 0.8


@BOTH
def test_seeds_that_no_sweep_can_have(is_paired: bool) -> None:
    assert seeds_needed(0.0, is_paired=is_paired) is None
    assert seeds_needed(NAN, is_paired=is_paired) is None
    assert seeds_needed(1e-3, is_paired=is_paired) is None
    assert seeds_needed(1e6, is_paired=is_paired) == 2


def test_power_without_an_effect_is_the_level() -> None:
    assert power_of_test(0.0, 3, 3, is_paired=True) == pytest.approx(0.05)
    assert power_of_test(0.0, 3, 3, is_paired=True, alpha=0.0125) == pytest.approx(0.0125)
    assert power_of_test(0.0, 20, 20, is_paired=False) == pytest.approx(0.05, abs=1e-3)
    assert power_of_test(0.0, 3, 3, is_paired=False) < 0.05  # Welch's test holds back


@BOTH
def test_detectable_effect_inverts_power(is_paired: bool) -> None:
    for n_a, n_b in ((2, 2), (3, 3), (3, 3 if is_paired else 5), (20, 20)):
        effect = detectable_effect(n_a, n_b, is_paired=is_paired)
        power = power_of_test(effect, n_a, n_b, is_paired=is_paired)
        assert power == pytest.approx(0.8, abs=1e-6)
    assert math.isnan(detectable_effect(1, 3, is_paired=is_paired))
    with pytest.raises(ValueError, match="at least 2"):
        power_of_test(1.0, 1, 3, is_paired=is_paired)


def test_pairing_by_seed_finds_what_independent_seeds_miss() -> None:
    """Correlation 0.8, three seeds, a difference of two standard deviations: 0.78, not 0.45."""
    effect = 2 / math.sqrt(2 * (1 - 0.8))  # in standard deviations of the differences
    assert power_of_test(effect, 3, 3, is_paired=True) == pytest.approx(0.78, abs=0.001)
    rng = np.random.default_rng(8)
    common = math.sqrt(0.8) * rng.standard_normal((50_000, 3))
    a, b = (common + math.sqrt(0.2) * rng.standard_normal((50_000, 3)) for _ in range(2))
    paired = stats.ttest_rel(a + 2, b, axis=1).pvalue < 0.05
    student, welch = (
        stats.ttest_ind(a + 2, b, axis=1, equal_var=equal).pvalue < 0.05 for equal in (True, False)
    )
    assert paired.mean() == pytest.approx(0.78, abs=0.01)
    assert (student & welch).mean() == pytest.approx(0.45, abs=0.015)


def test_tables_of_the_docs_are_what_the_functions_give() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "batch-size-sweeps.md").read_text()
    rows = [
        [float(cell) for cell in line.strip("| ").split("|")]
        for line in text.splitlines()
        if line.startswith("| ") and line[2].isdigit()
    ]
    seeds = [row for row in rows if len(row) == 7]
    found = [row for row in rows if len(row) == 5]
    assert [row[0] for row in seeds] == [0.5, 1, 2, 3]
    assert [row[0] for row in found] == [2, 3, 5, 10, 15]
    for effect, *counts in seeds:
        wanted = [
            seeds_needed(effect, is_paired=is_paired, alpha=alpha)
            for is_paired in (True, False)
            for alpha in (0.05, 0.0125, 0.00625)
        ]
        assert counts == wanted
    for n, *effects in found:
        limits = [
            detectable_effect(int(n), int(n), is_paired=is_paired, alpha=alpha)
            for is_paired in (True, False)
            for alpha in (0.05, 0.0125)
        ]
        assert effects == pytest.approx(limits, abs=0.005)


@pytest.mark.parametrize(
    ("n_a", "n_b", "alpha"),
    [(3, 3, 0.05), (6, 4, 0.05), (3, 3, 0.0125), (2, 2, 0.05), (2, 7, 0.05)],
)
def test_power_agrees_with_simulation(n_a: int, n_b: int, alpha: float) -> None:
    effect = detectable_effect(n_a, n_b, is_paired=False, alpha=alpha)
    rng = np.random.default_rng(3)
    a = rng.standard_normal((20_000, n_a)) + effect
    b = rng.standard_normal((20_000, n_b))
    welch = stats.ttest_ind(a, b, axis=1, equal_var=False).pvalue < alpha
    assert welch.mean() == pytest.approx(0.8, abs=0.011)  # four standard errors


@pytest.mark.parametrize(("n", "alpha"), [(2, 0.05), (3, 0.05), (3, 0.0125), (6, 0.05)])
def test_power_of_pairs_agrees_with_simulation(n: int, alpha: float) -> None:
    effect = detectable_effect(n, n, is_paired=True, alpha=alpha)
    differences = np.random.default_rng(3).standard_normal((20_000, n)) + effect
    found = stats.ttest_1samp(differences, 0, axis=1).pvalue < alpha
    assert found.mean() == pytest.approx(0.8, abs=0.011)
