"""What the one reader of a sweep's folder makes of it: plan, states, chosen evaluations, damage."""

import json
import platform
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from tests.support.synthetic_sweeps import evaluation, make_sweep, write_json, write_lines
from uvit_dia.sweep.folder import CELL_LOCK
from uvit_dia.sweep.plan import read_plan
from uvit_dia.sweep.record import CellRecord, SweepRecord, read_sweep

STEPS = 2000  # of a run at batch size 32
NAME = "uvit-b0032-s0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two variants, batch size 32, two seeds."""
    make_sweep(tmp_path / "sweep", batch_sizes=(32,), seeds=(0, 1))
    return tmp_path / "sweep"


def record_of(sweep: SweepRecord, name: str = NAME) -> CellRecord:
    return next(record for record in sweep.cells if record.cell.name == name)


def told(record: CellRecord) -> list[str]:
    return [f"{item.what}: {item.reason}" for item in record.left_out]


def test_the_plan_has_what_the_sweep_config_says(folder: Path) -> None:
    plan = read_plan(folder)
    assert (plan.variants, plan.batch_sizes, plan.seeds) == (("uvit", "dia_lstm"), (32,), (0, 1))
    assert (plan.budget, plan.budget_amount, plan.sample_seeds) == ("images", 64_000, (0, 1))
    assert plan.held_constant.startswith("images seen")
    assert plan.evaluation["sampler"] == "dpmpp_2m"
    assert [cell.name for cell in plan.cells] == [
        f"{variant}-b0032-s{seed}" for variant in ("uvit", "dia_lstm") for seed in (0, 1)
    ]


@pytest.mark.parametrize("config", [{}, {"budget": [], "eval": 3, "baseline": {}}])
def test_a_plan_of_an_older_version_is_read(config: dict, folder: Path) -> None:
    content = json.loads((folder / "sweep.json").read_text())
    write_json(folder / "sweep.json", {"config": config, "cells": content["cells"]})
    sweep = read_sweep(folder)
    assert (sweep.plan.budget, sweep.plan.held_constant, sweep.plan.sample_seeds) == ("", "", ())
    assert [record.state for record in sweep.cells] == ["done"] * 4
    assert all(len(record.evaluations) == 2 for record in sweep.cells)


def test_a_finished_cell(folder: Path) -> None:
    record = record_of(read_sweep(folder))
    assert (record.state, record.is_trained, record.step, record.has_ended) == (
        "done",
        True,
        STEPS,
        True,
    )
    assert [line["seed"] for line in record.evaluations] == [0, 1]
    assert [line["step"] for line in record.log] == sorted({line["step"] for line in record.log})
    assert record.left_out == ()
    assert record.env["device"] == "cpu"


def test_the_weights_that_the_launcher_recorded_are_chosen(folder: Path) -> None:
    """Not those that somebody evaluated later by hand."""
    home = folder / "cells" / NAME
    lines = [evaluation(STEPS, value, seed) for seed, value in ((0, 1.0), (1, 2.0))]
    later = [{**line, "weights_sha256": "e" * 64, "value": 9.0} for line in lines]
    write_lines(home / "eval.jsonl", [*lines, *later])
    write_json(home / "cell.json", {"state": "done", "weights_sha256": "c" * 64})
    record = record_of(read_sweep(folder))
    assert [line["value"] for line in record.evaluations] == [1.0, 2.0]
    assert told(record) == ["2 evaluations: of other weights of the same step, evaluated earlier"]
    write_json(home / "cell.json", {"state": "done"})  # of a cell that was run by hand
    assert record_of(read_sweep(folder)).evaluations[0]["value"] == 9.0
    manifest = home / "checkpoints" / f"step_{STEPS:08d}" / "manifest.json"
    write_json(manifest, {"files": {"ema.safetensors": {"sha256": "c" * 64}}})
    assert record_of(read_sweep(folder)).evaluations[0]["value"] == 1.0


def test_an_extractor_that_was_replaced_is_seen(folder: Path) -> None:
    content = json.loads((folder / "sweep.json").read_text())
    write_json(folder / "sweep.json", {**content, "extractors": {NAME: "f" * 64}})
    record = record_of(read_sweep(folder))
    assert (record.state, record.evaluations) == ("running", ())
    reason = "extractor_sha256 = aaaaaaaaaaaaaaaa..., the sweep measures with ffffffffffffffff..."
    assert told(record)[0] == f"2 evaluations: {reason}"


def test_a_cell_that_is_worked_on_and_one_that_was_left(folder: Path) -> None:
    home = folder / "cells" / NAME
    write_json(home / "status.json", {"state": "failed", "step": 10, "reason": "no memory"})
    write_json(home / "cell.json", {"state": "running", "host": platform.node(), "attempts": 2})
    assert record_of(read_sweep(folder)).state == "failed"  # nobody holds its lock
    with FileLock(home / CELL_LOCK):
        record = record_of(read_sweep(folder))
    assert (record.state, record.attempts, record.step) == ("running", 2, 2000)
    write_json(home / "status.json", {"state": "running", "step": 10})
    record = record_of(read_sweep(folder))
    assert (record.state, "its launcher was killed" in record.reason) == ("preempted", True)


def test_a_cell_that_was_stopped_before_its_evaluation_waits(folder: Path) -> None:
    home = folder / "cells" / NAME
    (home / "eval.jsonl").unlink()
    write_json(home / "cell.json", {"state": "preempted", "reason": "stopped by SIGTERM"})
    record = record_of(read_sweep(folder))
    assert (record.state, record.reason, record.is_trained) == (
        "preempted",
        "stopped by SIGTERM",
        True,
    )


def test_a_sweep_that_was_copied_from_windows_in_parts(folder: Path, tmp_path: Path) -> None:
    """Cells missing, logs cut, other line ends, marks, hidden files, a place without writing."""
    before = read_sweep(folder)
    homes = [folder / "cells" / record.cell.name for record in before.cells]
    shutil.rmtree(homes[0])
    (homes[1] / "eval.jsonl").write_text((homes[1] / "eval.jsonl").read_text()[:-40])
    for name in ("eval.jsonl", "metrics.jsonl", "cell.json", "status.json", "config.json"):
        content = (homes[2] / name).read_bytes().replace(b"\n", b"\r\n")
        (homes[2] / name).write_bytes(b"\xef\xbb\xbf" + content)
    (homes[2] / "._eval.jsonl").write_bytes(bytes(10))
    (homes[2] / "samples" / "._step_00002000.png").parent.mkdir()
    (homes[2] / "samples" / "._step_00002000.png").write_bytes(bytes(10))
    (homes[3] / "metrics.jsonl").unlink()
    moved = folder.rename(tmp_path / "moved here")
    after = read_sweep(moved)
    assert [record.state for record in after.cells] == ["waiting", "running", "done", "done"]
    assert told(after.cells[1]) == [
        "metric: no evaluation with sample seed 1 yet",
        "damaged file: eval.jsonl has 1 damaged line(s)",
    ]
    for one, other in zip(before.cells[2:], after.cells[2:], strict=True):
        assert one.evaluations == other.evaluations
    assert after.cells[2].log == before.cells[2].log
    assert after.cells[2].left_out == ()
    assert (after.cells[3].log, after.cells[3].left_out) == ((), ())
