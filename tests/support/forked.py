"""Processes for the tests, forked from a server with everything imported: half a second each."""

import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "accelerate.tracking",
        "diffusers.schedulers",
        "pytest",
        "sklearn.datasets",
        "uvit_dia.evaluation.run",
        "uvit_dia.training.run",
    ]
)
_STREAMS = {"stdout": 1, "stderr": 2}


@dataclass(frozen=True)
class Finished:
    """How a process ended: its exit code, or minus the signal that killed it, and its output."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def last_line(self) -> str:
        """The last line on stderr, where a command says why it ended."""
        return (self.stderr.splitlines() or [""])[-1]


class Child:
    """A process that calls a function of an importable module.

    Args:
        function: what it calls.
        arguments: what it calls it with.
        environment: what it finds in its environment beside what this process has in its own.
    """

    def __init__(
        self,
        function: Callable[..., object],
        *arguments: object,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = Path(tempfile.mkdtemp())
        everything = {
            "ACCELERATE_USE_CPU": "true",
            "UVIT_DIA_CACHE": os.environ.get("UVIT_DIA_CACHE", str(self._folder)),
            **(environment or {}),
        }
        self._process = _SERVER.Process(
            target=_enter,
            args=(function, arguments, str(self._folder), everything),
            daemon=True,  # ends with the tests
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def wait(self, timeout_seconds: float = 120) -> Finished:
        """Wait until it has ended; one that does not is killed, and the test fails."""
        self._process.join(timeout_seconds)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
            raise AssertionError(
                f"still running after {timeout_seconds} s:\n{self._read('stderr')}"
            )
        assert self._process.exitcode is not None
        finished = Finished(self._process.exitcode, self._read("stdout"), self._read("stderr"))
        shutil.rmtree(self._folder)
        return finished

    def _read(self, stream: str) -> str:
        path = self._folder / stream
        return path.read_text(errors="replace") if path.exists() else ""


def _enter(
    function: Callable[..., object], arguments: tuple, folder: str, environment: dict[str, str]
) -> None:
    import torch

    torch.set_num_threads(1)  # two cores are shared by all tests, and the bits depend on it
    os.environ.update(environment)
    for name, number in _STREAMS.items():
        descriptor = os.open(Path(folder) / name, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, number)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    function(*arguments)


def start_ranks(
    num_processes: int, function: Callable[..., object], *arguments: object
) -> list[Child]:
    """Start what a launcher starts: processes that find rank and peers in their environment."""
    port = free_port()
    return [
        Child(
            function,
            *arguments,
            environment={
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(num_processes),
                "LOCAL_WORLD_SIZE": str(num_processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
        )
        for rank in range(num_processes)
    ]


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
