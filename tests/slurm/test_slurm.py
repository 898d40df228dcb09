"""A sweep on a real Slurm, which this test starts on this machine.

Requeued in the middle, equal to a local sweep.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.sweeps import (
    calls,
    cells,
    collected,
    lines,
    read,
    start_sweep,
    states,
    until,
    write_sweep,
)
from uvit_dia.sweep.cells import SCRIPTS
from uvit_dia.system.errors import EXIT_STOPPED_EARLY

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch")
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(
        not all(shutil.which(name) for name in NEEDED), reason="needs slurm-wlm and munge"
    ),
]
CLUSTER = Path(__file__).resolve().parent / "cluster.sh"
SLOW_STEPS = {"STAND_IN_STEP_SECONDS": "0.3"}


@pytest.fixture(scope="module", autouse=True)
def slurm() -> Iterator[None]:
    """Start a Slurm, and stop it."""
    folder = tempfile.mkdtemp(prefix="uvit_dia_slurm_", dir="/tmp")  # where munge's user can go
    try:
        subprocess.run([CLUSTER, "start", folder], check=True)
        os.environ["SLURM_CONF"] = f"{folder}/slurm.conf"
        yield
    finally:
        os.environ.pop("SLURM_CONF", None)
        subprocess.run([CLUSTER, "stop", folder], check=True)
        shutil.rmtree(folder)


def has_logged(workdir: Path, num_lines: int) -> bool:
    """Say whether both cells of a sweep have logged so many lines."""
    logs = list(workdir.glob("cells/*/metrics.jsonl"))
    return len(logs) == 2 and all(len(lines(path)) >= num_lines for path in logs)


def jobs_of(workdir: Path) -> dict[str, str]:
    """Return Slurm's jobs by the name of their cell."""
    return read(workdir / "slurm.json")["jobs"]


def queued() -> list[str]:
    """Return the jobs that Slurm has not finished with."""
    command = ["squeue", "--noheader", "--array", "--format=%i"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def pair(folder: Path, num_steps: int, **changes: object) -> Path:
    """Write a sweep of two cells."""
    return write_sweep(folder, batch_sizes=(8,), budget_amount=num_steps, **changes)


def test_requeued_runs_equal_local_ones_bit_for_bit(tmp_path: Path) -> None:
    """One real training is preempted by SIGUSR2, the other requeued by Slurm.

    Both save, come back and go on.
    """
    config = pair(tmp_path, 1500)
    local = start_sweep(config, tmp_path / "local", "--max_parallel=2", scripts=SCRIPTS).wait(600)
    assert local.exit_code == 0, local.stderr
    workdir = tmp_path / "slurm"
    child = start_sweep(config, workdir, "--cluster=slurm", scripts=SCRIPTS)
    until(lambda: has_logged(workdir, 10), 120)
    jobs = jobs_of(workdir)
    assert sorted(jobs) == ["dia_lstm-b0008-s0", "uvit-b0008-s0"]
    subprocess.run(["scancel", "--signal=USR2", jobs["uvit-b0008-s0"]], check=True)
    subprocess.run(["scontrol", "requeue", jobs["dia_lstm-b0008-s0"]], check=True)
    until(lambda: set(states(workdir).values()) == {"preempted"}, 120)
    for path in cells(workdir).values():
        found = read(path / "status.json")
        assert found["state"] == "preempted"
        assert 0 < found["step"] < 1500
    ended = child.wait(600)
    assert ended.exit_code == 0, ended.stderr
    assert jobs_of(workdir) == jobs  # the same jobs came back
    for path in cells(workdir).values():
        assert (path / "logs" / "train.out").read_text().count("going on at step") == 1
    assert collected(workdir) == collected(tmp_path / "local")


def test_failures_divergences_and_their_neighbours(tmp_path: Path) -> None:
    config = pair(tmp_path, 10, variants={"uvit": {}}, seeds=(0, 101, 102, 104))
    ended = start_sweep(config, tmp_path / "w", "--cluster=slurm", "--max_parallel=2").wait(300)
    assert ended.exit_code == 1
    assert list(states(tmp_path / "w").values()) == ["done", "diverged", "failed", "done"]
    assert "1 of 4 cells failed: uvit-b0008-s102 (train.py, exit code 2" in ended.last_line


def test_interrupt_takes_the_jobs_out_of_the_queue_with_their_state_saved(tmp_path: Path) -> None:
    config, workdir = pair(tmp_path, 20, seeds=(0, 1)), tmp_path / "w"
    child = start_sweep(config, workdir, "--cluster=slurm", **SLOW_STEPS)
    until(lambda: has_logged(workdir, 3), 120)
    assert len(queued()) == 4  # two of them wait for a CPU
    child.send(signal.SIGINT)
    assert child.wait().exit_code == EXIT_STOPPED_EARLY
    assert queued() == []
    assert list(states(workdir).values()) == ["preempted", "preempted"]
    for path in cells(workdir).values():
        assert read(path / "status.json")["state"] == "preempted"
    ended = start_sweep(config, workdir, "--cluster=slurm").wait(300)
    assert ended.exit_code == 0, ended.stderr
    assert set(states(workdir).values()) == {"done"}


def test_jobs_of_a_killed_sweep_are_waited_for_and_not_queued_twice(tmp_path: Path) -> None:
    config, workdir = pair(tmp_path, 20), tmp_path / "w"
    child = start_sweep(config, workdir, "--cluster=slurm", **SLOW_STEPS)
    until(lambda: has_logged(workdir, 3), 120)
    jobs = jobs_of(workdir)
    child.send(signal.SIGKILL)
    child.wait()
    again = start_sweep(config, workdir, "--cluster=slurm").wait(300)
    assert again.exit_code == 0, again.stderr
    assert "start" not in again.stdout
    assert jobs_of(workdir) == jobs
    assert calls(workdir) == [
        (name, script) for name in cells(workdir) for script in ("train", "eval")
    ]


def test_what_slurm_would_refuse_is_found_first(tmp_path: Path) -> None:
    slurm = {"partition": "gone", "timeout_minutes": 10, "gpus_per_run": 0, "cpus_per_run": 1}
    unknown = start_sweep(pair(tmp_path, 10, slurm=slurm), tmp_path / "w", "--cluster=slurm").wait()
    assert unknown.exit_code == 2
    assert "slurm.partition = 'gone': unknown; there are test" in unknown.last_line
    slurm = {**slurm, "partition": "test", "gpus_per_run": 8}
    refused = start_sweep(pair(tmp_path, 10, slurm=slurm), tmp_path / "w", "--cluster=slurm").wait()
    assert refused.exit_code == 2
    assert "sbatch refused the jobs" in refused.last_line
    assert queued() == []
