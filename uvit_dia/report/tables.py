"""The tables of a sweep's report."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from uvit_dia.report.cell_measures import finite, measured
from uvit_dia.report.comparisons import Comparison
from uvit_dia.report.page import Block, Heading, Table
from uvit_dia.report.results import SweepResults
from uvit_dia.report.statistics import summarize
from uvit_dia.report.words import (
    joined,
    plural,
    shown,
    shown_interval,
    shown_with_spread,
    words,
)
from uvit_dia.system.records import Record


def table_blocks(results: SweepResults, comparisons: Sequence[Comparison]) -> list[Block]:
    """Return the section of all tables."""
    blocks: list[Block] = [Heading("Tables")]
    if results.settings:
        blocks.append(_metric_table(results))
    if comparisons:
        blocks.append(_comparison_table(comparisons))
    blocks += [_stability_table(results), _cell_table(results)]
    return blocks


def _table(caption: str, rows: Sequence[dict[str, str]], labels: int) -> Table:
    """Return a table of rows that hold their cells by the names of the columns."""
    return Table(caption, tuple(rows[0]), [tuple(row.values()) for row in rows], labels)


def _groups(results: SweepResults) -> list[tuple[int, str]]:
    return [
        (size, variant) for size in results.plan.batch_sizes for variant in results.plan.variants
    ]


def _mean(numbers: Sequence[float]) -> float:
    known = [number for number in numbers if math.isfinite(number)]
    return float(np.mean(known)) if known else math.nan


def _metric_table(results: SweepResults) -> Table:
    rows = []
    for size, variant in _groups(results):
        s = summarize(results.values("value", variant, size))
        squares = [spread**2 for spread in results.values("value_spread", variant, size)]
        rows.append(
            {
                "batch size": str(size),
                "variant": variant,
                "seeds": str(s.n),
                "diverged": str(results.count("diverged", variant, size)),
                "mean": shown(s.mean, 4),
                "std. dev.": shown(s.std),
                "95% bootstrap interval": shown_interval(s.low, s.high, 4)
                + (f" ({s.method})" if s.method else ""),
                "sampling spread": shown(math.sqrt(_mean(squares))),
                "precision": shown(_mean(results.values("precision", variant, size))),
                "recall": shown(_mean(results.values("recall", variant, size))),
            }
        )
    return _table(words("tables", "metric", metric=results.metric_name), rows, labels=2)


def _comparison_table(comparisons: Sequence[Comparison]) -> Table:
    rows = []
    for c in comparisons:
        needed, strict = c.needed(), c.needed(c.strictest)
        rows.append(
            {
                "batch size": str(c.batch_size),
                "variant": c.ours.variant,
                "verdict": c.verdict,
                "test": "–" if math.isnan(c.decisive.p) else "paired" if c.is_paired else "Welch",
                "difference": shown(c.difference),
                "95% interval": shown_interval(c.decisive.low, c.decisive.high),
                "p": shown(c.decisive.p, 2),
                "p, Holm": shown(c.p, 2),
                "Student's p": shown(c.student.p, 2),
                "Welch's p": shown(c.welch.p, 2),
                "Hedges' g": shown(c.effect.g),
                "g, 95% interval": shown_interval(c.effect.low, c.effect.high),
                "findable": _pair(shown(c.detectable()), shown(c.detectable(c.strictest))),
                "seeds needed": _pair(*("–" if n is None else f"{n:,}" for n in (needed, strict))),
            }
        )
    baseline = comparisons[0].base.variant
    return _table(words("tables", "comparisons", baseline=baseline), rows, labels=4)


def _pair(first: str, second: str) -> str:
    return first if first == second else f"{first} / {second}"


def _stability_table(results: SweepResults) -> Table:
    rows = []
    for size, variant in _groups(results):
        mine = results.rows(variant, size)
        thousands = float(mine["last_step"].sum()) / 1000
        ended = sum(results.count(state, variant, size) for state in ("done", "diverged"))
        loss = summarize(results.values("final_loss", variant, size))
        norms = mine["grad_norm_mean"].where(mine["grad_norm_mean"] > 0)
        spread, largest = (
            shown(_mean((mine[name] / norms).tolist()))
            for name in ("grad_norm_std", "grad_norm_max")
        )
        gradient_spikes, loss_spikes = (
            shown(_per(results.values(name, variant, size), thousands), 2)
            for name in ("grad_spikes", "loss_spikes")
        )
        rows.append(
            {
                "batch size": str(size),
                "variant": variant,
                "diverged": f"{results.count('diverged', variant, size)} of {ended}",
                "final loss": shown_with_spread(loss.mean, loss.std),
                "gradient norm": shown(_mean(results.values("grad_norm_mean", variant, size))),
                "spread / mean": spread,
                "largest / mean": largest,
                "gradient spikes": gradient_spikes,
                "loss spikes": loss_spikes,
                "noise scale": shown(results.noise_scale(variant, size)),
                "update ratio": shown(_mean(results.values("update_ratio", variant, size))),
            }
        )
    return _table(words("tables", "stability"), rows, labels=2)


def _per(counts: Sequence[float], thousands: float) -> float:
    return sum(counts) / thousands if counts and thousands else math.nan


def _cell_table(results: SweepResults) -> Table:
    rows = [
        {
            "run": cell.cell.name,
            "state": cell.state,
            "steps": f"{cell.cell.num_steps:,}",
            "images": f"{cell.cell.images:,}",
            "learning rate": f"{cell.cell.learning_rate:.4g}",
            results.metric_name: shown_with_spread(float(row["value"]), float(row["value_spread"])),
            "final loss": shown(float(row["final_loss"]), 4),
            "": cell.reason[:160],
        }
        for cell, row in zip(results.cells, results.table.to_dict("records"), strict=True)
    ]
    return _table(words("tables", "cells", metric=results.metric_name), rows, labels=2)


def settings_block(results: SweepResults) -> list[Block]:
    """Return the section that says how the metric was measured."""
    settings = results.settings
    if not settings:
        return []
    table = results.table[results.table["value"].notna()]
    counts = {
        name: sorted({int(v) for v in table[name].dropna()}) for name in ("num_sample_seeds", "nfe")
    }
    rows = [
        ("metric", results.metric_name),
        ("feature extractor", str(settings["extractor"])),
        ("its SHA-256", str(settings["extractor_sha256"])),
        ("SHA-256 of the reference images", str(settings["reference_sha256"])),
        ("sampled images (N)", str(settings["num_images"])),
        ("sampler", f"{settings['sampler']}, {settings['num_steps']} steps"),
        *_guidance(settings),
        ("network evaluations an image (NFE)", _listed(counts["nfe"])),
        ("weights", "averaged (EMA)" if settings["weights"] == "ema" else str(settings["weights"])),
        ("sample seeds a run", _listed(plural(n, "seed") for n in counts["num_sample_seeds"])),
        *_marks(results),
    ]
    return [
        Heading("How the metric was measured"),
        Table(words("tables", "settings"), ("setting", "value"), rows, labels=2),
    ]


def _guidance(settings: Record) -> list[tuple[str, str]]:
    """Return the rows of networks that are told classes."""
    if settings.get("guidance_scale") is None:
        return []
    interval = settings.get("guidance_interval")
    limits = f", at timesteps {interval}" if interval else ""
    return [
        ("classes of the samples", str(settings.get("class_labels"))),
        ("guidance scale", f"{settings['guidance_scale']}{limits}"),
    ]


def _listed(values: Iterable[object]) -> str:
    return joined(list(values) or ["not recorded"])


def _marks(results: SweepResults) -> list[tuple[str, str]]:
    """Return the rows of what the metric is held against, as far as the records have it."""
    lines = [line for cell in results.cells for line in cell.evaluations]
    rows = [("floor: real against real images", _listed(sorted({_floor(x) for x in lines} - {""})))]
    if matched := finite(lines, "matched_value"):
        both = [line for line in lines if math.isfinite(measured(line, "matched_value"))]
        smaller = {f"{measured(line, 'matched_num_images'):.0f}" for line in both}
        floors = {_with_std(line, "matched_floor") for line in both}
        ends = f"{shown(min(matched), 4)} to {shown(max(matched), 4)}"
        told = f"{ends}, real images {joined(sorted(floors))}"
        rows.append((f"{results.metric_name} at {joined(sorted(smaller))} images", told))
    if gaussian := sorted({shown(mark, 4) for mark in finite(lines, "gaussian_mark")}):
        rows.append(("a Gaussian in pixels, which a model must beat", joined(gaussian)))
    return rows


def _with_std(line: Record, name: str) -> str:
    return shown_with_spread(measured(line, name), measured(line, f"{name}_std"))


def _floor(line: Record) -> str:
    """Return the floor of an evaluation and how it was drawn; of old versions there is less."""
    rule = line.get("floor_rule")
    if math.isnan(measured(line, "floor")):
        return f"{rule!s:.200}" if rule else ""
    draws, images = measured(line, "floor_draws"), measured(line, "floor_num_images")
    details = [f"mean ± standard deviation of {draws:.0f} draws"] if draws > 1 else []
    if rule:
        details.append(f"{rule!s:.200}")
    elif math.isfinite(images):
        details.append(f"{images:.0f} images of the split {line.get('floor_split')!s:.20}")
    text = _with_std(line, "floor")
    return f"{text} ({'; '.join(details)})" if details else text
