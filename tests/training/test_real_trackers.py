"""Trackers with their real packages, where those are installed; nothing leaves the machine."""

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.forked import Child
from tests.support.runs import command, log_lines, train_arguments

CHANGES: dict[str, object] = {
    "optimizer.lr_schedule": "constant",
    "train.sample_every_steps": 6,
    "sample.num_steps": 3,
    "sample.grid_images": 4,
}


def train_twice(run: Path, tracker: str, **environment: str) -> None:
    """Train to step 6, and on to step 12 in another process."""
    for num_steps in (6, 12):
        changes = {**CHANGES, "train.num_steps": num_steps, "train.tracker": tracker}
        arguments = train_arguments(run, changes)
        finished = Child(command, "train", arguments, environment=environment).wait()
        assert finished.exit_code == 0, finished.stderr
        assert "does not work here" not in finished.stderr


def assert_grid(shown: Path, run: Path, step: int) -> None:
    (ours,) = (run / "samples").glob(f"*{step}*.png")
    pixels = [np.asarray(Image.open(path).convert("L")) for path in (shown, ours)]
    assert np.array_equal(*pixels)


def test_wandb_keeps_one_run_with_its_config_and_grids(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    run = tmp_path / "run"
    train_twice(run, "wandb", WANDB_MODE="offline", WANDB_SILENT="true")
    run_id = (run / "tracker_id.txt").read_text()
    folders = sorted((run / "wandb").glob("offline-run-*"))
    assert [folder.name.rpartition("-")[2] for folder in folders] == [run_id] * 2
    for folder, step in zip(folders, (6, 12), strict=True):
        content = (folder / f"run-{run_id}.wandb").read_bytes()
        assert b"grad_norm" in content and b"images_per_second" in content
        # a key that no flag of the command line names
        assert (b"model.mlp_ratio" in content) == (step == 6)
        (grid,) = (folder / "files" / "media" / "images").glob("samples_*.png")
        assert grid.name.startswith(f"samples_{step}_")
        assert_grid(grid, run, step)


def test_trackio_keeps_one_run_with_its_config_and_grids(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    place = tmp_path / "trackio"
    run = tmp_path / "run"
    train_twice(run, "trackio", TRACKIO_DIR=str(place))
    with sqlite3.connect(place / "uvit_dia.db") as base:
        rows = base.execute("select run_name, step, metrics from metrics order by id").fetchall()
        configs = base.execute("select config from configs").fetchall()
    name = f"run-{(run / 'tracker_id.txt').read_text()[:6]}"
    assert {row[0] for row in rows} == {name}
    told = [(step, json.loads(values)) for _, step, values in rows]
    losses = [(step, values["loss"]) for step, values in told if "loss" in values]
    assert losses == [(row["step"], row["loss"]) for row in log_lines(run) if "loss" in row]
    (config,) = configs
    assert json.loads(config[0])["train.batch_size"] == 8
    grids = [(step, values["samples"]) for step, values in told if "samples" in values]
    assert [step for step, _ in grids] == [6, 12]
    for step, grid in grids:
        assert_grid(place / "media" / grid["file_path"], run, step)
