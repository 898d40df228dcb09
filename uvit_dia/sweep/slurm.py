"""Cells on a Slurm cluster, through submitit: an array of jobs, which may be preempted and go back in the queue.

On SIGUSR2, which Slurm sends ahead of a timeout and when it preempts a job, submitit calls `CellJob.checkpoint`,
which lets the training save its state, and requeues the job. `scontrol requeue` ends in the same way.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from uvit_dia.sweep.cell_job import CellJob, CellTask
from uvit_dia.sweep.folder import read_json
from uvit_dia.sweep.local import import_submitit, last_line, new_jobs_folder
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import write_json

MAX_TIMEOUTS = 1000  # of a cell: each one goes on where the last one was ended
SIGNAL_DELAY_SECONDS = 120  # how long before a timeout the training is asked to save
SETTLE_SECONDS = 10.0  # network file systems show other machines' files with a delay
COMMAND_TIMEOUT_SECONDS = 60
OVER = (  # states of a job that does not come back; all others are or will be worked on
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "REVOKED",
    "TIMEOUT",
)


def check_slurm(slurm: ConfigDict) -> None:
    """Check that there is a Slurm that takes jobs of a sweep config's group `slurm`.

    Raises:
        InputError: if there is none, or it lacks the partition.
    """
    missing = [name for name in ("sbatch", "squeue", "scancel", "srun") if not shutil.which(name)]
    if missing:
        raise InputError(f"--cluster slurm: there is no {missing[0]} on this machine")
    partitions = _run(["sinfo", "--noheader", "--format=%R"])
    if partitions is None:
        raise InputError("--cluster slurm: sinfo gets no answer from Slurm's controller")
    unknown = set(slurm.partition.split(",")) - {"", *partitions.split()}
    if unknown:
        known = ", ".join(sorted(set(partitions.split()))) or "none"
        raise InputError(f"slurm.partition = {slurm.partition!r}: unknown; there are {known}")


class SlurmCluster:
    """A Slurm cluster that this machine can submit jobs to, and that shares this file system.

    Args:
        workdir: the sweep's folder, held by this process.
        slurm: the group `slurm` of the sweep config.
        max_parallel: how many cells run at once; None for as many as the cluster gives.
        poll_seconds: how often its queue is looked at.
    """

    def __init__(
        self,
        workdir: Path,
        slurm: ConfigDict,
        *,
        max_parallel: int | None,
        poll_seconds: float = 5.0,
    ) -> None:
        self.capacity = 10**9  # the array's own limit holds them back
        self.poll_seconds = poll_seconds
        self.settle_seconds = SETTLE_SECONDS
        self._record = workdir / "slurm.json"
        self._executor = import_submitit().SlurmExecutor(
            folder=new_jobs_folder(workdir), max_num_timeout=MAX_TIMEOUTS
        )
        self._executor.update_parameters(**_parameters(slurm, max_parallel))
        self._jobs: dict[str, Any] = {}  # submitit's, by name of the cell
        self._job_ids: dict[str, str] = {}  # Slurm's, by name of the cell

    def adopt(self, tasks: list[CellTask]) -> list[CellTask]:
        """Return the cells that jobs of an earlier, killed invocation are still working on, or wait to."""
        recorded = (read_json(self._record) or {}).get("jobs", {})
        names = {task.name for task in tasks}
        self._job_ids = {str(k): str(v) for k, v in recorded.items() if k in names}
        alive = self._alive()
        self._job_ids = {name: job for name, job in self._job_ids.items() if job in alive}
        return [task for task in tasks if task.name in self._job_ids]

    def submit(self, tasks: list[CellTask]) -> None:
        """Queue cells as one array of jobs."""
        from submitit.core.utils import FailedJobError

        try:
            with self._executor.batch():
                jobs = [self._executor.submit(CellJob(task)) for task in tasks]
        except FailedJobError as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"--cluster slurm: sbatch refused the jobs: {reason}") from error
        for task, job in zip(tasks, jobs, strict=True):
            self._jobs[task.name] = job
            self._job_ids[task.name] = str(job.job_id)
        write_json(self._record, {"jobs": self._job_ids})

    def ended(self, tasks: list[CellTask]) -> list[CellTask]:
        """Return the cells whose job has left the queue for good."""
        alive = self._alive()
        return [task for task in tasks if self._job_ids[task.name] not in alive]

    def _alive(self) -> set[str]:
        """Return the ids of the jobs that are queued or running; all, while Slurm does not answer."""
        arrays = sorted({job.split("_")[0] for job in self._job_ids.values()})
        if not arrays:
            return set()
        command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T"]
        listed = _run([*command, f"--jobs={','.join(arrays)}"])
        if listed is None:
            return set(self._job_ids.values())
        rows = [line.strip().partition("|") for line in listed.splitlines() if "|" in line]
        return {job for job, _, state in rows if state not in OVER}

    def stop(self, tasks: list[CellTask]) -> None:
        """Take queued jobs out of the queue, and send SIGTERM to the running ones."""
        jobs = [self._job_ids[task.name] for task in tasks]
        for how in (["--state=PENDING"], ["--signal=TERM"]):
            _run(["scancel", *how, *jobs])

    def last_words(self, task: CellTask) -> str:
        """Return the last line that the job of a cell wrote."""
        job = self._jobs.get(task.name)
        return "" if job is None else last_line(job.stderr())


def _parameters(slurm: ConfigDict, max_parallel: int | None) -> dict[str, object]:
    """Return submitit's parameters for sbatch."""
    given: dict[str, object] = {
        "job_name": "uvit_dia_sweep",
        "time": slurm.timeout_minutes,
        "cpus_per_task": slurm.cpus_per_run,
        "srun_args": [f"--cpus-per-task={slurm.cpus_per_run}"],  # from 22.05 on srun has to be told
        "signal_delay_s": SIGNAL_DELAY_SECONDS,
        "array_parallelism": max_parallel or 10**4,
        "additional_parameters": {"requeue": True},
    }
    if slurm.partition:
        given["partition"] = slurm.partition
    if slurm.gpus_per_run:
        given["gpus_per_node"] = slurm.gpus_per_run
    return given


def _run(command: list[str]) -> str | None:
    """Run one of Slurm's commands; return what it printed, or None if Slurm's controller gave no answer."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode and "Invalid job id" not in done.stderr:
        return None
    return done.stdout
