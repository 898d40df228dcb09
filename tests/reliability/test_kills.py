"""Kills and signals at random moments.

The same command again, and the run is as if nothing had happened.
"""

import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.support.figures import RecordFigure
from tests.support.forked import Child
from tests.support.runs import Fault, newest_step, result, start_train, status, step_folder, train
from uvit_dia.system.errors import EXIT_STOPPED_EARLY

pytestmark = [pytest.mark.reliability, pytest.mark.slow]

NUM_STEPS, NUM_KILLS, NUM_SIGNALS = 400, 50, 10
LONG: dict[str, object] = {
    "train.num_steps": NUM_STEPS,
    "train.log_every_steps": 1,
    "train.checkpoint_every_steps": 10,
    "model.attention_options.num_cells": 2,  # with dropout
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a long run that nothing happened to."""
    path = tmp_path_factory.mktemp("whole")
    finished = train(path, LONG)
    assert finished.exit_code == 0, finished.stderr
    return path


def num_logged(run: Path) -> int:
    log = run / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def wait_until_logged(child: Child, run: Path, step: int) -> None:
    """Wait until a run has logged a step, or its process has ended."""
    while child.is_alive() and num_logged(run) < step:
        time.sleep(0.001)


def test_fifty_kills_at_random_moments(
    tmp_path: Path, whole: Path, record_figure: RecordFigure
) -> None:
    rng, kills, lost, reached = random.Random(0), 0, 0, 0
    while kills < NUM_KILLS:
        child = start_train(tmp_path, LONG)
        if rng.random() < 0.2:  # while it starts
            time.sleep(rng.uniform(0, 0.5))
        else:
            wait_until_logged(child, tmp_path, newest_step(tmp_path) + rng.randrange(1, 20))
            time.sleep(rng.uniform(0, 0.02))
        child.send(signal.SIGKILL)
        ended = child.wait()
        assert ended.exit_code == -signal.SIGKILL, ended.stderr
        kills += 1
        lost += max(0, reached - newest_step(tmp_path))
        reached = newest_step(tmp_path)
    finished = train(tmp_path, LONG)
    assert finished.exit_code == 0, finished.stderr
    is_same = result(tmp_path, NUM_STEPS) == result(whole, NUM_STEPS)
    record_figure("G1", "kill -9 at random moments of one run", kills, f">= {NUM_KILLS}")
    record_figure("G1", "committed steps lost", lost, "== 0")
    record_figure("G1", "weights, average, optimizer, log: identical", is_same, "== 1")


def test_a_kill_at_every_operation_of_a_commit(tmp_path: Path, record_figure: RecordFigure) -> None:
    assert train(tmp_path / "whole").exit_code == 0
    expected = result(tmp_path / "whole")
    points, identical, is_over = 0, 0, False
    while not is_over:
        paths = [tmp_path / str(points + core) for core in range(2)]
        started = [
            start_train(path, fault=Fault("commit", int(path.name), signal.SIGKILL))
            for path in paths
        ]
        codes = [child.wait().exit_code for child in started]
        assert set(codes) <= {0, 137}
        is_over = 0 in codes  # a commit has no more operations than that
        killed = [path for path, code in zip(paths, codes, strict=True) if code]
        for child in [start_train(path) for path in killed]:
            finished = child.wait()
            assert finished.exit_code == 0, finished.stderr
        identical += sum(result(path) == expected for path in killed)
        points += len(killed)
        for path in paths:
            shutil.rmtree(path)
    record_figure("G2", "operations of a commit, a kill before each", points, ">= 25")
    record_figure("G2", "runs that resumed to the same bits", identical, f"== {points}")


def test_signals_at_random_moments(
    tmp_path: Path, whole: Path, record_figure: RecordFigure
) -> None:
    rng, lost, seconds = random.Random(1), 0, []
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
    for index in range(NUM_SIGNALS):
        child = start_train(tmp_path, LONG)
        wait_until_logged(child, tmp_path, newest_step(tmp_path) + rng.randrange(1, 30))
        time.sleep(rng.uniform(0, 0.02))
        logged = num_logged(tmp_path)
        sent = time.monotonic()
        child.send(numbers[index % len(numbers)])
        ended = child.wait()
        seconds.append(time.monotonic() - sent)
        assert ended.exit_code == EXIT_STOPPED_EARLY, ended.stderr
        found = status(tmp_path)
        assert found["state"] == "preempted"
        assert step_folder(tmp_path, found["step"]).is_dir()
        lost += max(0, logged - found["step"])
    finished = train(tmp_path, LONG)
    assert f"going on at step {found['step']}:" in finished.stdout
    is_same = result(tmp_path, NUM_STEPS) == result(whole, NUM_STEPS)
    record_figure("G4", "steps lost to signals at random moments", lost, "== 0")
    record_figure("G4", "slowest exit after a signal (s)", max(seconds), "<= 5", is_timing=True)
    record_figure("G4", "weights, average, optimizer, log: identical", is_same, "== 1")
