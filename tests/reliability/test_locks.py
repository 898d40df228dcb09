"""Concurrent starts in one folder: one wins, and the others are told at once."""

import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.support.figures import RecordFigure
from tests.support.forked import Child
from uvit_dia import cli
from uvit_dia.runs.folder import RunFolder

pytestmark = pytest.mark.reliability

NUM_RACES, NUM_STARTS = 20, 4


def _race(work: Path) -> None:
    """Print, for each race, the exit codes of its processes and how long the slowest loser took."""
    for race in range(NUM_RACES):
        gate, start = os.pipe()  # all wait for its end
        over, finish = os.pipe()  # the winner keeps the folder until then
        take = partial(_take, work / str(race), gate, over)
        racers = [_fork(take, (start, finish)) for _ in range(NUM_STARTS)]
        started = time.monotonic()
        os.close(start)
        losers = [os.waitpid(-1, 0) for _ in range(NUM_STARTS - 1)]
        seconds = time.monotonic() - started
        os.close(finish)
        (winner,) = set(racers) - {process for process, _ in losers}
        codes = [os.waitstatus_to_exitcode(code) for _, code in losers]
        last = os.waitstatus_to_exitcode(os.waitpid(winner, 0)[1])
        print(json.dumps({"losers": codes, "winner": last, "seconds": seconds}))
        os.close(gate)
        os.close(over)


def _fork(function: Callable[[], None], closed: tuple[int, ...]) -> int:
    process = os.fork()
    if process:
        return process
    for descriptor in closed:
        os.close(descriptor)
    try:
        cli.run_command(lambda argv: function())
    except SystemExit as end:
        os._exit(int(end.code or 0))
    os._exit(1)


def _take(path: Path, gate: int, over: int) -> None:
    os.read(gate, 1)
    folder = RunFolder(path)  # a lock ends with its object
    folder.lock()
    os.read(over, 1)


def test_of_concurrent_starts_one_wins(tmp_path: Path, record_figure: RecordFigure) -> None:
    finished = Child(_race, tmp_path).wait()
    assert finished.exit_code == 0, finished.stderr
    races = [json.loads(line) for line in finished.stdout.splitlines()]
    one_winner = sum(
        race["winner"] == 0 and race["losers"] == [2] * (NUM_STARTS - 1) for race in races
    )
    record_figure("G9", "races with one winner, the others exit 2", one_winner, f"== {NUM_RACES}")
    slowest = max(race["seconds"] for race in races)
    record_figure("G9", "slowest refusal, without imports (s)", slowest, "<= 2", is_timing=True)
    assert finished.stderr.count("is in use by another run") == NUM_RACES * (NUM_STARTS - 1)
