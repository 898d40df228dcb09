"""A sweep of real, tiny trainings and evaluations, and its report."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.sweeps import (
    ROOT,
    cells,
    collected,
    kill_at_random,
    lines,
    read,
    start_sweep,
    states,
    sweep,
    write_sweep,
)
from uvit_dia.report.__main__ import main as report
from uvit_dia.report.results import read_results, results_csv
from uvit_dia.sweep.cells import SCRIPTS


def test_cells_are_ordinary_runs_and_the_report_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    config, workdir = write_sweep(tmp_path, batch_sizes=(8,)), tmp_path / "w"
    sweep(config, workdir, "--max_parallel=2", scripts=SCRIPTS)
    assert states(workdir) == {"dia_lstm-b0008-s0": "done", "uvit-b0008-s0": "done"}
    for name, run in cells(workdir).items():
        status = read(run / "status.json")
        assert (status["state"], status["step"]) == ("done", 20)
        assert [line["step"] for line in lines(run / "metrics.jsonl")] == list(range(2, 21, 2))
        assert (run / "samples" / "step_00000020.png").is_file()
        assert read(run / "config.json")["model"]["attention"] == name.split("-")[0].replace(
            "uvit", "none"
        )
        found = lines(run / "eval.jsonl")
        assert [(line["seed"], line["num_images"], line["step"]) for line in found] == [
            (5, 100, 20),
            (6, 100, 20),
        ]
        own = read(run / "cell.json")
        assert own["values"] == {str(line["seed"]): line["value"] for line in found}
        assert own["train_seconds"] > 0
        assert own["eval_seconds"] > 0
    report(["report", str(workdir)])
    rows = list(csv.DictReader((workdir / "report" / "results.csv").open()))
    assert [(row["variant"], row["state"]) for row in rows] == [
        ("uvit", "done"),
        ("dia_lstm", "done"),
    ]
    for row in rows:
        own = read(cells(workdir)[f"{row['variant']}-b0008-s0"] / "cell.json")
        assert float(row["value"]) == pytest.approx(own["value"], rel=1e-7)
    capsys.readouterr()


@pytest.mark.slow
def test_ten_kills_give_the_same_bytes_and_so_do_the_printed_commands(
    tmp_path: Path, own_cache: Path
) -> None:
    """Four cells: at once; killed ten times; and each by hand."""
    config = write_sweep(tmp_path, budget_amount=400, overrides=overrides_of_long_runs())
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = start_sweep(config, whole, "--max_parallel=2", scripts=SCRIPTS).wait(600)
    assert done.exit_code == 0, done.stderr
    assert kill_at_random(config, killed, (1.0, 16.0), scripts=SCRIPTS) >= 5
    assert collected(killed) == collected(whole)
    assert results_csv(read_results(killed)) == results_csv(read_results(whole))
    by_hand = tmp_path / "by_hand"
    command = [sys.executable, "-m", "uvit_dia.sweep", f"--config={config}"]
    plan = subprocess.run(
        [*command, f"--workdir={by_hand}", "--dry_run", "--commands"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    printed = [line for line in plan.stdout.splitlines() if "_NUM_THREADS=" in line]
    assert len(printed) == 8
    for line in printed[:4]:  # two of the cells
        subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, check=True)
    for name, run in cells(by_hand).items():
        for file in ("model", "ema", "optimizer"):
            path = Path("checkpoints") / "step_00000400" / f"{file}.safetensors"
            assert (run / path).read_bytes() == (whole / "cells" / name / path).read_bytes()
        values = [[x["value"] for x in lines(r / "eval.jsonl")] for r in (run, cells(whole)[name])]
        assert values[0] == values[1]


def overrides_of_long_runs() -> dict[str, dict[str, object]]:
    """Return overrides with which a kill hits the training often, and a checkpoint now and then."""
    return {
        "model": {"embed_dim": 32, "depth": 2, "num_heads": 2},
        "train": {"log_every_steps": 7, "checkpoint_every_steps": 30, "tracker": "none"},
    }
