"""Sweeps on stand-ins for Slurm's commands, for machines without a Slurm.

The real one is in tests/slurm.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.forked import Child
from tests.support.sweeps import (
    STAND_INS,
    calls,
    cells,
    collected,
    lines,
    read,
    start_sweep,
    states,
    sweep,
    until,
    write_sweep,
)
from uvit_dia.sweep import slurm_commands
from uvit_dia.sweep.cells import Cell
from uvit_dia.sweep.folder import write_cell_json
from uvit_dia.sweep.launch import CellRunner
from uvit_dia.sweep.schema import SlurmConfig
from uvit_dia.sweep.slurm_commands import check_slurm, submit_in_time
from uvit_dia.system.errors import EXIT_STOPPED_EARLY, InputError

COMMANDS = STAND_INS / "slurm"
SLURM = {"partition": "", "timeout_minutes": 10, "gpus_per_run": 0, "cpus_per_run": 1}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put the stand-ins on the path; return the folder of their state. No job outlives the test."""
    monkeypatch.setenv("PATH", f"{COMMANDS}:{os.environ['PATH']}")
    state = tmp_path / "slurm_state"
    monkeypatch.setenv("FAKE_SLURM", str(state))
    yield state
    for path in state.glob("*.step"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(path.read_text()), signal.SIGKILL)


def start(config: Path, workdir: Path, *flags: str, **environment: str) -> Child:
    """Start a sweep that finds the stand-ins."""
    found = {name: os.environ[name] for name in ("PATH", "FAKE_SLURM")}
    return start_sweep(config, workdir, "--cluster=slurm", *flags, **found, **environment)


def pair(folder: Path, **changes: object) -> Path:
    """Write a sweep of two cells."""
    return write_sweep(folder, batch_sizes=(8,), **changes)


def test_jobs_give_what_local_cells_give(slurm: Path, tmp_path: Path) -> None:
    """And ask for what the config says."""
    sweep(pair(tmp_path), tmp_path / "local", "--max_parallel=2")
    wanted = {**SLURM, "partition": "fast", "account": "lab", "qos": "long", "cpus_per_run": 2}
    config = pair(tmp_path, slurm=wanted)
    done = start(config, tmp_path / "w", "--max_parallel=1").wait(120)
    assert done.exit_code == 0, done.stderr
    assert collected(tmp_path / "w") == collected(tmp_path / "local")
    (script,) = slurm.glob("*.sh")
    asked = script.read_text()
    for flag in ("partition=fast", "account=lab", "qos=long", "cpus-per-task=2", "time=10"):
        assert f"#SBATCH --{flag}" in asked
    assert "#SBATCH --array=0-1%1" in asked
    assert not list((tmp_path / "w").glob(".jobs-*"))  # no pickles stay


@pytest.mark.slow
def test_an_interruption_and_a_kill(slurm: Path, tmp_path: Path) -> None:
    """Ctrl-C stops the jobs with their state saved.

    Those of a killed sweep are waited for, not queued twice.
    """
    config, workdir = pair(tmp_path, budget_amount=60), tmp_path / "w"
    slow = {"STAND_IN_STEP_SECONDS": "0.3"}
    child = start(config, workdir, **slow)
    until(lambda: has_logged(workdir, 3))
    child.send(signal.SIGINT)
    assert child.wait().exit_code == EXIT_STOPPED_EARLY
    assert list(states(workdir).values()) == ["preempted", "preempted"]
    assert not list(workdir.glob(".jobs-*"))
    logged = max(len(lines(path)) for path in workdir.glob("cells/*/metrics.jsonl"))
    child = start(config, workdir, **slow)
    until(lambda: has_logged(workdir, logged + 3))
    jobs = read(workdir / "slurm.json")
    child.send(signal.SIGKILL)
    child.wait()
    again = start(config, workdir).wait(120)
    assert again.exit_code == 0, again.stderr
    assert "start" not in again.stdout
    assert read(workdir / "slurm.json") == jobs
    for name in cells(workdir):
        assert [script for cell, script in calls(workdir) if cell == name] == [
            "train",
            "train",
            "eval",
        ]


def has_logged(workdir: Path, num_lines: int) -> bool:
    logs = list(workdir.glob("cells/*/metrics.jsonl"))
    return len(logs) == 2 and all(len(lines(path)) >= num_lines for path in logs)


def test_a_refusal_is_one_line_in_the_words_of_sbatch(slurm: Path, tmp_path: Path) -> None:
    workdir, words = tmp_path / "w", "Invalid account or account/partition combination specified"
    refused = start(pair(tmp_path), workdir, FAKE_SLURM_REFUSAL=words).wait()
    assert refused.exit_code == 2
    assert len(refused.stderr.splitlines()) == 1
    assert f"sbatch refused the jobs: Batch job submission failed: {words}" in refused.last_line
    assert not list(workdir.glob(".jobs-*"))
    assert not (workdir / "cells").exists()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("Invalid account or account/partition combination", "; set slurm.account or the variable"),
        ("Invalid qos specification", "; set slurm.qos or the variable"),
        ("Requested time limit is invalid (exceeds some limit)", "; lower slurm.timeout_minutes"),
        ("invalid partition specified: gone", "; set slurm.partition"),
        ("Requested node configuration is not available", ""),
    ],
)
def test_a_refusal_says_what_to_change(
    words: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> list:
        print(f"sbatch: error: {words}", file=sys.stderr)
        raise RuntimeError(f"sbatch: error: {words}")

    with pytest.raises(InputError) as caught:
        submit_in_time(refuse)
    assert f"sbatch refused the jobs: {words}{hint}" in str(caught.value)
    assert "set slurm" not in str(caught.value) or hint
    assert capsys.readouterr().err == ""  # not said twice


@pytest.mark.parametrize("way", ["flag", "variable"])
def test_ways_to_give_an_account(way: str, slurm: Path, tmp_path: Path) -> None:
    """Also to a sweep config that was written before there was a key for it."""
    refusal = {"FAKE_SLURM_REFUSAL": "Invalid account"}
    flags = ["--config.slurm.account=lab"] if way == "flag" else []
    environment = {"SBATCH_ACCOUNT": "lab"} if way == "variable" else {}
    config = pair(tmp_path, variants={"uvit": {}})
    done = start(config, tmp_path / "w", *flags, **refusal, **environment).wait(120)
    assert done.exit_code == 0, done.stderr


def test_an_sbatch_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_commands, "COMMAND_TIMEOUT_SECONDS", 0.2)
    with pytest.raises(InputError, match=r"sbatch gave no answer in 0\.2 s; look with squeue"):
        submit_in_time(lambda: time.sleep(5) or [])


@pytest.mark.parametrize(
    ("missing", "sinfo", "partition", "message"),
    [
        ("srun", "exit 0", "", "there is no srun on this machine"),
        ("", "exit 1", "", "sinfo gets no answer"),
        ("", "sleep 60", "", "sinfo gets no answer"),
        ("", "echo batch", "gone", "slurm.partition = 'gone': unknown; there are batch"),
        ("", "echo batch", "batch", None),
    ],
)
def test_what_is_wrong_with_slurm_is_found_first(
    missing: str,
    sinfo: str,
    partition: str,
    message: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commands = tmp_path / "bin"
    shutil.copytree(COMMANDS, commands)
    (commands / "sinfo").write_text(f"#!/bin/sh\n{sinfo}\n")
    if missing:
        (commands / missing).unlink()
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
    monkeypatch.setattr(slurm_commands, "COMMAND_TIMEOUT_SECONDS", 1)
    asked = SlurmConfig(**{**SLURM, "partition": partition})
    if message is None:
        check_slurm(asked)
    else:
        with pytest.raises(InputError, match=message):
            check_slurm(asked)


class RefusingCluster:
    """Takes the first cells and fails them; refuses what comes later."""

    capacity, poll_seconds, settle_seconds = 10, 0.0, 0.0

    def __init__(self, workdir: Path) -> None:
        self.workdir = workdir
        self.num_submissions = 0

    def submit(self, given: Sequence[Cell]) -> None:
        self.num_submissions += 1
        if self.num_submissions > 1:
            raise InputError("sbatch refused the jobs: quota")
        for cell, state in zip(given, ("failed", "done"), strict=True):
            folder = cell.folder(self.workdir)
            folder.mkdir(parents=True)
            write_cell_json(
                folder, state, is_worth_retrying=state == "failed", metric="fd", value=1.0
            )

    def ended(self, given: Sequence[Cell]) -> list[Cell]:
        return list(given)

    def stop(self, given: Sequence[Cell]) -> None:
        raise AssertionError("nothing is stopped")

    def last_words(self, cell: Cell) -> str:
        raise AssertionError("both have written how they ended")


def test_a_retry_that_is_refused_leaves_the_others_their_results(tmp_path: Path) -> None:
    both = [Cell(f"uvit-b0008-s{seed}", "uvit", 8, seed, 20, 160, 1e-3, {}) for seed in (0, 1)]
    said: list[str] = []
    ended = CellRunner(tmp_path, RefusingCluster(tmp_path), said.append).run(both)
    assert [told["state"] for told in ended.values()] == ["done", "failed"]
    assert ended["uvit-b0008-s0"]["reason"] == "sbatch refused the jobs: quota"
    assert said[-1] == "failed   uvit-b0008-s0, sbatch refused the jobs: quota"
