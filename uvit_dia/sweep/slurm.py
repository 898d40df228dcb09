"""Cells on a Slurm cluster, through submitit.

An array of jobs, which may be preempted and go back in the queue.

On SIGUSR2, which Slurm sends ahead of a timeout and when it preempts a job, submitit calls
`SlurmJob.checkpoint`, which lets the training save its state, and requeues the job. `scontrol
requeue` ends in the same way.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uvit_dia.sweep.cell_work import CellWork
from uvit_dia.sweep.cells import Cell, Launch, import_path
from uvit_dia.sweep.plan import read_plan
from uvit_dia.sweep.schema import SlurmConfig
from uvit_dia.sweep.slurm_commands import MAX_WORDS, import_submitit, run_slurm, submit_in_time
from uvit_dia.system.files import write_json
from uvit_dia.system.records import read_json

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

JOBS_PREFIX = ".jobs-"  # folders of submitit's files, made anew by each start of a sweep
MAX_TIMEOUTS = 1000  # of a cell: each one goes on where the last one was ended
SIGNAL_DELAY_SECONDS = 120  # how long before a timeout the training is asked to save
SETTLE_SECONDS = 10.0  # network file systems show other machines' files with a delay
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


@dataclass
class SlurmJob:
    """The work on a cell, as submitit carries it to a job and calls it there.

    Attributes:
        workdir: the sweep's folder, absolute.
        name: of the cell.
        launch: how the commands of cells are started.
        cwd: where they are started.
    """

    workdir: Path
    name: str
    launch: Launch
    cwd: Path
    _work: CellWork | None = None

    def __call__(self) -> str:
        """Work on the cell until it has ended, or was asked to stop; return its state."""
        os.chdir(self.cwd)
        plan = read_plan(self.workdir)
        self._work = CellWork(plan, plan.cell(self.name), self.launch, is_launched=False)
        state, _ = self._work.run([signal.SIGTERM])  # SIGUSR2 is submitit's
        return state

    def checkpoint(self) -> "DelayedSubmission":
        """Stop the training with its state saved.

        Submitit calls it on SIGUSR2, and puts the job back in the queue.
        """
        from submitit.helpers import DelayedSubmission

        if self._work is not None:
            self._work.stop_now("SIGUSR2")
        return DelayedSubmission(SlurmJob(self.workdir, self.name, self.launch, self.cwd))


class SlurmCluster:
    """A Slurm cluster that this machine can submit jobs to, and that shares this file system.

    As a context, it takes submitit's files away at its end, unless jobs may still need them.

    Args:
        workdir: the sweep's folder, held by this process.
        launch: how the commands of cells are started.
        slurm: the group `slurm` of the sweep config.
        max_parallel: how many cells run at once; None for as many as the cluster gives.
        poll_seconds: how often its queue is looked at.
    """

    def __init__(
        self,
        workdir: Path,
        launch: Launch,
        slurm: SlurmConfig,
        max_parallel: int | None,
        *,
        poll_seconds: float = 5.0,
    ) -> None:
        self.capacity = 10**9  # the array's own limit holds them back
        self.poll_seconds = poll_seconds
        self.settle_seconds = SETTLE_SECONDS
        self._workdir, self._launch = workdir.absolute(), launch
        self._record = workdir / "slurm.json"
        # a folder that is new, so that nobody else can have put a file into it: they are pickles
        folder = Path(tempfile.mkdtemp(prefix=JOBS_PREFIX, dir=self._workdir))
        self._executor = import_submitit().SlurmExecutor(folder, max_num_timeout=MAX_TIMEOUTS)
        self._executor.update_parameters(**_parameters(slurm, max_parallel))
        self._jobs: dict[str, Any] = {}  # submitit's, by name of the cell
        self._job_ids: dict[str, str] = {}  # Slurm's, by name of the cell

    def __enter__(self) -> "SlurmCluster":
        os.environ.update(import_path())  # sbatch hands it to the jobs
        return self

    def __exit__(self, *error: object) -> None:
        if not self._alive():
            for folder in self._workdir.glob(f"{JOBS_PREFIX}*"):  # those of killed sweeps too
                shutil.rmtree(folder, ignore_errors=True)

    def adopt(self, cells: Sequence[Cell]) -> list[Cell]:
        """Return the cells that jobs of an earlier, killed sweep still work on, or wait to."""
        recorded = read_json(self._record).values.get("jobs")
        recorded = recorded if isinstance(recorded, dict) else {}
        names = {cell.name for cell in cells}
        self._job_ids = {str(k): str(v) for k, v in recorded.items() if k in names}
        alive = self._alive()
        self._job_ids = {name: job for name, job in self._job_ids.items() if job in alive}
        return [cell for cell in cells if cell.name in self._job_ids]

    def submit(self, cells: Sequence[Cell]) -> None:
        """Queue cells as one array of jobs.

        Raises:
            InputError: if sbatch refuses them, in its own words, or gives no answer.
        """

        def queue() -> list[Any]:
            with self._executor.batch():
                return [
                    self._executor.submit(
                        SlurmJob(self._workdir, cell.name, self._launch, Path.cwd())
                    )
                    for cell in cells
                ]

        for cell, job in zip(cells, submit_in_time(queue), strict=True):
            self._jobs[cell.name] = job
            self._job_ids[cell.name] = str(job.job_id)
        write_json(self._record, {"jobs": self._job_ids})

    def ended(self, cells: Sequence[Cell]) -> list[Cell]:
        """Return the cells whose job has left the queue for good."""
        alive = self._alive()
        return [cell for cell in cells if self._job_ids[cell.name] not in alive]

    def _alive(self) -> set[str]:
        """Return the ids of jobs that are queued or running; all while Slurm gives no answer."""
        arrays = sorted({job.split("_")[0] for job in self._job_ids.values()})
        if not arrays:
            return set()
        command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T"]
        listed = run_slurm([*command, f"--jobs={','.join(arrays)}"])
        if listed is None:
            return set(self._job_ids.values())
        rows = [line.strip().partition("|") for line in listed.splitlines() if "|" in line]
        return {job for job, _, state in rows if state not in OVER}

    def stop(self, cells: Sequence[Cell]) -> None:
        """Take queued jobs out of the queue, and send SIGTERM to the running ones."""
        jobs = [self._job_ids[cell.name] for cell in cells]
        for how in (["--state=PENDING"], ["--signal=TERM"]):
            run_slurm(["scancel", *how, *jobs])

    def last_words(self, cell: Cell) -> str:
        """Return the last line that the job of a cell wrote."""
        job = self._jobs.get(cell.name)
        lines = ("" if job is None else job.stderr() or "").strip().splitlines()
        return lines[-1][:MAX_WORDS] if lines else ""


def _parameters(slurm: SlurmConfig, max_parallel: int | None) -> dict[str, object]:
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
    optional = {
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "gpus_per_node": slurm.gpus_per_run,
    }
    return given | {name: value for name, value in optional.items() if value}
