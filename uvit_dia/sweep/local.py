"""Cells on this machine, through submitit's local executor: one controller process and one job process each."""

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from uvit_dia.sweep.cell_job import CellJob, CellTask
from uvit_dia.system.errors import InputError

JOBS_PREFIX = ".jobs-"  # folders of submitit's files, made anew by each invocation
NO_TIMEOUT_MINUTES = 60 * 24 * 3650
MAX_TAIL_CHARACTERS = 200


class LocalCluster:
    """This machine.

    Args:
        workdir: the sweep's folder, held by this process.
        max_parallel: how many cells run at once.
        num_gpus: GPUs over which cells are spread; with less than two, a cell sees what this process sees.
    """

    poll_seconds = 0.1
    settle_seconds = 0.0

    def __init__(self, workdir: Path, *, max_parallel: int, num_gpus: int) -> None:
        self.capacity = max_parallel
        self._executor = import_submitit().LocalExecutor(folder=new_jobs_folder(workdir))
        self._executor.update_parameters(timeout_min=NO_TIMEOUT_MINUTES)
        self._jobs: dict[str, Any] = {}  # submitit's, by name of the cell
        gpus = range(num_gpus if num_gpus > 1 else 0)
        self._gpus: dict[int, set[str]] = {gpu: set() for gpu in gpus}  # -> names of its cells

    def submit(self, tasks: list[CellTask]) -> None:
        """Start cells."""
        for task in tasks:
            job = CellJob(replace(self._with_gpu(task), launcher=os.getpid()))
            with _deaf_to_interrupts():
                self._jobs[task.name] = self._executor.submit(job)

    def _with_gpu(self, task: CellTask) -> CellTask:
        """Give a cell the GPU with the fewest cells on it, or all that this process sees.

        It is said in any case, since submitit's local executor hides GPUs that it was not asked for.
        """
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if self._gpus:
            gpu = min(self._gpus, key=lambda index: len(self._gpus[index]))
            self._gpus[gpu].add(task.name)
            visible = str(gpu) if visible is None else visible.split(",")[gpu].strip()
        return replace(task, environment={**task.environment, "CUDA_VISIBLE_DEVICES": visible})

    def ended(self, tasks: list[CellTask]) -> list[CellTask]:
        """Return the cells whose job is over."""
        over = [task for task in tasks if self._jobs[task.name].done()]
        for cells in self._gpus.values():
            cells -= {task.name for task in over}
        return over

    def stop(self, tasks: list[CellTask]) -> None:
        """Send SIGTERM to the controllers, which pass it on to their jobs."""
        for task in tasks:
            self._jobs[task.name]._process.send_signal(signal.SIGTERM)

    def last_words(self, task: CellTask) -> str:
        """Return the last line that the job of a cell wrote."""
        return last_line(self._jobs[task.name].stderr())


def import_submitit() -> ModuleType:
    """Import submitit.

    Raises:
        InputError: if it is not installed.
    """
    try:
        import submitit
    except ImportError as error:
        raise InputError("sweeps need submitit: pip install 'uvit_dia[sweep]'") from error
    return submitit


def new_jobs_folder(workdir: Path) -> Path:
    """Make a folder for submitit's files, which nobody else can have put a file into: they are pickles."""
    return Path(tempfile.mkdtemp(prefix=JOBS_PREFIX, dir=workdir.absolute()))


def remove_jobs_folders(workdir: Path) -> None:
    """Remove submitit's files of this invocation and of earlier ones that were killed."""
    for folder in workdir.glob(f"{JOBS_PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)


def last_line(stderr: str | None) -> str:
    """Return the last line of what a job wrote to stderr, or an empty text."""
    lines = (stderr or "").strip().splitlines()
    return lines[-1][:MAX_TAIL_CHARACTERS] if lines else ""


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Let processes that are started in here ignore Ctrl-C, which a terminal sends to all processes at once.

    Their sweep gets it too, and passes it on in order. A Ctrl-C that comes meanwhile waits for the end of this.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
