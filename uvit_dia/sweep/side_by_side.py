"""Cells of a sweep that train side by side for some seconds, to see how fast they are."""

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from uvit_dia.sweep.cells import Cell, import_path
from uvit_dia.sweep.config import Sweep
from uvit_dia.sweep.logs import last_line
from uvit_dia.system.errors import InputError
from uvit_dia.system.records import read_json_lines

LOG_EVERY_STEPS = 5  # the first of which are not counted
WINDOW_SECONDS = 15.0  # at least, in which steps are counted
POLL_SECONDS = 0.05
SECONDS_TO_STOP = 30.0
TAIL_BYTES = 2**14  # of a log, which hold its last lines
MEASURED_AS: dict[str, object] = {  # nothing is written but the log
    "train.num_steps": 10**9,
    "train.log_every_steps": LOG_EVERY_STEPS,
    "train.sample_every_steps": 0,
    "train.checkpoint_every_steps": 10**9,
    "train.tracker": "none",
}


@dataclass(frozen=True)
class _Run:
    """A training that was started.

    Attributes:
        process: that trains.
        output: file of what it writes.
        log: its metrics.jsonl.
    """

    process: "subprocess.Popen[bytes]"
    output: Path
    log: Path

    @property
    def step(self) -> int:
        """The last step that it logged."""
        rows = read_json_lines(self.log, last_bytes=TAIL_BYTES).rows.values()
        return max((int(row["step"]) for row in rows if "loss" in row), default=0)


def steps_a_second(sweep: Sweep, cells: Sequence[Cell]) -> tuple[float, float]:
    """Train cells at the same time for a while.

    Args:
        sweep: theirs.
        cells: may be the same ones; each trains in a temporary folder of its own.

    Returns:
        The steps a second of all of them together, and the seconds until each had its first few.

    Raises:
        InputError: if one ends by itself, with its last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        started, runs = time.monotonic(), list[_Run]()
        try:
            for index, cell in enumerate(cells):
                runs.append(_start(sweep, cell, Path(folder) / str(index)))
            for run in runs:  # until all of them are at work
                _next_line(run, 0)
            start_seconds = time.monotonic() - started
            before = [_next_line(run, run.step) for run in runs]
            time.sleep(WINDOW_SECONDS)
            after = [_next_line(run, run.step) for run in runs]
        finally:
            _stop(runs)
    marks = zip(before, after, strict=True)
    rate = sum((step - first) / (end - begun) for (first, begun), (step, end) in marks)
    return rate, start_seconds


def _start(sweep: Sweep, cell: Cell, folder: Path) -> _Run:
    folder.mkdir()
    command = cell.train_command(sweep.launch, folder)
    command += [f"--config.{key}={value}" for key, value in MEASURED_AS.items()]
    output = folder / "train.out"
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            env={**os.environ, **import_path(), **sweep.launch.environment()},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    return _Run(process, output, cell.folder(folder) / "metrics.jsonl")


def _next_line(run: _Run, seen: int) -> tuple[int, float]:
    """Wait until a run logs a step beyond the one that was seen; return it and the time."""
    while True:
        if run.process.poll() is not None:
            raise InputError(f"--measure: a cell ended by itself: {last_line(run.output, 0)}")
        if (step := run.step) > seen:
            return step, time.monotonic()
        time.sleep(POLL_SECONDS)


def _stop(runs: Sequence[_Run]) -> None:
    for run in runs:
        run.process.terminate()
    for run in runs:
        try:
            run.process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            run.process.kill()
            run.process.wait()
