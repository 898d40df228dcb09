"""A pool of cells on this machine: one process a cell, `python -m uvit_dia.sweep cell DIR NAME`."""

import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from uvit_dia.sweep.cell_work import signal_name
from uvit_dia.sweep.cells import Cell, Launch, import_path
from uvit_dia.sweep.logs import last_line, mark_start


@dataclass
class _Process:
    """A process that works on a cell, with its log and where its part of the log begins."""

    running: "subprocess.Popen[bytes]"
    log: Path
    start: int


class LocalPool:
    """This machine as a place where cells run.

    A cell's process is in a session of its own: Ctrl-C in the terminal reaches the sweep alone,
    which passes it on in order. The process ends when the sweep does, however that ended: its
    standard input is a pipe that nobody else holds.

    Args:
        workdir: the sweep's folder, held by this process.
        launch: how the commands of cells are started.
        max_parallel: how many cells run at once.
        num_gpus: GPUs over which cells are spread; with less than two, a cell sees what this
            process sees.
    """

    poll_seconds = 0.1
    settle_seconds = 0.0

    def __init__(self, workdir: Path, launch: Launch, *, max_parallel: int, num_gpus: int) -> None:
        self.capacity = max_parallel
        self._workdir, self._launch = workdir, launch
        self._processes: dict[str, _Process] = {}  # by name of the cell
        gpus = range(num_gpus if num_gpus > 1 else 0)
        self._gpus: dict[int, set[str]] = {gpu: set() for gpu in gpus}  # -> names of its cells

    def submit(self, cells: Sequence[Cell]) -> None:
        """Start cells."""
        for cell in cells:
            path = cell.folder(self._workdir) / "logs" / "cell.out"
            path.parent.mkdir(parents=True, exist_ok=True)
            command = [*cell.work_command(self._launch, self._workdir), "--launched"]
            with path.open("ab") as log:
                start = mark_start(log)
                process = subprocess.Popen(
                    command,
                    env={**os.environ, **import_path(), **self._visible_gpu(cell)},
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._processes[cell.name] = _Process(process, path, start)

    def _visible_gpu(self, cell: Cell) -> dict[str, str]:
        """Give a cell the GPU with the fewest cells on it, where there are several."""
        if not self._gpus:
            return {}
        gpu = min(self._gpus, key=lambda index: len(self._gpus[index]))
        self._gpus[gpu].add(cell.name)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        name = str(gpu) if visible is None else visible.split(",")[gpu].strip()
        return {"CUDA_VISIBLE_DEVICES": name}

    def ended(self, cells: Sequence[Cell]) -> list[Cell]:
        """Return the cells whose process is over."""
        over = [cell for cell in cells if self._processes[cell.name].running.poll() is not None]
        for cell in over:
            self._processes[cell.name].running.communicate()  # closes the pipe
            for names in self._gpus.values():
                names.discard(cell.name)
        return over

    def stop(self, cells: Sequence[Cell]) -> None:
        """Send SIGTERM to the processes of cells, which pass it on to the training once."""
        for cell in cells:
            self._processes[cell.name].running.send_signal(signal.SIGTERM)

    def last_words(self, cell: Cell) -> str:
        """Return the last line that the process of a cell wrote, or the signal that ended it."""
        process = self._processes[cell.name]
        code = process.running.returncode
        return last_line(process.log, process.start) or (
            signal_name(-code) if code < 0 else f"exit code {code}"
        )
