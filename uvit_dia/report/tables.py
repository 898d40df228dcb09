"""The tables of a sweep's report."""

import math
from collections.abc import Sequence

import numpy as np

from uvit_dia.report.comparison_text import joined, plural, shown, shown_interval
from uvit_dia.report.comparisons import Comparison
from uvit_dia.report.page import Block, Heading, Table
from uvit_dia.report.results import SweepResults
from uvit_dia.report.statistics import summarize


def table_blocks(results: SweepResults, comparisons: Sequence[Comparison]) -> list[Block]:
    """Return the section of all tables."""
    blocks: list[Block] = [Heading("Tables")]
    if results.settings:
        blocks.append(_metric_table(results))
    if comparisons:
        blocks.append(_comparison_table(comparisons))
    blocks += [_stability_table(results), _cell_table(results)]
    return blocks


def _groups(results: SweepResults) -> list[tuple[int, str]]:
    return [
        (size, variant) for size in results.plan.batch_sizes for variant in results.plan.variants
    ]


def _metric_table(results: SweepResults) -> Table:
    rows = []
    for size, variant in _groups(results):
        s = summarize(results.values("value", variant, size))
        spreads = results.values("value_spread", variant, size)
        rows.append(
            (
                str(size),
                variant,
                str(s.n),
                str(results.count("diverged", variant, size)),
                shown(s.mean, 4),
                shown(s.std),
                shown_interval(s.low, s.high, 4) + (f" ({s.method})" if s.method else ""),
                shown(float(np.sqrt(np.mean(np.square(spreads)))) if spreads else math.nan),
                _mean(results, "precision", variant, size),
                _mean(results, "recall", variant, size),
            )
        )
    caption = (
        f"{results.metric_name} over the training seeds: mean, standard deviation (n - 1), 95% bootstrap interval of "
        "the mean. The sampling spread is the standard deviation between sample seeds of the same weights: noise of "
        "the measurement, which is part of the standard deviation beside it."
    )
    header = (
        "batch size",
        "variant",
        "seeds",
        "diverged",
        "mean",
        "std. dev.",
        "95% bootstrap interval",
        "sampling spread",
        "precision",
        "recall",
    )
    return Table(caption, header, rows, words=2)


def _mean(results: SweepResults, column: str, variant: str, size: int) -> str:
    values = results.values(column, variant, size)
    return shown(float(np.mean(values)) if values else math.nan)


def _comparison_table(comparisons: Sequence[Comparison]) -> Table:
    rows = [
        (
            str(c.batch_size),
            c.ours.variant,
            c.verdict,
            shown(c.difference),
            shown_interval(c.low, c.high),
            shown(c.effect.g),
            shown_interval(c.effect.low, c.effect.high),
            _pair(shown(c.student.p, 2), "→", shown(c.student_holm, 2)),
            _pair(shown(c.welch.p, 2), "→", shown(c.welch_holm, 2)),
            _pair(shown(c.detectable), "/", shown(c.detectable_strict)),
            _pair(_seeds(c.needed), "/", _seeds(c.needed_strict)),
        )
        for c in comparisons
    ]
    caption = (
        f"Each variant against {comparisons[0].base.variant}; negative differences are better. p values before → after "
        "the Holm correction. Findable: the smallest difference that so many seeds find with power 0.8 at level 0.05 / "
        "at the strictest step of the correction. Seeds needed: a side, for an effect of the measured size, likewise."
    )
    header = (
        "batch size",
        "variant",
        "verdict",
        "difference",
        "95% interval",
        "Hedges' g",
        "95% interval",
        "Student's p",
        "Welch's p",
        "findable",
        "seeds needed",
    )
    return Table(caption, header, rows, words=3)


def _pair(first: str, sign: str, second: str) -> str:
    return first if first == second == "–" else f"{first} {sign} {second}"


def _with_spread(mean: float, spread: float) -> str:
    return shown(mean, 4) if math.isnan(spread) else f"{shown(mean, 4)} ± {shown(spread, 2)}"


def _seeds(count: int | None) -> str:
    return "–" if count is None else str(count)


def _stability_table(results: SweepResults) -> Table:
    rows = []
    for size, variant in _groups(results):
        mine = results.rows(variant, size)
        thousands = float(mine["last_step"].sum()) / 1000
        ended = sum(results.count(state, variant, size) for state in ("done", "diverged"))
        loss = summarize(results.values("final_loss", variant, size))
        rows.append(
            (
                str(size),
                variant,
                f"{results.count('diverged', variant, size)} of {ended}",
                _with_spread(loss.mean, loss.std),
                _mean(results, "grad_norm_mean", variant, size),
                _ratio(results, "grad_norm_std", variant, size),
                _ratio(results, "grad_norm_max", variant, size),
                _rate(results, "grad_spikes", variant, size, thousands),
                _rate(results, "loss_spikes", variant, size, thousands),
                shown(results.noise_scale(variant, size)),
                _mean(results, "update_ratio", variant, size),
            )
        )
    caption = (
        "How steadily the runs train, means over seeds. Final loss: mean ± standard deviation over seeds of the last "
        "10% of the log. Spread and largest gradient norm are relative to the run's mean norm; spikes are counted a "
        "thousand steps; the noise scale is the ratio of its two terms, each summed over the seeds, over the runs without their first tenth; the update ratio is a median over the run. No test was made on these."
    )
    header = (
        "batch size",
        "variant",
        "diverged",
        "final loss",
        "gradient norm",
        "spread / mean",
        "largest / mean",
        "gradient spikes",
        "loss spikes",
        "noise scale",
        "update ratio",
    )
    return Table(caption, header, rows, words=2)


def _ratio(results: SweepResults, column: str, variant: str, size: int) -> str:
    mine = results.rows(variant, size)
    ratios = mine[column].to_numpy(float) / mine["grad_norm_mean"].to_numpy(float)
    known = ratios[np.isfinite(ratios)]
    return shown(float(known.mean()) if len(known) else math.nan)


def _rate(results: SweepResults, column: str, variant: str, size: int, thousands: float) -> str:
    counts = results.values(column, variant, size)
    return shown(sum(counts) / thousands if counts and thousands else math.nan, 2)


def _cell_table(results: SweepResults) -> Table:
    rows = []
    for cell, row in zip(results.plan.cells, results.table.to_dict("records"), strict=True):
        rows.append(
            (
                cell.name,
                results.states[cell.name],
                f"{cell.num_steps:,}",
                f"{cell.images:,}",
                f"{cell.learning_rate:.4g}",
                _with_spread(float(row["value"]), float(row["value_spread"])),
                shown(float(row["final_loss"]), 4),
                results.reasons.get(cell.name, "")[:160],
            )
        )
    caption = (
        f"Every run. {results.metric_name}: mean over the sample seeds ± their standard deviation. results.csv has "
        "all columns."
    )
    header = (
        "run",
        "state",
        "steps",
        "images",
        "learning rate",
        results.metric_name,
        "final loss",
        "",
    )
    return Table(caption, header, rows, words=2)


def settings_block(results: SweepResults) -> list[Block]:
    """Return the section that says how the metric was measured."""
    settings = results.settings
    if not settings:
        return []
    table = results.table[results.table["value"].notna()]
    floors = sorted({shown(float(v), 4) for v in table["floor"] if math.isfinite(float(v))})
    seeds = sorted({int(v) for v in table["num_sample_seeds"]})
    nfe = sorted({int(v) for v in table["nfe"].dropna()})
    rows = [
        ("metric", results.metric_name),
        ("feature extractor", str(settings["extractor"])),
        ("its SHA-256", str(settings["extractor_sha256"])),
        ("SHA-256 of the reference images", str(settings["reference_sha256"])),
        ("sampled images (N)", str(settings["num_images"])),
        ("sampler", f"{settings['sampler']}, {settings['num_steps']} steps"),
        ("network evaluations an image (NFE)", joined(nfe)),
        ("weights", "averaged (EMA)" if settings["weights"] == "ema" else str(settings["weights"])),
        ("sample seeds a run", joined(plural(count, "seed") for count in seeds)),
        ("floor: real against real images", joined(floors)),
    ]
    return [
        Heading("How the metric was measured"),
        Table("The same for every number that is compared.", ("setting", "value"), rows, words=2),
    ]
