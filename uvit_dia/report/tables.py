"""The tables of a sweep's report."""

import math
from collections.abc import Sequence

import numpy as np

from uvit_dia.report.comparisons import Comparison
from uvit_dia.report.page import Block, Fold, Heading, Table
from uvit_dia.report.results import SweepResults
from uvit_dia.report.statistics import summarize
from uvit_dia.report.words import (
    capital,
    places_for,
    shown,
    shown_change,
    shown_interval,
    shown_interval_to,
    shown_mean,
    shown_to,
    shown_with_spread,
    words,
)


def table_blocks(results: SweepResults, comparisons: Sequence[Comparison]) -> list[Block]:
    """Return the section of all tables, each folded."""
    tables = {"Mean and spread of each variant": _metric_table(results)} if results.settings else {}
    if comparisons:
        tables["Every test"] = _comparison_table(comparisons)
    tables["How steadily the runs train"] = _stability_table(results)
    tables["Every run"] = _cell_table(results)
    return [Heading("Tables"), *(Fold(title, [table]) for title, table in tables.items())]


def glance_table(comparisons: Sequence[Comparison]) -> Table:
    """Return what each comparison comes to, with no more digits than its interval allows."""
    rows = []
    for c in comparisons:
        low, high = c.decisive.low, c.decisive.high
        places = places_for(low, high)
        rows.append(
            {
                "batch size": str(c.batch_size),
                "variant": c.ours.variant,
                "what the seeds show": words("verdicts", c.verdict),
                "difference": shown_to(c.difference, places),
                "relative": shown_change(c.difference, c.base.summary.mean) or "–",
                "95% interval": shown_interval_to(low, high, places),
                "p": shown(c.p, 2),
            }
        )
    baseline = comparisons[0].base.variant
    return _table(words("tables", "glance", baseline=baseline), rows, labels=3)


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
        places = places_for(s.mean - s.std, s.mean + s.std)
        squares = [spread**2 for spread in results.values("value_spread", variant, size)]
        rows.append(
            {
                "batch size": str(size),
                "variant": variant,
                "seeds": str(s.n),
                "diverged": str(results.count("diverged", variant, size)),
                "mean": shown_mean(s.mean, places),
                "std. dev.": shown_to(s.std, places),
                "95% bootstrap interval": shown_interval_to(s.low, s.high, places)
                + (f" ({s.method})" if s.method else ""),
                "sampling spread": shown(math.sqrt(_mean(squares))),
                "precision": shown(_mean(results.values("precision", variant, size))),
                "recall": shown(_mean(results.values("recall", variant, size))),
            }
        )
    return _table(capital(words("tables", "metric", metric=results.metric_name)), rows, labels=2)


def _comparison_table(comparisons: Sequence[Comparison]) -> Table:
    rows = []
    for c in comparisons:
        needed, strict = c.needed(), c.needed(c.strictest)
        low, high = c.decisive.low, c.decisive.high
        places = places_for(low, high)
        rows.append(
            {
                "batch size": str(c.batch_size),
                "variant": c.ours.variant,
                "verdict": words("verdicts", c.verdict),
                "test": "–" if math.isnan(c.decisive.p) else "paired" if c.is_paired else "Welch",
                "difference": shown_to(c.difference, places),
                "95% interval": shown_interval_to(low, high, places),
                "p": shown(c.decisive.p, 2),
                "p, Holm": shown(c.p, 2),
                "Student's p": shown(c.student.p, 2),
                "Welch's p": shown(c.welch.p, 2),
                "Hedges' g": shown(c.effect.g),
                "g, 95% interval": shown_interval(c.effect.low, c.effect.high),
                "findable": _pair(shown(c.detectable(), 2), shown(c.detectable(c.strictest), 2)),
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
    return _table(capital(words("tables", "cells", metric=results.metric_name)), rows, labels=2)
