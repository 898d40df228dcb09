"""Several processes.

As many as there are, it is the same run; where one is lost, all end, and nothing is left behind.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from tests.support.figures import RecordFigure
from tests.support.forked import free_port, start_ranks
from tests.support.runs import (
    ROOT,
    Fault,
    command,
    newest_step,
    result,
    step_folder,
    train,
    train_arguments,
)
from tests.training.test_multiprocess import SIXTY, TOLERANCE
from uvit_dia.data.batches import BatchOrder
from uvit_dia.system.errors import EXIT_STOPPED_EARLY

pytestmark = [pytest.mark.reliability, pytest.mark.slow, pytest.mark.multiprocess]

TIMEOUT_SECONDS = 4  # of a collective, in the test of a frozen process
ENDLESS: dict[str, object] = {"train.num_steps": 100_000, "train.checkpoint_every_steps": 20}
GRACE_SECONDS = 35  # torchrun's own, for a process that does not answer
EVERYTHING: dict[str, object] = {  # that could make a resumed run another one
    "train.mixed_precision": "bf16",
    "train.accumulation_steps": 2,
    "model.attention_options.num_cells": 2,  # with dropout
    "diffusion.loss_weighting": "min_snr",
    "data.random_flip": True,
}

# ---------------------------------------------------------------- the same run


def _train_and_note_indices(arguments: list[str], notes: Path, fault: Fault | None) -> None:
    """Train, and write down which images each step of this process takes."""
    rank = os.environ.get("RANK", "0")
    indices = BatchOrder.indices

    def noted(self: BatchOrder, step: int, rows: range) -> Any:
        found = indices(self, step, rows)
        with (notes / f"{step:03d}-{rows.start}").open("a") as file:
            file.write(f"{rank} {found.tolist()}\n")
        return found

    BatchOrder.indices = noted  # type: ignore[method-assign]
    command("train", arguments, fault)


def train_part(
    path: Path, notes: Path, num_processes: int, *flags: str, stop_at: int | None = None
) -> None:
    """Train until a signal to the first process, or to the end."""
    notes.mkdir(exist_ok=True)
    fault = None if stop_at is None else Fault("draw", stop_at, signal.SIGTERM)
    arguments = [*train_arguments(path, SIXTY), *flags]
    children = start_ranks(num_processes, _train_and_note_indices, arguments, notes, fault)
    codes = [child.wait().exit_code for child in children]
    assert codes == [0 if stop_at is None else EXIT_STOPPED_EARLY] * num_processes


def batches(notes: Path) -> list[list[int]]:
    """Return the images of each step, in the order of the global batch."""
    steps: dict[int, dict[int, list[int]]] = {}
    for note in sorted(notes.iterdir()):
        step, start = map(int, note.name.split("-"))
        text = note.read_text().splitlines()[-1].partition(" ")[2]
        steps.setdefault(step, {})[start] = [int(word) for word in text.strip("[]").split(",")]
    return [
        [index for _, part in sorted(steps[step].items()) for index in part]
        for step in sorted(steps)
    ]


def largest_difference(run: Path, other: Path) -> float:
    files = [
        [load_file(step_folder(path, 60) / f"{name}.safetensors") for name in ("model", "ema")]
        for path in (run, other)
    ]
    return max(
        float((tensor - theirs[name]).abs().max())
        for ours, theirs in zip(*files, strict=True)
        for name, tensor in ours.items()
    )


def test_two_processes_then_one_then_two(tmp_path: Path, record_figure: RecordFigure) -> None:
    other = "--allow_other_world_size"
    for name, num_processes in (("one", 1), ("two", 2)):
        train_part(tmp_path / name, tmp_path / f"{name} notes", num_processes)
    run, notes = tmp_path / "elastic", tmp_path / "elastic notes"
    train_part(run, notes, 2, stop_at=17)
    train_part(run, notes, 1, other, stop_at=38)
    train_part(run, notes, 2, other)
    expected = batches(tmp_path / "one notes")
    same = [batches(tmp_path / f"{name} notes") == expected for name in ("two", "elastic")]
    record_figure("G14", "1, 2, 2-1-2 processes: data indices identical", sum(same), "== 2")
    differences = [largest_difference(tmp_path / "one", path) for path in (tmp_path / "two", run)]
    limit = f"<= {TOLERANCE}"
    record_figure("G14", "largest difference of a weight, 1 and 2", differences[0], limit)
    record_figure("G14", "largest difference of a weight, 1 and 2-1-2", differences[1], limit)


def test_two_killed_processes_with_everything(tmp_path: Path) -> None:
    for run, fault in (("whole", None), ("killed", Fault("update", 6)), ("killed", None)):
        arguments = train_arguments(tmp_path / run, EVERYTHING)
        codes = [
            child.wait().exit_code for child in start_ranks(2, command, "train", arguments, fault)
        ]
        assert codes == [0 if fault is None else -signal.SIGKILL] * 2
    assert result(tmp_path / "killed") == result(tmp_path / "whole")


# ---------------------------------------------------------------- a process that is lost


@pytest.fixture
def job(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Return torchrun with two processes that have saved a checkpoint."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    script = [f"--master_port={free_port()}", "train.py", *train_arguments(tmp_path, ENDLESS)]
    process = subprocess.Popen(
        [*launcher, *script, f"--process_timeout_minutes={TIMEOUT_SECONDS / 60}"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not step_folder(tmp_path, 20).exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        yield process
    finally:
        for one in (
            [*psutil.Process(process.pid).children(), process] if process.poll() is None else []
        ):
            one.kill()
        process.wait()


def ranks(job: subprocess.Popen, run: Path) -> tuple[psutil.Process, psutil.Process]:
    """Return the first process of a job, which owns the run, and the other one."""
    owner = int((run / ".lock-owner").read_text().split()[-1])
    (other,) = [child for child in psutil.Process(job.pid).children() if child.pid != owner]
    return psutil.Process(owner), other


@pytest.mark.parametrize(
    ("fault", "limit"),
    [(signal.SIGKILL, 5), (signal.SIGSTOP, TIMEOUT_SECONDS + GRACE_SECONDS)],
    ids=["killed", "frozen"],
)
def test_a_lost_process_ends_the_job_and_the_next_one_goes_on(
    tmp_path: Path,
    job: subprocess.Popen,
    fault: signal.Signals,
    limit: int,
    record_figure: RecordFigure,
) -> None:
    first, other = ranks(job, tmp_path)
    other.send_signal(fault)
    lost = time.monotonic()
    job.communicate(timeout=120)
    seconds = time.monotonic() - lost
    assert job.returncode != 0
    orphans = sum(process.is_running() for process in (first, other))
    word = "killed" if fault == signal.SIGKILL else "frozen"
    record_figure("G12", f"one of two {word}: job over (s)", seconds, f"<= {limit}", is_timing=True)
    record_figure("G12", f"one of two {word}: orphans", orphans, "== 0")
    reached = newest_step(
        tmp_path
    )  # the status may say a step more: what the lost one did not save
    stopped = train(
        tmp_path,
        ENDLESS,
        "--allow_other_world_size",
        fault=Fault("draw", reached + 3, signal.SIGTERM),
    )
    assert f"going on at step {reached}:" in stopped.stdout, stopped.stderr
    assert stopped.exit_code == EXIT_STOPPED_EARLY
