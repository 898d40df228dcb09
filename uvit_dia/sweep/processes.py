"""The commands of a cell as child processes, stopped once, that do not outlive their launcher.

A stop reaches a training as exactly one SIGTERM, since a second signal would end it without saving.
So it runs in a session of its own, where neither Ctrl-C nor Slurm's signals to the processes of a
job find it; only this module does.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from uvit_dia.sweep.logs import last_line, mark_start
from uvit_dia.system.locks import LockHeldError, ProcessLock
from uvit_dia.system.notices import warn_once

POLL_SECONDS = 0.25
PR_SET_PDEATHSIG = 1  # of Linux' prctl
STDIN = 0

# What tells a process that it is one of several, set by srun, mpirun and torchrun: a sweep may run
# inside such a launch, and its cells are no part of it.
RANK_PREFIXES = ("PMI_", "PMIX_", "OMPI_", "MV2_", "PALS_", "TORCHELASTIC_")
RANK_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "ROLE_RANK",
    "ROLE_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "MPI_LOCALNRANKS",
    "MPI_LOCALRANKID",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "SLURM_NTASKS",
    "SLURM_NPROCS",
    "SLURM_NNODES",
    "SLURM_JOB_NUM_NODES",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_TASKS_PER_NODE",
    "SLURM_NTASKS_PER_NODE",
)


class Stopped(Exception):
    """The cell was asked to stop, and its command has ended; the message says by what."""


class CommandRunner:
    """Runs the commands of one cell, one after the other.

    Args:
        logs: folder of their stdout and stderr; made when it is needed.
        environment: what they find in their environment beside what this process has in its own.
        is_launched: whether a sweep started this process, and holds the other end of its standard
            input: the end of the sweep then stops the command.

    Attributes:
        stop_reason: why the cell shall stop, or None.
    """

    def __init__(self, logs: Path, environment: Mapping[str, str], *, is_launched: bool) -> None:
        self.logs = logs
        self.environment = environment
        self.is_launched = is_launched
        self.stop_reason: str | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._is_child_asked = False

    def receive(self, signals: Iterable[int]) -> None:
        """Take signals as a wish to stop."""
        for number in signals:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.stop_reason = self.stop_reason or f"stopped by {signal.Signals(number).name}"

    def should_stop(self) -> bool:
        """Say whether the cell shall stop: it was asked to, or its launcher is gone."""
        if self.stop_reason is None and self.is_launched and _is_other_end_closed():
            self.stop_reason = "stopped, since the process of the sweep was killed"
        return self.stop_reason is not None

    @contextlib.contextmanager
    def taken(self, lock: Path) -> Iterator[None]:
        """Hold a lock file; wait for it as long as another process holds it.

        Raises:
            Stopped: if the cell was asked to stop while it waited.
        """
        process_lock = ProcessLock(lock)
        while True:
            try:
                process_lock.acquire()
                break
            except LockHeldError as error:
                if error.advice:
                    warn_once(str(lock), f"{lock} is held by {error.holder}; {error.advice}")
                if self.should_stop():
                    raise Stopped(self.stop_reason) from None
                time.sleep(POLL_SECONDS)
        try:
            yield
        finally:
            process_lock.release()

    def run(self, name: str, command: Sequence[str]) -> tuple[int, str]:
        """Run a command to its end.

        Args:
            name: of its log files.
            command: the command line.

        Returns:
            its exit code (minus the number of the signal that ended it) and the last line of its
            stderr.

        Raises:
            Stopped: if the cell was asked to stop before the command was started.
        """
        if self.should_stop():
            raise Stopped(self.stop_reason)
        self.logs.mkdir(exist_ok=True)
        errors = self.logs / f"{name}.err"
        with (self.logs / f"{name}.out").open("ab") as out, errors.open("ab") as err:
            start = mark_start(err)
            self._is_child_asked = False
            self._child = subprocess.Popen(
                list(command),
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                # safe here: this process has one thread, and what is called takes no lock
                preexec_fn=_make_end_with_parent(),  # noqa: PLW1509
            )
            code = self._wait(self._child)
        self._child = None
        return code, last_line(errors, start)

    def _environment(self) -> dict[str, str]:
        own = {
            name: value
            for name, value in os.environ.items()
            if name not in RANK_VARIABLES and not name.startswith(RANK_PREFIXES)
        }
        # a bar redrawn ten times a second would fill the log
        return {"TQDM_MININTERVAL": "10", **own, **self.environment}

    def _wait(self, child: "subprocess.Popen[bytes]") -> int:
        while True:
            try:
                return child.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                if self.should_stop():
                    self._ask(child.pid)

    def _ask(self, child: int) -> None:
        """Ask the command to stop, once."""
        if not self._is_child_asked:
            self._is_child_asked = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)

    def stop_now(self, signal_name: str) -> None:
        """Ask the command to stop and wait for its end, from within a signal handler.

        `Popen.wait` is not called: the code that was interrupted may hold its lock.
        """
        self.stop_reason = self.stop_reason or f"stopped by {signal_name}"
        if self._child is not None:
            self._ask(self._child.pid)
            with contextlib.suppress(ChildProcessError):  # it has ended, and was waited for
                os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOWAIT)


def _is_other_end_closed() -> bool:
    """Say whether the standard input, into which nobody writes, has ended."""
    readable, _, _ = select.select([STDIN], [], [], 0)
    return bool(readable)


def _make_end_with_parent() -> Callable[[], None] | None:
    """Return what a child calls first, so that it gets SIGTERM when this process is killed."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # found before the fork
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
