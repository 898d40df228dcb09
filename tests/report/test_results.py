"""The table of a sweep: what is in it, what is left out and why, and that its CSV is stable."""

import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.support.synthetic_sweeps import (
    evaluation,
    make_cells,
    make_sweep,
    sweep_config,
    write_json,
    write_lines,
)
from uvit_dia.report.__main__ import write_report
from uvit_dia.report.figure_training import loss_figure
from uvit_dia.report.results import COLUMNS, SweepResults, read_results, results_csv
from uvit_dia.system.errors import InputError

STEPS = 2000  # of a run at batch size 32


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two variants, batch size 32, two seeds."""
    make_sweep(tmp_path, batch_sizes=(32,), seeds=(0, 1))
    return tmp_path


def cell_folder(sweep: Path, name: str = "uvit-b0032-s0") -> Path:
    return sweep / "cells" / name


def write_evaluations(sweep: Path, *lines: dict, name: str = "uvit-b0032-s0") -> None:
    write_lines(cell_folder(sweep, name) / "eval.jsonl", list(lines))


def row_of(results: SweepResults, name: str = "uvit-b0032-s0") -> dict:
    names = [cell.name for cell in results.plan.cells]
    return results.table.to_dict("records")[names.index(name)]


def reasons_of(results: SweepResults, name: str = "uvit-b0032-s0") -> list[str]:
    return [f"{item.what}: {item.reason}" for item in results.left_out if item.cell == name]


# ------------------------------------------------------------------ the numbers


def test_cells_are_compared_by_the_held_out_loss_where_that_is_asked_for(
    sweep: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no evaluation holds a held-out loss"):
        read_results(sweep, "held_out_loss")
    for name, loss in (("uvit-b0032-s0", 0.25), ("dia_lstm-b0032-s0", 0.24)):
        held_out = {"held_out_loss": loss, "held_out_loss_3": 2 * loss}
        lines = [evaluation(STEPS, 1.0 + seed, seed, **held_out) for seed in (0, 1)]
        write_evaluations(sweep, *lines, name=name)
    results = read_results(sweep, "held_out_loss")
    row = row_of(results)
    assert (row["metric"], row["value"], row["held_out_loss_3"]) == ("held_out_loss", 0.25, 0.5)
    assert math.isnan(row["value_spread"]) and math.isnan(row["floor"])  # it has neither
    assert row_of(read_results(sweep))["value"] == pytest.approx(1.5)  # the distance, as before
    write_report(sweep, tmp_path / "report", "held_out_loss")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "held-out loss" in text and "FD (digits)" not in text


def test_metric_is_the_mean_over_the_sample_seeds(sweep: Path) -> None:
    write_evaluations(sweep, evaluation(STEPS, 1.0, 0), evaluation(STEPS, 1.5, 1))
    row = row_of(read_results(sweep))
    assert row["state"] == "done"
    assert row["value"] == pytest.approx(1.25)
    assert row["value_spread"] == pytest.approx(math.sqrt(0.125))
    assert (row["num_sample_seeds"], row["metric"], row["floor"]) == (2, "fd", 0.3)
    assert row["kernel_distance"] == pytest.approx(0.0125)
    assert (row["sampler"], row["sampler_steps"], row["nfe"]) == ("dpmpp_2m", 50, 50)
    assert (row["num_steps"], row["last_step"], row["images"]) == (STEPS, STEPS, 32 * STEPS)


def test_measures_of_the_log_by_hand(sweep: Path) -> None:
    lines = [
        {
            "step": step,
            "loss": loss,
            "grad_norm": norm,
            "grad_norm_std": std,
            "grad_norm_min": norm - 1,
            "grad_norm_max": norm + 1,
            "noise_scale_noise": noise,
            "noise_scale_signal": 2.0,
            "update_ratio": ratio,
            "loss_spikes": 1,
            "grad_spikes": 2,
        }
        for step, loss, norm, std, noise, ratio in (
            (
                100,
                1.2,
                4.0,
                1.0,
                70.0,
                0.1,
            ),  # the first tenth counts in norms, not in the noise scale
            (500, 1.0, 4.0, 1.0, 10.0, 0.1),
            (1000, 0.8, 2.0, 1.0, None, 0.2),
            (2000, 0.6, 2.0, 2.0, 30.0, 0.3),
        )
    ]
    write_lines(cell_folder(sweep) / "metrics.jsonl", [*lines, {"step": 2000, "fd": 1.0}])
    row = row_of(read_results(sweep))
    assert row["final_loss"] == 0.6  # the last tenth of three lines is one line
    assert row["grad_norm_mean"] == pytest.approx((500 * 4 + 500 * 2 + 1000 * 2) / 2000)
    assert row["grad_norm_std"] == pytest.approx(math.sqrt((500 * 1 + 500 * 1 + 1000 * 4) / 2000))
    assert (row["grad_norm_min"], row["grad_norm_max"]) == (1.0, 5.0)
    assert (row["loss_spikes"], row["grad_spikes"], row["nonfinite"]) == (4, 8, 0)
    assert (row["noise_scale_noise"], row["noise_scale_signal"]) == (20.0, 2.0)
    assert (row["noise_scale"], row["last_step"]) == (10.0, 2000)
    assert row["update_ratio"] == pytest.approx(0.15)


def test_noise_scale_is_the_ratio_of_averaged_terms(sweep: Path) -> None:
    terms = ((100, 9.0, 9.0), (1000, 4.0, 1.0), (1500, -1.0, 0.5), (2000, 6.0, -0.6))
    lines = [
        {
            "step": step,
            "loss": 1.0,
            "noise_scale_noise": noise,
            "noise_scale_signal": signal,
            "noise_scale": 7.0,
        }
        for step, noise, signal in terms
    ]
    write_lines(cell_folder(sweep) / "metrics.jsonl", lines)
    assert row_of(read_results(sweep))["noise_scale"] == pytest.approx(3.0 / 0.3)
    lines[-1]["noise_scale_signal"] = -6.0
    write_lines(cell_folder(sweep) / "metrics.jsonl", lines)
    assert math.isnan(row_of(read_results(sweep))["noise_scale"])


def test_the_noise_scale_of_a_variant_counts_seeds_whose_signal_noise_hides(sweep: Path) -> None:
    """Leaving them out would make the others' mean too small."""
    results = read_results(sweep)
    variant, size = results.plan.variants[0], results.plan.batch_sizes[0]
    cells = [c.name for c in results.plan.cells if (c.variant, c.batch_size) == (variant, size)]
    assert len(cells) >= 2
    for name, signal in zip(cells, [3.0, -1.0, *[1.0] * len(cells)], strict=False):
        line = {"step": STEPS, "loss": 1.0, "noise_scale_noise": 10.0, "noise_scale_signal": signal}
        write_lines(sweep / "cells" / name / "metrics.jsonl", [line])
    results = read_results(sweep)
    signals = sum(([3.0, -1.0, *[1.0] * len(cells)])[: len(cells)])
    assert results.noise_scale(variant, size) == pytest.approx(10 * len(cells) / signals)
    assert len(results.values("noise_scale", variant, size)) == len(cells) - 1


@pytest.mark.parametrize("has_log", [True, False])
def test_a_divergence_is_counted_and_has_its_step(sweep: Path, has_log: bool) -> None:
    """As the trainer logs it: in a line of its own, without a loss."""
    lines = [{"step": 50, "loss": 2.0, "grad_norm": 1.0}] if has_log else []
    end = {"step": 73, "nonfinite": 1, "nonfinite_step": 73}
    write_lines(cell_folder(sweep) / "metrics.jsonl", [*lines, end])
    for name in ("status.json", "cell.json"):
        (cell_folder(sweep) / name).write_text(json.dumps({"state": "diverged", "step": 73}))
    results = read_results(sweep)
    row = row_of(results)
    assert (row["state"], row["nonfinite"], row["last_step"]) == ("diverged", 1, 73)
    figure = loss_figure(results)
    assert figure is not None
    crosses = [
        line.get_xdata()[0]
        for axes in figure.axes
        for line in axes.lines
        if line.get_marker() == "X"
    ]
    assert crosses == [73 * 32]  # images seen


def test_a_trained_model_whose_samples_are_not_finite(sweep: Path) -> None:
    """No metric, a divergence by the launcher's word, and a training that came to its end."""
    before = row_of(read_results(sweep))
    write_evaluations(sweep)
    told = {
        "state": "diverged",
        "reason": "dpmpp_2m in 20 steps ended in values that are not finite",
    }
    write_json(cell_folder(sweep) / "cell.json", told)
    results = read_results(sweep)
    row = row_of(results)
    assert (row["state"], row["nonfinite"], row["last_step"]) == ("diverged", 0, STEPS)
    assert row["final_loss"] == before["final_loss"]
    assert math.isnan(row["value"])
    reason = f"metric: the training ended, and its model's samples are not finite: {told['reason']}"
    assert reason in reasons_of(results)


def test_a_log_without_the_newer_measures_is_read(sweep: Path) -> None:
    write_lines(
        cell_folder(sweep) / "metrics.jsonl", [{"step": STEPS, "loss": 0.5, "grad_norm": 1.0}]
    )
    row = row_of(read_results(sweep))
    assert (row["final_loss"], row["grad_norm_mean"]) == (0.5, 1.0)
    assert math.isnan(row["noise_scale"])
    assert pd.isna(row["loss_spikes"])


def test_final_loss_is_over_the_last_tenth(sweep: Path) -> None:
    lines = [{"step": 10 * k, "loss": float(k), "grad_norm": 1.0} for k in range(1, 201)]
    write_lines(cell_folder(sweep) / "metrics.jsonl", lines)
    assert row_of(read_results(sweep))["final_loss"] == pytest.approx(sum(range(181, 201)) / 20)


def test_a_step_that_was_logged_twice_counts_once(sweep: Path) -> None:
    lines = [
        {"step": s, "loss": v, "grad_norm": 1.0} for s, v in ((1000, 9.0), (2000, 8.0), (2000, 0.5))
    ]
    write_lines(cell_folder(sweep) / "metrics.jsonl", lines)
    assert row_of(read_results(sweep))["final_loss"] == 0.5


# ------------------------------------------------------------------ what is comparable

FOREIGN: dict[str, tuple[dict, str]] = {
    "earlier step": ({"step": 1000}, "of step 1000, not of the last step 2000"),
    "number of images": ({"num_images": 100}, "num_images = 100, the sweep compares at 500"),
    "sampler": ({"sampler": "ddpm"}, "sampler = ddpm, the sweep compares at dpmpp_2m"),
    "sampler steps": ({"num_steps": 20}, "sampler steps = 20, the sweep compares at 50"),
    "sample seed": ({"seed": 77}, "sample seed 77 is not one of the sweep's"),
    "no seed": ({"seed": None}, "without a sample seed"),
    "no value": ({"value": None}, "without a finite FID or FD"),
    "metric": ({"metric": "kid"}, "without a finite FID or FD"),
    "other extractor": (
        {"extractor": "inception-v3-compat", "metric": "fid"},
        "extractor = inception-v3-compat, the sweep measures with digits",
    ),
    "extractor": ({"extractor_sha256": "f" * 64}, "extractor_sha256 = ffffffffffffffff..., most"),
    "reference": ({"reference_sha256": "e" * 64}, "reference_sha256 = eeeeeeeeeeeeeeee..., most"),
    "raw weights": ({"weights": "raw"}, "weights = raw, most cells have ema"),
    "sampler option": ({"eta": 1.0}, "eta = 1.0, most cells have 0.0"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_an_evaluation_that_is_not_comparable_is_left_out(sweep: Path, kind: str) -> None:
    changes, reason = FOREIGN[kind]
    write_evaluations(
        sweep,
        evaluation(STEPS, 1.0, 0),
        evaluation(STEPS, 1.5, 1),
        evaluation(STEPS, 99.0, 1, **changes),
    )
    results = read_results(sweep)
    assert row_of(results)["value"] == pytest.approx(1.25)
    assert any(reason in told for told in reasons_of(results))


@pytest.mark.parametrize("kind", [k for k in FOREIGN if k != "sample seed"])
def test_a_cell_with_only_such_evaluations_has_no_value(sweep: Path, kind: str) -> None:
    changes, reason = FOREIGN[kind]
    write_evaluations(sweep, *(evaluation(STEPS, 1.0, seed, **changes) for seed in (0, 1)))
    results = read_results(sweep)
    row = row_of(results)
    assert math.isnan(row["value"])
    assert row["state"] == "running"
    assert any(reason in told for told in reasons_of(results))
    assert "metric: the run is not finished: trained, not evaluated yet" in reasons_of(results)


@pytest.mark.parametrize("asked_by", ["sweep", "run"])
def test_extra_evaluations_with_another_extractor_change_nothing(
    sweep: Path, asked_by: str
) -> None:
    """Even where every cell has them, and their name comes first in the alphabet."""
    if asked_by == "run":
        content = json.loads((sweep / "sweep.json").read_text())
        content["config"]["eval"]["extractor"] = ""
        (sweep / "sweep.json").write_text(json.dumps(content))
    before = read_results(sweep)
    for folder in (sweep / "cells").iterdir():
        if asked_by == "run":
            run = json.loads((folder / "config.json").read_text())
            run["eval"] = {"extractor": "digits"}
            (folder / "config.json").write_text(json.dumps(run))
        lines = [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]
        other = {"extractor": "a", "extractor_sha256": "a" * 64, "metric": "fd", "value": 99.0}
        write_lines(folder / "eval.jsonl", [*lines, *({**line, **other} for line in lines)])
    after = read_results(sweep)
    assert after.table.equals(before.table)
    assert after.settings["extractor"] == "digits"
    assert any("the sweep measures with digits" in told for told in reasons_of(after))


def test_a_cell_without_all_its_sample_seeds_has_no_value_yet(sweep: Path) -> None:
    write_evaluations(sweep, evaluation(STEPS, 1.0, 0))
    results = read_results(sweep)
    assert math.isnan(row_of(results)["value"])
    assert "metric: no evaluation with sample seed 1 yet" in reasons_of(results)


def test_evaluations_of_weights_that_were_replaced_are_left_out(sweep: Path) -> None:
    old = {"weights_sha256": "0" * 64}
    write_evaluations(
        sweep,
        evaluation(STEPS, 9.0, 0, **old),
        evaluation(STEPS, 9.0, 1, **old),
        evaluation(STEPS, 1.0, 0),
        evaluation(STEPS, 1.5, 1),
    )
    results = read_results(sweep)
    assert row_of(results)["value"] == pytest.approx(1.25)
    assert any("of other weights of the same step" in told for told in reasons_of(results))


@pytest.mark.parametrize("budget", ["steps", "images"])
def test_a_cell_outside_the_budget_is_left_out(tmp_path: Path, budget: str) -> None:
    cells = make_sweep(
        tmp_path, batch_sizes=(32,), seeds=(0, 1), budget=budget, budget_amount=64_000
    )
    if budget == "steps":
        for cell in cells[1:]:
            cell |= {"num_steps": 64_000, "images": 64_000 * 32}
    else:
        cells[0] |= {"num_steps": 1500, "images": 1500 * 32}
    content = json.loads((tmp_path / "sweep.json").read_text()) | {"cells": cells}
    write_json(tmp_path / "sweep.json", content)
    results = read_results(tmp_path)
    assert math.isnan(row_of(results)["value"])
    amount = "2000 steps" if budget == "steps" else "48000 images"
    assert any(f"{amount} planned, the sweep compares at 64000" in t for t in reasons_of(results))


def test_a_budget_of_images_is_met_to_the_next_whole_step(tmp_path: Path) -> None:
    make_sweep(tmp_path, batch_sizes=(48,), seeds=(0,))
    assert 64_000 % 48
    assert read_results(tmp_path).table["value"].notna().all()


def test_a_run_folder_that_holds_another_run_is_left_out(sweep: Path) -> None:
    path = cell_folder(sweep) / "config.json"
    write_json(
        path, json.loads(path.read_text()) | {"train": {"batch_size": 64, "num_steps": STEPS}}
    )
    results = read_results(sweep)
    assert math.isnan(row_of(results)["value"])
    told = "its config.json has train.batch_size = 64, the sweep 32"
    assert any(told in reason for reason in reasons_of(results))


@pytest.mark.parametrize("state", ["running", "diverged", "failed"])
def test_a_value_counts_only_of_a_run_that_is_done(sweep: Path, state: str) -> None:
    write_json(cell_folder(sweep) / "status.json", {"state": state, "step": STEPS})
    row = row_of(read_results(sweep))
    assert row["state"] == state
    assert math.isnan(row["value"])


# ------------------------------------------------------------------ states


@pytest.mark.parametrize(
    ("status", "cell", "state"),
    [
        ({"state": "done", "step": STEPS}, {"state": "running"}, "done"),
        ({"state": "done", "step": STEPS}, {}, "done"),
        ({"state": "diverged", "step": 10, "reason": "nan"}, {"state": "running"}, "diverged"),
        ({"state": "running", "step": 10}, {"state": "failed", "reason": "no memory"}, "failed"),
        ({"state": "failed", "step": 10}, {}, "failed"),
        ({"state": "preempted", "step": 10}, {"state": "running"}, "preempted"),
        ({}, {"state": "running"}, "running"),
        ({}, {}, "waiting"),
        ({"state": ["odd"]}, {"state": 7}, "waiting"),
        ({"state": "done", "step": 10}, {}, "waiting"),
    ],
)
def test_states(sweep: Path, status: dict, cell: dict, state: str) -> None:
    write_json(cell_folder(sweep) / "status.json", status)
    write_json(cell_folder(sweep) / "cell.json", cell)
    results = read_results(sweep)
    assert results.states["uvit-b0032-s0"] == state
    assert results.is_finished == (state in ("done", "diverged"))


def test_a_diverged_run_keeps_its_log_and_has_no_final_loss(tmp_path: Path) -> None:
    make_sweep(tmp_path, batch_sizes=(32,), seeds=(0, 1), states={"uvit-b0032-s0": "diverged"})
    results = read_results(tmp_path)
    row = row_of(results)
    assert row["grad_norm_max"] > 0
    assert 0 < row["last_step"] < STEPS
    assert math.isnan(row["final_loss"])
    assert results.count("diverged", "uvit", 32) == 1
    assert results.cells[0].cell.name == "uvit-b0032-s0"
    assert results.cells[0].reason.startswith("loss became non-finite")


# ------------------------------------------------------------------ the same bytes


def test_csv_is_the_same_for_any_order_of_cells_and_files(tmp_path: Path) -> None:
    make_sweep(tmp_path / "a", seeds=(0, 1))
    wanted = results_csv(read_results(tmp_path / "a"))
    content = json.loads((tmp_path / "a" / "sweep.json").read_text())
    by_seed = sorted(content["cells"], key=lambda c: (c["seed"], c["batch_size"]))  # stable
    folders = sorted((tmp_path / "a" / "cells").iterdir())
    random.Random(0).shuffle(folders)
    (tmp_path / "b" / "cells").mkdir(parents=True)
    for folder in folders:
        shutil.copytree(folder, tmp_path / "b" / "cells" / folder.name)
    write_json(tmp_path / "b" / "sweep.json", content | {"cells": by_seed})
    assert by_seed != content["cells"]
    assert results_csv(read_results(tmp_path / "b")) == wanted


def test_csv_does_not_tell_of_interruptions(sweep: Path) -> None:
    """A killed and restarted sweep leaves evaluations made twice, torn lines, other times."""
    wanted = results_csv(read_results(sweep))
    folder = cell_folder(sweep)
    lines = (folder / "eval.jsonl").read_text().splitlines(keepends=True)
    (folder / "eval.jsonl").write_text(
        lines[0][:50] + "\n" + "".join(lines) + lines[0] + lines[1][:70]
    )
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in log:
        line |= {"images_per_second": 1.0, "data_seconds": 9.0}
    write_lines(folder / "metrics.jsonl", log)
    write_json(folder / "env.json", {"platform": "elsewhere"})
    write_json(folder / "cell.json", {"state": "done", "time": "later", "attempts": 11})
    results = read_results(sweep)
    assert results_csv(results) == wanted
    assert "damaged file: eval.jsonl has 2 damaged line(s)" in reasons_of(results)


def test_the_baseline_comes_first_wherever_it_stands(tmp_path: Path) -> None:
    for baseline, order in (
        ("dia_lstm", ("dia_lstm", "uvit")),
        ("uvit", ("uvit", "dia_lstm")),
        (["odd"], ("uvit", "dia_lstm")),
    ):
        make_sweep(tmp_path, batch_sizes=(32,), seeds=(0, 1), baseline=baseline)
        assert read_results(tmp_path).plan.variants == order


def test_csv_is_a_plain_table(sweep: Path) -> None:
    lines = results_csv(read_results(sweep)).decode().splitlines()
    assert lines[0].split(",") == list(COLUMNS)
    assert len(lines) == 5
    assert [line.split(",")[:3] for line in lines[1:]] == [
        [variant, "32", seed] for variant in ("uvit", "dia_lstm") for seed in ("0", "1")
    ]


# ------------------------------------------------------------------ damage


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "half": truncate,
    "binary": lambda _: bytes(range(256)) * 20,
    "other JSON": lambda _: b"[1, 2]\n",
    "odd values": lambda _: b'{"step": 1e400, "loss": NaN, "state": {}, "seed": [], "train": 3}\n',
    "deep": lambda _: b"[" * 100_000,
    "huge number": lambda _: b'{"step": 1' + b"0" * 400 + b', "loss": 1' + b"0" * 400 + b"}\n",
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize(
    "name", ["status.json", "cell.json", "config.json", "env.json", "metrics.jsonl", "eval.jsonl"]
)
def test_a_damaged_file_of_a_cell_never_stops_the_others(sweep: Path, name: str, kind: str) -> None:
    path = cell_folder(sweep) / name
    path.write_bytes(DAMAGE[kind](path.read_bytes()))
    results = read_results(sweep)
    assert len(results.table) == 4
    assert row_of(results, "dia_lstm-b0032-s1")["value"] > 0
    results_csv(results)


def test_a_missing_cell_is_waiting(sweep: Path) -> None:
    shutil.rmtree(cell_folder(sweep))
    assert row_of(read_results(sweep))["state"] == "waiting"


def test_there_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no sweep"):
        read_results(tmp_path)


CELL = make_cells(("uvit",), (8,), (0,))[0]
CONFIG = sweep_config(("uvit",), (8,), (0,))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 100_000,
        json.dumps({"config": CONFIG, "cells": []}).encode(),
        json.dumps({"config": [], "cells": [CELL]}).encode(),
        json.dumps({"config": CONFIG, "cells": [CELL, CELL]}).encode(),
        json.dumps({"config": CONFIG, "cells": [7]}).encode(),
        json.dumps({"config": CONFIG, "cells": [{"name": "a"}]}).encode(),
        *(
            json.dumps({"config": CONFIG, "cells": [CELL | change]}).encode()
            for change in (
                {"name": "../../outside"},
                {"name": "a/b"},
                {"name": ".."},
                {"batch_size": 0},
                {"batch_size": "many"},
                {"seed": 1e400},
                {"variant": "two\nlines"},
            )
        ),
    ],
)
def test_a_damaged_plan_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "sweep.json").write_bytes(content)
    with pytest.raises(InputError, match=r"sweep\.json") as error:
        read_results(tmp_path)
    assert "\n" not in str(error.value)
