"""Comparisons with the baseline: the rule that decides, the family of tests, the sentences."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.support.synthetic_sweeps import evaluation, make_sweep, write_lines
from uvit_dia.report import comparisons
from uvit_dia.report.certainty import certainty
from uvit_dia.report.comparisons import (
    HIGHER,
    LOWER,
    NOT_SHOWN,
    NOT_TESTED,
    Comparison,
    compare,
    compare_variants,
    correct,
)
from uvit_dia.report.effects import (
    Effect,
    detectable_effect,
    seeds_needed,
    small_sample_correction,
)
from uvit_dia.report.results import read_results
from uvit_dia.report.sentences import answer, headline, sentence
from uvit_dia.report.statistics import (
    Summary,
    holm,
    paired_test,
    pooled_std,
    spread_of_pairs,
    student_test,
    welch_test,
)
from uvit_dia.report.words import (
    joined,
    places_for,
    shown,
    shown_change,
    shown_interval,
    shown_mean,
    shown_p,
    shown_to,
)

NAN = math.nan


def seeded(values: list[float], first: int = 0) -> dict[int, float]:
    return dict(enumerate(values, start=first))


def compared(a: list[float], b: list[float], *, paired: bool, **facts: object) -> Comparison:
    """Compare two lists; with other seeds on the other side they are not paired."""
    other = seeded(b, first=0 if paired else 100)
    return compare(8, ("dia", seeded(a)), ("uvit", other), **facts)  # type: ignore[arg-type]


# ------------------------------------------------------------------ the rule


def test_the_paired_test_decides_where_both_sides_finished_the_same_seeds() -> None:
    a, b = {2: 1.0, 0: 1.3, 1: 1.1}, {0: 1.5, 1: 1.25, 2: 1.3}
    found = compare(8, ("dia", a), ("uvit", b))
    wanted = paired_test([1.3, 1.1, 1.0], [1.5, 1.25, 1.3])  # by seed, not in the order given
    assert found.is_paired
    assert found.decisive == found.paired == wanted
    assert found.p == wanted.p
    assert found.student == student_test([1.3, 1.1, 1.0], [1.5, 1.25, 1.3])
    assert found.welch == welch_test([1.3, 1.1, 1.0], [1.5, 1.25, 1.3])


@pytest.mark.parametrize("lost", [0, 2])
def test_welchs_test_decides_where_a_side_lost_a_seed(lost: int) -> None:
    a, b = seeded([1.0, 1.3, 1.1, 1.2]), seeded([1.5, 1.25, 1.3, 1.4])
    del b[lost]
    found = compare(8, ("dia", a), ("uvit", b))
    assert not found.is_paired
    assert math.isnan(found.paired.p)
    assert found.decisive == found.welch == welch_test(list(a.values()), list(b.values()))


def test_the_rule_does_not_look_at_the_values() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = (list(rng.standard_normal(3) * 10 ** rng.uniform(-3, 3)) for _ in range(2))
        assert compared(a, b, paired=True).is_paired
        assert not compared(a, b, paired=False).is_paired


def test_power_speaks_of_the_test_that_decides() -> None:
    a, b = [1.0, 1.2, 1.5, 1.1], [1.3, 1.35, 1.9, 1.45]
    pairs, sides = compared(a, b, paired=True), compared(a, b, paired=False)
    spread = spread_of_pairs(a, b)
    assert pairs.spread == pytest.approx(spread)
    assert pairs.detectable() == pytest.approx(spread * detectable_effect(4, 4, is_paired=True))
    effect = small_sample_correction(3) * pairs.difference / spread
    assert pairs.needed() == seeds_needed(effect, is_paired=True)
    pooled = pooled_std(a, b)
    assert sides.detectable() == pytest.approx(pooled * detectable_effect(4, 4, is_paired=False))
    assert sides.needed() == seeds_needed(sides.effect.g, is_paired=False)
    assert pairs.detectable() < sides.detectable()  # these seeds move together


# ------------------------------------------------------------------ the whole procedure


def make_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave tests, correction and verdict, and take out what a simulation need not wait for."""
    monkeypatch.setattr(
        comparisons, "summarize", lambda v: Summary(len(v), float(np.mean(v)), 1.0, 0.0, 0.0, "")
    )
    monkeypatch.setattr(comparisons, "hedges_g", lambda *_, **__: Effect(0.0, 0.0, 0.0))


def null_family(
    rng: np.random.Generator, *, paired: bool, num_variants: int = 1, shift: float = 0.0
) -> list[Comparison]:
    """A sweep of four batch sizes and three seeds; only batch size 8 of `dia0` may differ."""
    family = []
    for size in (8, 16, 32, 64):
        base = seeded(list(rng.standard_normal(3)), first=0 if paired else 100)
        for variant in range(num_variants):
            moved = shift * (size == 8 and variant == 0)
            ours = seeded(list(rng.standard_normal(3) + moved))
            family.append(compare(size, (f"dia{variant}", ours), ("uvit", base)))
    return correct(family)


@pytest.mark.parametrize(("paired", "num_variants"), [(True, 1), (False, 1), (True, 3)])
def test_false_findings_of_whole_reports_keep_to_the_level(
    monkeypatch: pytest.MonkeyPatch, paired: bool, num_variants: int
) -> None:
    make_cheap(monkeypatch)
    rng, count = np.random.default_rng(4), 450 // num_variants
    families = [null_family(rng, paired=paired, num_variants=num_variants) for _ in range(count)]
    found = np.mean([any(c.verdict in (LOWER, HIGHER) for c in family) for family in families])
    uncorrected = np.mean([any(c.decisive.p < 0.05 for c in family) for family in families])
    assert found <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / count)  # three standard errors
    assert uncorrected > 0.1  # what the correction is for
    if paired and num_variants == 1:  # independent exact tests: 1 - 0.95^4
        assert uncorrected == pytest.approx(0.185, abs=0.055)


def test_a_large_effect_is_found_where_it_is_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_cheap(monkeypatch)
    rng = np.random.default_rng(5)
    families = [null_family(rng, paired=False, shift=-15.0) for _ in range(100)]
    assert np.mean([family[0].verdict == LOWER for family in families]) > 0.95
    elsewhere = [any(c.verdict in (LOWER, HIGHER) for c in family[1:]) for family in families]
    assert np.mean(elsewhere) < 0.1


def test_correction_runs_over_the_comparisons_that_could_be_tested() -> None:
    samples = [
        ([1.0, 1.1, 1.2], [2.0, 2.15, 2.2]),
        ([1.0, 1.1, 1.3], [1.1, 1.2, 1.45]),
        ([1.0], [2.0]),
    ]
    family = correct([compared(a, b, paired=True) for a, b in samples])
    assert [c.num_tests for c in family] == [2, 2, 2]
    first = family[0]
    assert first.p == pytest.approx(2 * first.paired.p)
    assert math.isnan(family[2].p)
    assert first.strictest == 0.025
    wanted = detectable_effect(3, 3, is_paired=True, alpha=0.025)
    assert first.detectable(first.strictest) == pytest.approx(first.spread * wanted)


def test_a_report_is_one_family_of_variants_and_batch_sizes(tmp_path: Path) -> None:
    """Eleven variants; one looks lower on its own, as in results/appendix/digits_ablations."""
    variants = ("uvit", *(f"option_{index}" for index in range(11)))
    for cell in make_sweep(tmp_path, variants=variants, batch_sizes=(32,)):
        rng = np.random.default_rng([cell["seed"], len(cell["variant"]), ord(cell["variant"][-1])])
        value = 23.5 + 0.5 * rng.standard_normal()
        if cell["variant"] == "option_7":
            value = 22.9 + 0.01 * cell["seed"]
        if cell["variant"] == "uvit":
            value = 23.5 + 0.2 * (cell["seed"] - 1)
        lines = [evaluation(cell["num_steps"], value, seed) for seed in (0, 1)]
        write_lines(tmp_path / "cells" / cell["name"] / "eval.jsonl", lines)
    found = {c.ours.variant: c for c in compare_variants(read_results(tmp_path))}
    one = found["option_7"]
    assert one.decisive.p < 0.05
    assert (one.num_tests, one.verdict) == (11, NOT_SHOWN)
    assert one.p >= 10 * one.decisive.p
    corrected = holm([c.decisive.p for c in found.values()])
    assert [c.p for c in found.values()] == corrected
    assert not [c for c in found.values() if c.verdict in (LOWER, HIGHER)]


def test_dunnetts_test_does_not_fit_unequal_spreads() -> None:
    """Why the correction is Holm's: Dunnett's test pools spreads that differ between variants."""
    rng = np.random.default_rng(0)
    found = [
        stats.dunnett(
            *rng.standard_normal((4, 3)), control=4 * rng.standard_normal(3), rng=0
        ).pvalue.min()
        < 0.05
        for _ in range(100)
    ]
    assert np.mean(found) > 0.15


# ------------------------------------------------------------------ sentences


def spoken(
    a: list[float], b: list[float], *, paired: bool = False, **facts: object
) -> tuple[str, str, str]:
    comparison = compared(a, b, paired=paired, **facts)
    text = sentence(comparison).replace("\N{NO-BREAK SPACE}", " ")
    return comparison.verdict, headline(comparison, "FD"), text


def test_sentence_of_a_lower_and_of_a_higher_metric() -> None:
    low, high = [1.2, 1.25, 1.18], [1.6, 1.7, 1.62]
    verdict, head, text = spoken(low, high)
    assert (verdict, head) == (LOWER, "dia has the lower (better) FD.")
    assert (
        "dia 1.21, uvit 1.64 (3 seeds a side). The difference is −0.43 (−26%), 95% interval" in text
    )
    assert "95% interval −0.54 to −0.32." in text  # Welch's
    assert (
        "About 3 seeds a side would find a difference of this size in four of five sweeps." in text
    )
    verdict, head, text = spoken(high, low)
    assert (verdict, head) == (HIGHER, "dia has the higher (worse) FD.")
    assert "The difference is 0.43 (+36%)" in text


def test_sentence_of_pairs() -> None:
    verdict, _, text = spoken([1.2, 1.5, 1.3], [1.4, 1.75, 1.52], paired=True)
    assert verdict == LOWER
    assert (
        "(3 pairs of seeds). The difference is −0.22 (−14%), 95% interval −0.29 to −0.16." in text
    )
    assert "p = 0.0042 by the paired t-test." in text
    assert "About 3 seeds a side would find" in text


def test_sentence_where_no_difference_can_be_shown() -> None:
    verdict, head, text = spoken([1.2, 1.5, 1.3], [1.4, 1.3, 1.6])
    assert (verdict, head) == (NOT_SHOWN, "No sure difference from uvit.")
    assert "This does not show that they are equal" in text
    assert (
        "only differences above 0.54 in four of five sweeps" in text
    )  # 0.1528 pooled, times 3.507
    assert "would take about 59 seeds a side" in text
    assert "p = 0.47 by Welch's t-test" in text


def test_sentence_of_a_difference_too_small_for_any_sweep() -> None:
    assert "out of reach" in spoken([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])[2]


def test_sentence_of_two_pairs() -> None:
    """Their spread has one degree of freedom, with which no effect can be estimated."""
    verdict, _, text = spoken([1.0, 1.2], [1.3, 1.4], paired=True)
    assert verdict == NOT_SHOWN
    assert (
        "2 pairs of seeds find only differences above 0.82 in four of five sweeps. So few" in text
    )
    verdict, _, text = spoken([1.0, 1.2], [1.3, 1.5001], paired=True)
    assert verdict == LOWER
    assert "So few pairs cannot tell how many seeds" in text


def test_sentence_of_what_only_the_correction_stopped() -> None:
    pairs = [([1.0, 1.1, 1.2], [1.3, 1.4, 1.25]), *([([1.0, 1.2, 1.4], [1.1, 1.3, 1.2])] * 3)]
    family = correct([compared(a, b, paired=False) for a, b in pairs])
    assert family[0].verdict == NOT_SHOWN
    assert family[0].welch.p < 0.05
    text = sentence(family[0])
    assert "by Welch's t-test, corrected for 4 comparisons" in text
    assert "Before the correction it is below 0.05" in text
    assert "such a value comes up by chance too often" in text


def test_sentence_with_one_seed() -> None:
    verdict, head, text = spoken([1.2], [1.3, 1.4])
    assert (verdict, head) == (NOT_TESTED, "No test can be made.")
    assert "dia has one seed. One seed cannot tell a difference from chance" in text
    assert "p =" not in text


def test_sentence_without_any_spread() -> None:
    for paired in (True, False):
        verdict, _, text = spoken([1.0, 1.0], [2.0, 2.0], paired=paired)
        assert verdict == NOT_TESTED
        assert "exactly the same value" in text
    assert "All 3 seeds of dia gave exactly the same" in spoken([1.0] * 3, [1.2, 1.4, 1.3])[2]


def test_sentence_of_pairs_that_all_differ_by_the_same() -> None:
    for shift in (0.0, 0.5):
        verdict, _, text = spoken([1.0 + shift, 1.25 + shift], [1.0, 1.25], paired=True)
        assert verdict == NOT_TESTED
        assert "The difference is exactly the same for every seed" in text


def test_sentence_without_a_value() -> None:
    verdict, _, text = spoken([], [1.0, 1.1], planned=(3, 3), diverged=(3, 0))
    assert verdict == NOT_TESTED
    assert "There is no value of dia to compare." in text
    assert "Diverged: 3 of 3 seeds of dia, 0 of 2 of uvit (Fisher's exact test: p = 0.10)" in text
    assert "survivors" not in text
    assert "Planned seeds still without a comparable value: 1 of 3 of uvit." in text


def test_sentence_counts_divergences_among_survivors() -> None:
    _, _, text = spoken([1.2, 1.3, 1.24], [1.5, 1.3], planned=(3, 3), diverged=(0, 1))
    assert "Diverged: 0 of 3 seeds of dia, 1 of 3 of uvit" in text
    assert "The means are over the survivors, which flatters the side that lost more" in text


LOW, HIGH = ([1.2, 1.25, 1.18], [1.6, 1.7, 1.62]), ([1.6, 1.7, 1.62], [1.2, 1.25, 1.18])
SAME, SINGLE = ([1.2, 1.5, 1.3], [1.4, 1.3, 1.6]), ([1.2], [1.3])


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        (
            [LOW, SAME, SAME],
            "Yes. Against the baseline uvit, FD is lower (better) for dia at batch size 8 (−26%). "
            "No sure difference in 2 other comparisons.",
        ),
        (
            [LOW, HIGH, SAME, SINGLE],
            "Yes. Against the baseline uvit, FD is lower (better) for dia at batch size 8 (−26%) "
            "and higher (worse) for dia at batch size 16 (+36%). No sure difference in 1 other "
            "comparison. 1 comparison could not be tested.",
        ),
        (
            [SAME, SAME],
            "No sure difference from the baseline uvit, in any of 2 comparisons.",
        ),
        ([SAME], "No sure difference from the baseline uvit."),
        (
            [SAME, SINGLE],
            "No sure difference from the baseline uvit. 1 comparison could not be tested.",
        ),
        ([SINGLE], "Not known: no comparison with the baseline uvit could be tested."),
    ],
)
def test_the_answer_is_a_few_short_sentences(samples: list, text: str) -> None:
    family = [
        compare(8 * 2**index, ("dia", seeded(a)), ("uvit", seeded(b, first=100)))
        for index, (a, b) in enumerate(samples)
    ]
    assert answer(family, "FD") == text


def test_the_answer_of_one_batch_size_names_variants_alone() -> None:
    samples = {"dia": HIGH, "se": HIGH, "srm": SAME}
    family = [
        compare(8, (variant, seeded(a)), ("uvit", seeded(b, first=100)))
        for variant, (a, b) in samples.items()
    ]
    assert answer(family, "FD") == (
        "Yes. Against the baseline uvit, FD is higher (worse) for dia and se (+36%). No sure "
        "difference for srm."
    )


def test_how_sure_speaks_of_the_weakest_evidence_and_the_largest_difference_missed() -> None:
    family = [compared(*samples, paired=False) for samples in (LOW, SAME)]
    lines = dict(certainty(family, 0))
    assert list(lines) == ["Evidence.", "False findings.", "Missed differences."]
    assert f"{shown_p(family[0].p)}, by Welch's t-test, corrected for 2" in lines["Evidence."]
    largest = max(c.detectable(c.strictest) for c in family)
    assert (
        f"With 3 seeds a side, a true difference of {shown(largest, 2)} ("
        in (lines["Missed differences."])
    )
    lines = dict(certainty([compared(*SAME, paired=True)], 2))
    assert list(lines) == ["Evidence.", "Missed differences.", "Lost runs."]
    assert lines["Evidence."].endswith("by the paired t-test. Only a p below 0.05 counts.")
    assert "2 runs diverged" in lines["Lost runs."]
    lines = dict(certainty([compared(*SINGLE, paired=False)], 0))
    assert list(lines) == ["Missed differences.", "Not tested."]
    assert "Without a test" in lines["Missed differences."]


# ------------------------------------------------------------------ numbers for readers


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.35, "0.350"), (-1.5, "−1.50"), (1234.4, "1234"), (250.0, "250"), (NAN, "–"), (0.0, "0.00")],
)
def test_numbers_are_shown_with_three_digits(value: float, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0.000891, 0.00196, ("0.0009", "0.0020")),
        (-0.000141, 0.00214, ("−0.0001", "0.0021")),
        (-0.538, -0.322, ("−0.54", "−0.32")),
        (-31.0, 40.0, ("−31", "40")),
        (0.0004, 0.2, ("0.0004", "0.2000")),  # an end that is not 0 never looks like 0
        (1e-12, 3e-12, ("1.00e−12", "3.00e−12")),
        (-1e300, 1e300, ("−1.00e300", "1.00e300")),
        (NAN, 1.0, ("–", "1.00")),
    ],
)
def test_intervals_have_the_decimals_that_they_deserve(
    low: float, high: float, texts: tuple[str, str]
) -> None:
    places = places_for(low, high)
    assert (shown_to(low, places), shown_to(high, places)) == texts


def test_means_and_changes_have_few_digits() -> None:
    assert shown_mean(0.041234, 4) == "0.0412"
    assert shown_mean(3.4321, 0) == "3.43"  # never under three digits
    assert shown_mean(NAN, 2) == "–"
    assert shown_change(0.00143, 0.04123) == "+3.5%"
    assert shown_change(-1.0, 2.0) == "−50%"
    assert (shown_change(1.0, 0.0), shown_change(NAN, 1.0)) == ("", "")


def test_other_texts() -> None:
    assert shown(math.inf) == "∞"
    assert shown(1.5e-9, 2) == "1.5e−9"
    assert shown_p(1e-7) == "p\N{NO-BREAK SPACE}<\N{NO-BREAK SPACE}0.0001"
    assert shown_interval(1.0, 2.0) == "1.00 to 2.00"
    assert shown_interval(NAN, 2.0) == "–"
    assert joined([8, 16, 32]) == "8, 16 and 32"
    assert joined([8]) == "8"
    assert joined([]) == "none"
