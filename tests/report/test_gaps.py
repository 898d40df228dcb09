"""Sweeps with holes: any measure missing or impossible anywhere, few cells, nothing but divergence.

Whatever is missing, the report is made, draws what is there, and shows no number that is none.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.synthetic_sweeps import make_sweep, write_lines
from uvit_dia.report import statistics
from uvit_dia.report.comparisons import compare_variants
from uvit_dia.report.figure_columns import metric_figure, noise_figure
from uvit_dia.report.figures import FIGURES
from uvit_dia.report.page import to_html, to_markdown
from uvit_dia.report.results import read_results, results_csv
from uvit_dia.report.sections import report_blocks

LOGGED = (
    "loss",
    "grad_norm",
    "grad_norm_std",
    "grad_norm_min",
    "grad_norm_max",
    "noise_scale_signal",
    "noise_scale_noise",
    "update_ratio",
    "loss_spikes",
    "grad_spikes",
)
MEASURED = ("value", "floor", "floor_std", "gaussian_mark", "kd", "precision", "recall", "nfe")
SCOPES: dict[str, Callable[[dict], bool]] = {
    "one cell": lambda c: c["name"] == "uvit-b0008-s0",
    "one seed": lambda c: c["seed"] == 1,
    "one batch size": lambda c: c["batch_size"] == 8,
    "baseline": lambda c: c["variant"] == "uvit",
    "other variant": lambda c: c["variant"] == "dia_lstm",
    "all but one cell": lambda c: c["name"] != "dia_lstm-b0016-s1",
    "all cells": lambda _: True,
}
MISSING = object()


def change_lines(path: Path, key: str, value: object) -> None:
    """Set a key in every line of a file, or take it out."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if value is MISSING:
            line.pop(key, None)
        else:
            line[key] = value
    write_lines(path, lines)


def small_sweep(folder: Path, **changes: Any) -> list[dict]:
    shape: dict[str, Any] = {"batch_sizes": (8, 16), "seeds": (0, 1)} | changes
    cells = make_sweep(folder, **shape)
    for cell in cells:  # what newer versions record
        path = folder / "cells" / cell["name"] / "eval.jsonl"
        if path.exists():
            change_lines(path, "floor_std", 0.05)
            change_lines(path, "gaussian_mark", 2.5)
    return cells


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "BOOTSTRAP_RESAMPLES", 99)


def check_report(folder: Path, *, is_laid_out: bool = False) -> str:
    """Make every part of a report, without writing pictures; return its words."""
    results = read_results(folder)
    for draw in FIGURES.values():
        drawn = draw(results)
        if drawn is not None:
            if not is_laid_out:
                drawn.set_layout_engine("none")  # which takes most of the time
            drawn.canvas.draw()
    comparisons = compare_variants(results) if results.settings else []
    blocks = report_blocks(results, comparisons, {})
    text = to_markdown("Sweep", blocks)
    assert to_html("Sweep", blocks)
    assert results_csv(results)
    assert not re.search(r"\b(?:nan|inf|none|null)\b", text.replace("none of", ""), re.IGNORECASE)
    return text


def spread_out(names: Sequence[str], others: Sequence[str], fast: int) -> list:
    """Return all pairs of names; a name with more than `fast` of the others is slow."""
    cases = []
    for row, name in enumerate(names):
        for column, other in enumerate(others):
            is_fast = (column - row) % len(others) < fast
            cases.append(pytest.param(name, other, marks=() if is_fast else pytest.mark.slow))
    return cases


@pytest.mark.parametrize(
    ("measure", "scope"), spread_out((*LOGGED, *MEASURED), tuple(SCOPES), fast=1)
)
def test_a_measure_that_is_missing(tmp_path: Path, measure: str, scope: str) -> None:
    for cell in filter(SCOPES[scope], small_sweep(tmp_path)):
        name = "metrics.jsonl" if measure in LOGGED else "eval.jsonl"
        change_lines(tmp_path / "cells" / cell["name"] / name, measure, MISSING)
    check_report(tmp_path)


IMPOSSIBLE = {
    repr(value)[:12]: value
    for value in [
        *(None, math.nan, math.inf, -math.inf, 10**400, 1e300, -1e300, 1e38, 0, -1.0),
        *("1", [], True),
    ]
}


@pytest.mark.parametrize(
    ("value", "scope"), spread_out(tuple(IMPOSSIBLE), ("all cells", "one cell", "other variant"), 1)
)
def test_a_measure_that_is_impossible(tmp_path: Path, value: str, scope: str) -> None:
    for cell in filter(SCOPES[scope], small_sweep(tmp_path)):
        home = tmp_path / "cells" / cell["name"]
        for measure in LOGGED:
            change_lines(home / "metrics.jsonl", measure, IMPOSSIBLE[value])
        for measure in MEASURED:
            change_lines(home / "eval.jsonl", measure, IMPOSSIBLE[value])
    check_report(tmp_path, is_laid_out=True)


@pytest.mark.parametrize(
    ("name", "scope"),
    spread_out(("metrics.jsonl", "eval.jsonl", "config.json", "env.json"), tuple(SCOPES), fast=1),
)
def test_a_file_that_is_missing(tmp_path: Path, name: str, scope: str) -> None:
    for cell in filter(SCOPES[scope], small_sweep(tmp_path)):
        (tmp_path / "cells" / cell["name"] / name).unlink()
    check_report(tmp_path)


@pytest.mark.parametrize(
    ("state", "scope"),
    spread_out(("diverged", "running", "failed", "preempted", "waiting"), tuple(SCOPES), fast=1),
)
def test_cells_that_did_not_finish(tmp_path: Path, state: str, scope: str) -> None:
    cells = small_sweep(tmp_path / "plan")
    states = {cell["name"]: state for cell in filter(SCOPES[scope], cells)}
    small_sweep(tmp_path / "sweep", states=states)
    text = check_report(tmp_path / "sweep")
    assert f"{len(states)} {state}" in text


@pytest.mark.parametrize("variants", [("uvit",), ("uvit", "dia_lstm")])
@pytest.mark.parametrize("batch_sizes", [(8,), (8, 16)])
@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_small_sweeps(
    tmp_path: Path, variants: tuple, batch_sizes: tuple, seeds: tuple, spread: float
) -> None:
    small_sweep(tmp_path, variants=variants, batch_sizes=batch_sizes, seeds=seeds, spread=spread)
    check_report(tmp_path, is_laid_out=True)


def test_a_cell_that_the_sweep_did_not_plan(tmp_path: Path) -> None:
    """A plan need not be a full grid."""
    small_sweep(tmp_path)
    content = json.loads((tmp_path / "sweep.json").read_text())
    content["cells"] = [c for c in content["cells"] if c["name"] != "dia_lstm-b0008-s0"][:-2]
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    check_report(tmp_path)


def test_a_noise_scale_of_all_seeds_together_where_no_seed_has_one(tmp_path: Path) -> None:
    """A short run: the signal of one seed and the noise of the other are negative by chance."""
    terms = {0: (10.0, -1.0), 1: (-1.0, 3.0)}
    for cell in small_sweep(tmp_path):
        noise, signal = terms[cell["seed"]]
        home = tmp_path / "cells" / cell["name"]
        change_lines(home / "metrics.jsonl", "noise_scale_noise", noise)
        change_lines(home / "metrics.jsonl", "noise_scale_signal", signal)
    results = read_results(tmp_path)
    assert results.values("noise_scale", "uvit", 8) == []
    assert results.noise_scale("uvit", 8) == pytest.approx(9 / 2)
    drawn = noise_figure(results)
    assert drawn is not None
    assert drawn.axes[0].containers[0].lines[0].get_ydata() == pytest.approx([4.5, 4.5])
    check_report(tmp_path)


@pytest.mark.parametrize(("mark", "word"), [(2.1, ""), (17.2, "above"), (0.1, "below")])
def test_the_gaussian_mark_is_drawn_or_named(tmp_path: Path, mark: float, word: str) -> None:
    for cell in small_sweep(tmp_path):
        change_lines(tmp_path / "cells" / cell["name"] / "eval.jsonl", "gaussian_mark", mark)
    drawn = metric_figure(read_results(tmp_path))
    assert drawn is not None
    labels = [text.get_text() for text in drawn.legends[0].get_texts()]
    place = f" ({word} the axis)" if word else ""
    assert labels[-1] == f"Gaussian in pixels: {mark:.3g}{place}"
    text = check_report(tmp_path)
    assert f"| a Gaussian in pixels, which a model must beat | {mark:.4g}" in text


def test_the_floor_is_told_as_far_as_the_records_have_it(tmp_path: Path) -> None:
    cells = small_sweep(tmp_path)
    paths = [tmp_path / "cells" / cell["name"] / "eval.jsonl" for cell in cells]

    def told(**changes: object) -> str:
        for path in paths:
            for key, value in changes.items():
                change_lines(path, key, value)
        return check_report(tmp_path)

    floor = "| floor: real against real images | "
    text = told(floor_std=MISSING, gaussian_mark=MISSING)  # as versions before the second mark
    assert floor + "0.3000 (500 images of the split train)" in text
    assert "Gaussian" not in text
    text = told(floor_std=0.05, floor_draws=20, floor_rule="500 of 1797 against the others")
    words = "mean ± standard deviation of 20 draws; 500 of 1797 against the others"
    assert f"{floor}0.3000 ± 0.050 ({words})" in text
    text = told(floor_std=None, floor_draws=1, gaussian_mark=None)
    assert floor + "0.3000 (500 of 1797 against the others)" in text
    rule = "no floor: too few real images"
    matched = {"matched_value": 2.5, "matched_floor": 0.5, "matched_num_images": 250}
    text = told(floor=None, floor_rule=rule, matched_floor_std=0.1, **matched)
    assert floor + rule in text
    assert "| FD (digits) at 250 images | 2.500 to 2.500, real images 0.5000 ± 0.10 |" in text
