"""The statistics of the report, against closed forms, numbers worked out by hand, and simulation."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from uvit_dia.report import comparisons
from uvit_dia.report.comparison_text import (
    headline,
    joined,
    sentence,
    shown,
    shown_interval,
    shown_p,
)
from uvit_dia.report.comparisons import (
    HIGHER,
    LOWER,
    NOT_SHOWN,
    UNSETTLED,
    UNTESTED,
    Comparison,
    compare,
    correct,
)
from uvit_dia.report.power import (
    detectable_effect,
    power_of_both_tests,
    power_of_test,
    seeds_needed,
)
from uvit_dia.report.statistics import (
    UNKNOWN_EFFECT,
    Effect,
    Summary,
    difference_interval,
    fisher_test,
    hedges_g,
    holm,
    noncentral_t_cdf,
    pooled_std,
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
        assert math.isnan(test.p)
    assert all(map(math.isnan, difference_interval(a, b)))
    assert hedges_g(a, b) == UNKNOWN_EFFECT


def test_one_side_without_spread_is_tested_all_the_same() -> None:
    a, b = [1.0, 1.0, 1.0], [2.0, 2.2, 2.4]
    pooled = math.sqrt(0.08 / 4)
    assert student_test(a, b).t == pytest.approx(-1.2 / (pooled * math.sqrt(2 / 3)))


def test_the_interval_excludes_zero_exactly_where_students_test_passes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        a, b = rng.standard_normal(3), rng.standard_normal(4) + rng.uniform(0, 4)
        low, high = difference_interval(list(a), list(b))
        assert (student_test(list(a), list(b)).p < 0.05) == (low > 0 or high < 0)
        assert (low + high) / 2 == pytest.approx(a.mean() - b.mean())


def test_holm_by_hand() -> None:
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 = 0.02, 0.03, 0.06, 0.04; the last is raised to 0.06
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
    # difference -1, pooled standard deviation 1, J(4) = Gamma(2) / (sqrt(2) Gamma(3/2)) = sqrt(2 / pi)
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


def test_noncentral_cdf_holds_where_scipy_gives_nan() -> None:
    assert noncentral_t_cdf(-3.0, 4, 40.0) == 0
    assert noncentral_t_cdf(3.0, 4, -40.0) == 1


# ------------------------------------------------------------------ power


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 394), (0.5, 64), (0.8, 26), (1.0, 17)])
def test_seeds_needed_are_those_of_published_tables(effect: float, seeds: int) -> None:
    # Cohen (1988), Table 2.4.1: 393, 64, 26, 17 at a two-sided 0.05 and power 0.80 (0.2: 394 when computed exactly)
    assert seeds_needed(effect) == seeds
    assert seeds_needed(-effect) == seeds


def test_seeds_needed_are_the_fewest() -> None:
    for effect in (0.7, 1.3, 2.0, 3.0):
        n = seeds_needed(effect)
        assert n is not None
        assert power_of_both_tests(effect, n, n) >= 0.8
        assert n == 2 or power_of_both_tests(effect, n - 1, n - 1) < 0.8


def test_seeds_that_no_sweep_can_have() -> None:
    assert seeds_needed(0.0) is None
    assert seeds_needed(NAN) is None
    assert seeds_needed(1e-3) is None
    assert seeds_needed(1e6) == 2


def test_power_without_an_effect_is_the_level() -> None:
    assert power_of_test(0.0, 3, 5) == pytest.approx(0.05)
    assert power_of_test(0.0, 3, 3, alpha=0.0125) == pytest.approx(0.0125)


def test_detectable_effect_inverts_power() -> None:
    for n_a, n_b in ((2, 2), (3, 3), (3, 5), (20, 20)):
        power = power_of_both_tests(detectable_effect(n_a, n_b), n_a, n_b)
        assert power == pytest.approx(0.8, abs=1e-6)
    assert math.isnan(detectable_effect(1, 3))
    for power_of in (power_of_test, power_of_both_tests):
        with pytest.raises(ValueError, match="at least 2"):
            power_of(1.0, 1, 3)


def test_tables_of_the_docs_are_what_the_functions_give() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "batch-size-sweeps.md").read_text()
    rows = [
        [float(cell) for cell in line.strip("| ").split("|")]
        for line in text.splitlines()
        if line.startswith("| ") and line[2].isdigit()
    ]
    seeds = [row for row in rows if len(row) == 4]
    found = [row for row in rows if len(row) == 3]
    assert [row[0] for row in seeds] == [0.5, 1, 2, 3]
    assert [row[0] for row in found] == [2, 3, 5, 10, 15]
    for effect, *counts in seeds:
        assert counts == [seeds_needed(effect, alpha=alpha) for alpha in (0.05, 0.0125, 0.00625)]
    for n, *effects in found:
        wanted = [detectable_effect(int(n), int(n), alpha=alpha) for alpha in (0.05, 0.0125)]
        assert effects == pytest.approx(wanted, abs=0.005)


@pytest.mark.parametrize(
    ("n_a", "n_b", "alpha"),
    [(3, 3, 0.05), (6, 4, 0.05), (3, 3, 0.0125), (2, 2, 0.05), (2, 7, 0.05)],
)
def test_power_agrees_with_simulation(n_a: int, n_b: int, alpha: float) -> None:
    effect = detectable_effect(n_a, n_b, alpha=alpha)
    rng = np.random.default_rng(3)
    a = rng.standard_normal((20_000, n_a)) + effect
    b = rng.standard_normal((20_000, n_b))
    student = stats.ttest_ind(a, b, axis=1).pvalue < alpha
    welch = stats.ttest_ind(a, b, axis=1, equal_var=False).pvalue < alpha
    found = (student & welch).mean()
    assert found == pytest.approx(0.8, abs=0.011)  # four standard errors
    expected = power_of_test(effect, n_a, n_b, alpha=alpha)
    assert student.mean() == pytest.approx(expected, abs=0.011)
    assert found < student.mean()


# ------------------------------------------------------------------ the whole procedure


def make_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave tests, correction and verdict as they are, and take out what a simulation need not wait for."""
    monkeypatch.setattr(
        comparisons, "summarize", lambda v: Summary(len(v), float(np.mean(v)), 1.0, 0.0, 0.0, "")
    )
    monkeypatch.setattr(comparisons, "hedges_g", lambda *_: Effect(0.0, 0.0, 0.0))
    monkeypatch.setattr(comparisons, "detectable_effect", lambda *_, **__: 1.0)


def null_family(rng: np.random.Generator, shift: float = 0.0) -> list[Comparison]:
    """A sweep of four batch sizes and three seeds a side; only batch size 8 may differ."""
    return correct(
        [
            compare(
                size,
                ("dia", list(rng.standard_normal(3) + shift * (size == 8))),
                ("uvit", list(rng.standard_normal(3))),
            )
            for size in (8, 16, 32, 64)
        ]
    )


def test_false_findings_of_whole_sweeps_keep_to_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    make_cheap(monkeypatch)
    rng, count = np.random.default_rng(4), 1000
    families = [null_family(rng) for _ in range(count)]
    student = np.mean([any(c.student_holm < 0.05 for c in family) for family in families])
    uncorrected = np.mean([any(c.student.p < 0.05 for c in family) for family in families])
    found = np.mean([any(c.verdict in (LOWER, HIGHER) for c in family) for family in families])
    assert student == pytest.approx(0.05, abs=0.021)  # three standard errors
    assert found <= student  # a finding needs Welch's test too
    assert uncorrected > 0.15  # 1 - 0.95^4 = 0.185: what the correction is for


def test_a_large_effect_is_found_where_it_is_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_cheap(monkeypatch)
    rng = np.random.default_rng(5)
    families = [null_family(rng, shift=-15.0) for _ in range(100)]
    assert np.mean([family[0].verdict == LOWER for family in families]) > 0.95
    elsewhere = [any(c.verdict in (LOWER, HIGHER) for c in family[1:]) for family in families]
    assert np.mean(elsewhere) < 0.1


def test_correction_runs_over_the_batch_sizes_that_could_be_tested() -> None:
    samples = [
        ([1.0, 1.1, 1.2], [2.0, 2.1, 2.3]),
        ([1.0, 1.1, 1.3], [1.1, 1.2, 1.4]),
        ([1.0], [2.0]),
    ]
    family = correct(
        [compare(8 * 2**i, ("dia", a), ("uvit", b)) for i, (a, b) in enumerate(samples)]
    )
    assert [c.num_tests for c in family] == [2, 2, 2]
    assert family[0].student_holm == pytest.approx(2 * family[0].student.p)
    assert family[0].welch_holm == pytest.approx(2 * family[0].welch.p)
    assert math.isnan(family[2].student_holm)
    first = family[0]
    pooled = pooled_std(*samples[0])
    assert first.detectable == pytest.approx(pooled * detectable_effect(3, 3))
    assert first.detectable_strict == pytest.approx(pooled * detectable_effect(3, 3, alpha=0.025))
    assert first.needed == seeds_needed(first.effect.g)
    assert first.needed_strict == seeds_needed(first.effect.g, alpha=0.025)


# ------------------------------------------------------------------ sentences


def spoken(a: list[float], b: list[float], **facts: object) -> tuple[str, str, str]:
    comparison = compare(8, ("dia", a), ("uvit", b), **facts)  # type: ignore[arg-type]
    text = sentence(comparison).replace("\N{NO-BREAK SPACE}", " ")
    return comparison.verdict, headline(comparison, "FD"), text


def test_sentence_of_a_lower_and_of_a_higher_metric() -> None:
    low, high = [1.2, 1.25, 1.18], [1.6, 1.7, 1.62]
    verdict, head, text = spoken(low, high)
    assert (verdict, head) == (LOWER, "dia has the lower (better) FD.")
    assert "dia 1.210, uvit 1.640 (3 seeds a side): a difference of −0.430" in text
    assert "95% interval −0.533 to −0.327" in text
    assert "About 3 seeds a side find an effect of this size four times in five." in text
    verdict, head, text = spoken(high, low)
    assert (verdict, head) == (HIGHER, "dia has the higher (worse) FD.")
    assert "a difference of 0.430" in text


def test_sentence_where_no_difference_can_be_shown() -> None:
    verdict, head, text = spoken([1.2, 1.5, 1.3], [1.4, 1.3, 1.6])
    assert (verdict, head) == (NOT_SHOWN, "No difference from uvit that these seeds can show.")
    assert "Equal they need not be" in text
    assert "only differences above 0.536" in text  # 0.1528 pooled, times 3.507
    assert "would take about 59 seeds a side" in text
    assert "p = 0.47 by Student's test" in text


def test_sentence_of_a_difference_too_small_for_any_sweep() -> None:
    assert "out of reach" in spoken([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])[2]


def test_sentence_where_the_tests_disagree() -> None:
    verdict, head, text = spoken([1.0, 1.01, 0.99], [1.25, 1.1, 1.3])
    assert (verdict, head) == (UNSETTLED, "The two tests disagree; these seeds do not settle it.")
    assert "takes the two spreads for equal" in text


def test_sentence_of_what_only_the_correction_stopped() -> None:
    pairs = [([1.0, 1.1, 1.2], [1.3, 1.4, 1.25]), *([([1.0, 1.2, 1.4], [1.1, 1.3, 1.2])] * 3)]
    family = correct([compare(8, ("dia", a), ("uvit", b)) for a, b in pairs])
    assert family[0].verdict == NOT_SHOWN
    assert family[0].student.p < 0.05
    text = sentence(family[0])
    assert "after Holm's correction over 4 batch sizes" in text
    assert "Uncorrected" in text
    assert "such a value comes up by chance too often" in text


def test_sentence_with_one_seed() -> None:
    verdict, head, text = spoken([1.2], [1.3, 1.4])
    assert (verdict, head) == (UNTESTED, "No test can be made.")
    assert "With one seed of dia nothing says whether this is more than chance" in text
    assert "p =" not in text


def test_sentence_without_any_spread() -> None:
    verdict, _, text = spoken([1.0, 1.0], [2.0, 2.0])
    assert verdict == UNTESTED
    assert "exactly the same value" in text
    assert "All 3 seeds of dia gave exactly the same" in spoken([1.0] * 3, [1.2, 1.4, 1.3])[2]


def test_sentence_without_a_value() -> None:
    verdict, _, text = spoken([], [1.0, 1.1], planned=(3, 3), diverged=(3, 0))
    assert verdict == UNTESTED
    assert "There is no value of dia to compare." in text
    assert "Diverged: 3 of 3 seeds of dia, 0 of 2 of uvit (Fisher's exact test: p = 0.10)" in text
    assert "survivors" not in text
    assert "Planned seeds still without a comparable value: 1 of 3 of uvit." in text


def test_sentence_counts_divergences_among_survivors() -> None:
    _, _, text = spoken([1.2, 1.3, 1.24], [1.5, 1.3], planned=(3, 3), diverged=(0, 1))
    assert "Diverged: 0 of 3 seeds of dia, 1 of 3 of uvit" in text
    assert "the means are over the survivors, which flatters the side that lost more" in text


# ------------------------------------------------------------------ numbers for readers


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.35, "0.350"), (-1.5, "−1.50"), (1234.4, "1234"), (250.0, "250"), (NAN, "–"), (0.0, "0.00")],
)
def test_numbers_are_shown_with_three_digits(value: float, text: str) -> None:
    assert shown(value) == text


def test_other_texts() -> None:
    assert shown(math.inf) == "∞"
    assert shown(1.5e-9, 2) == "1.5e−9"
    assert shown_p(1e-7) == "p\N{NO-BREAK SPACE}<\N{NO-BREAK SPACE}0.0001"
    assert shown_interval(1.0, 2.0) == "1.00 to 2.00"
    assert shown_interval(NAN, 2.0) == "–"
    assert joined([8, 16, 32]) == "8, 16 and 32"
    assert joined([8]) == "8"
    assert joined([]) == "none"
