"""Running the cells of a sweep.

Which one is next, how each one ended, and what an interruption does.

Cells run in a pool on this machine (`pool.py`) or on Slurm (`slurm.py`).
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from uvit_dia.sweep.cell_work import MAX_REASON, attempts_of, seconds_of
from uvit_dia.sweep.cells import Cell
from uvit_dia.sweep.folder import FINAL_STATES, read_told, write_cell_json
from uvit_dia.system.errors import CommandError, InputError, StoppedEarly
from uvit_dia.system.records import Record
from uvit_dia.system.signals import StopRequest

MAX_ATTEMPTS = 2  # of a cell in one invocation: one retry
STOP_AGAIN_SECONDS = 1.0
SETTLE_POLL_SECONDS = 0.5
MAX_NAMED_FAILURES = 2

Say = Callable[[str], None]


class Cluster(Protocol):
    """What runs cells.

    Attributes:
        capacity: how many cells it takes at once.
        poll_seconds: how often it is asked.
        settle_seconds: how long after the end of a process its files may still look old from here.
    """

    capacity: int
    poll_seconds: float
    settle_seconds: float

    def submit(self, cells: Sequence[Cell]) -> None:
        """Start cells, or queue them."""
        ...

    def ended(self, cells: Sequence[Cell]) -> list[Cell]:
        """Return those of the submitted cells that are no longer worked on."""
        ...

    def stop(self, cells: Sequence[Cell]) -> None:
        """Ask cells to save their state and end; it is called again and again until they have."""
        ...

    def last_words(self, cell: Cell) -> str:
        """Return why the process of a cell ended that did not write it into `cell.json`."""
        ...


class CellsFailed(CommandError):
    """Some cells have no result; the others do."""


class CellRunner:
    """Runs cells until each has ended; one that fails leaves the others alone.

    A cell whose command was killed, or ended by a bug of ours, is tried once more; one that was
    refused (exit code 2) or that diverged is not, since it would end the same way.

    Args:
        workdir: the sweep's folder, held by this process.
        cluster: what runs the cells.
        say: called with a line for each event.
    """

    def __init__(self, workdir: Path, cluster: Cluster, say: Say) -> None:
        self._workdir, self._cluster, self._say = workdir, cluster, say
        self._waiting: deque[Cell] = deque()
        self._running: list[Cell] = []
        self._attempts: dict[str, int] = {}  # of this invocation, by name of the cell
        self._before: dict[str, Record] = {}  # what cell.json said when a cell was started
        self._ended: dict[str, Record] = {}  # what it says of the cells that have ended

    def run(self, cells: Iterable[Cell], adopted: Iterable[Cell] = ()) -> dict[str, Record]:
        """Run cells.

        Args:
            cells: the cells to start.
            adopted: cells that the cluster works on already.

        Returns:
            what `cell.json` says of each of them, by name.

        Raises:
            InputError: if the cluster refuses the first cells.
            StoppedEarly: after a stop signal, when all cells have saved their state.
        """
        self._waiting.extend(cells)
        self._running.extend(adopted)
        self._attempts = {cell.name: 1 for cell in self._running}
        with StopRequest() as stop:
            while (self._waiting or self._running) and not stop:
                self._start_next()
                for cell in self._cluster.ended(self._running):
                    self._running.remove(cell)
                    self._note_end(cell)
                time.sleep(self._cluster.poll_seconds)
            self._stop_all()
            left = len(self._waiting) + len(self._running)
            if stop and left:
                raise StoppedEarly(
                    f"stopped by {stop.signal_name}, the state of all cells is saved; {left} are "
                    "not finished, the same command goes on with them"
                )
        return self._ended

    def _start_next(self) -> None:
        room = max(0, min(self._cluster.capacity - len(self._running), len(self._waiting)))
        batch = [self._waiting.popleft() for _ in range(room)]
        if not batch:
            return
        for cell in batch:
            self._attempts[cell.name] = self._attempts.get(cell.name, 0) + 1
            self._before[cell.name] = read_told(cell.folder(self._workdir))
            again = " again" if self._attempts[cell.name] > 1 else ""
            self._say(f"start    {cell.name}{again}")
        try:
            self._cluster.submit(batch)
        except InputError as error:
            if not self._running and not self._ended:
                raise
            for cell in batch:  # the others have their results, or will have them
                self._end(cell, {"state": "failed", "reason": str(error)})
        else:
            self._running += batch

    def _note_end(self, cell: Cell) -> None:
        """Note how a cell ended, or put it back in the queue."""
        told = self._settled(cell)
        if told["state"] == "preempted":  # by somebody else: this sweep waits for those it stops
            told = {**told, "is_worth_retrying": True}
        elif told["state"] not in FINAL_STATES and (
            told["state"] != "failed" or told == self._before.get(cell.name)
        ):
            told = self._record_killed(cell, told)
        self._end(cell, told)

    def _end(self, cell: Cell, told: Record) -> None:
        self._say(ending(cell.name, told))
        if told.get("is_worth_retrying") and self._attempts[cell.name] < MAX_ATTEMPTS:
            self._waiting.append(cell)
        else:
            self._ended[cell.name] = told

    def _record_killed(self, cell: Cell, told: Record) -> Record:
        """Write down that the process that worked on a cell ended without saying how."""
        words = self._cluster.last_words(cell) or "killed"
        facts = {
            "reason": f"the cell's own process ended: {words}"[:MAX_REASON],
            "is_worth_retrying": True,
            "attempts": attempts_of(told),
            **{f"{name}_seconds": seconds_of(told, name) for name in ("train", "eval")},
        }
        folder = cell.folder(self._workdir)
        folder.mkdir(parents=True, exist_ok=True)
        write_cell_json(folder, "failed", **facts)
        return {"state": "failed", **facts}

    def _settled(self, cell: Cell) -> Record:
        """Read what a cell's process wrote at its end; give the file time to be seen from here."""
        end = time.monotonic() + self._cluster.settle_seconds
        while True:
            told = read_told(cell.folder(self._workdir))
            if told["state"] not in ("waiting", "running") or time.monotonic() >= end:
                return told
            time.sleep(SETTLE_POLL_SECONDS)

    def _stop_all(self) -> None:
        """Ask the cells to stop until they have; asked twice, a cell passes on only one signal."""
        left = list(self._running)
        asked = float("-inf")
        while left:
            if time.monotonic() - asked >= STOP_AGAIN_SECONDS:
                self._cluster.stop(left)
                asked = time.monotonic()
            time.sleep(self._cluster.poll_seconds)
            for cell in self._cluster.ended(left):
                left.remove(cell)


def ending(name: str, told: Record) -> str:
    """Return a line that says how a cell ended, by its `cell.json`."""
    seconds = seconds_of(told, "train") + seconds_of(told, "eval")
    words = [f"{told['state']:<8} {name}"]
    if told["state"] == "done":
        words.append(f"{told['metric']} = {told['value']:.4g}")
    elif told.get("reason"):
        words.append(str(told["reason"]))
    return ", ".join(words) + (f" ({seconds:.0f} s)" if seconds else "")


def raise_if_failed(ended: Mapping[str, Record]) -> None:
    """Raise `CellsFailed` if some cells ended without a result.

    Args:
        ended: what `cell.json` says of cells, by name.
    """
    failed = [
        f"{name} ({told.get('reason', '')})"
        for name, told in ended.items()
        if told["state"] not in FINAL_STATES
    ]
    if failed:
        more = ", ..." if len(failed) > MAX_NAMED_FAILURES else ""
        raise CellsFailed(
            f"{len(failed)} of {len(ended)} cells failed: {', '.join(failed[:MAX_NAMED_FAILURES])}"
            f"{more}; the same command tries them again"
        )
