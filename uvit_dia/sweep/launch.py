"""Running the cells of a sweep: which one is next, how each one ended, and what an interruption does.

What runs a cell is a cluster: this machine (`local.py`) or Slurm (`slurm.py`), both through submitit.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from uvit_dia.sweep.cell_job import CellTask, seconds_of
from uvit_dia.sweep.cells import Cell
from uvit_dia.sweep.config import Sweep
from uvit_dia.sweep.folder import read_cell_json, write_cell_json
from uvit_dia.system.errors import StoppedEarly
from uvit_dia.system.signals import StopRequest

MAX_ATTEMPTS = 2  # of a cell in one invocation: one retry
STOP_AGAIN_SECONDS = 1.0
SETTLE_POLL_SECONDS = 0.5

Say = Callable[[str], None]


class Cluster(Protocol):
    """What runs cells.

    Attributes:
        capacity: how many cells it takes at once.
        poll_seconds: how often it is asked.
        settle_seconds: how long after the end of a job its files may still look old from here.
    """

    capacity: int
    poll_seconds: float
    settle_seconds: float

    def submit(self, tasks: list[CellTask]) -> None:
        """Start cells, or queue them."""
        ...

    def ended(self, tasks: list[CellTask]) -> list[CellTask]:
        """Return those of the submitted cells that are no longer worked on."""
        ...

    def stop(self, tasks: list[CellTask]) -> None:
        """Ask cells to save their state and end; it is called again and again until they have."""
        ...

    def last_words(self, task: CellTask) -> str:
        """Return the last line that the job of a cell wrote, for one that ended without saying how."""
        ...


@dataclass(frozen=True)
class Progress:
    """How cells ended in one invocation.

    Attributes:
        states: by name of the cell.
        reasons: by name of the cell, of failed and diverged ones.
    """

    states: dict[str, str]
    reasons: dict[str, str]

    def count(self, state: str) -> int:
        """Return how many cells are in a state."""
        return sum(found == state for found in self.states.values())


def make_task(sweep: Sweep, cell: Cell, workdir: Path, *, extractor_sha256: str) -> CellTask:
    """Return what a cluster needs to work on a cell."""
    evaluation = sweep.evaluation
    command = cell.eval_command(sweep.launch, workdir, evaluation)
    end = command.index("--seed")  # the job adds the seeds that are missing
    return CellTask(
        name=cell.name,
        folder=cell.folder(workdir).absolute(),
        cwd=Path.cwd(),
        num_steps=cell.num_steps,
        train=tuple(cell.train_command(sweep.launch, workdir)),
        evaluate=(*command[:end], *command[end + 4 :]),
        first_seed=evaluation.seed,
        num_repeats=evaluation.num_repeats,
        expected={
            "step": cell.num_steps,
            "num_images": evaluation.num_images,
            "sampler": evaluation.sampler,
            "num_steps": evaluation.num_steps,
            "extractor_sha256": extractor_sha256,
        },
        environment=dict(sweep.launch.environment()),
        launcher=None,
    )


def run_cells(
    tasks: Iterable[CellTask],
    cluster: Cluster,
    *,
    adopted: Iterable[CellTask] = (),
    say: Say,
) -> Progress:
    """Run cells until each has ended; one that fails leaves the others alone.

    A cell whose command was killed, or ended by a bug of ours, is tried once more; one that was refused (exit code 2)
    or that diverged is not, since it would end the same way.

    Args:
        tasks: the cells.
        cluster: what runs them.
        adopted: cells that it works on already.
        say: called with a line for each event.

    Raises:
        StoppedEarly: after a stop signal, when all cells have saved their state.
    """
    waiting = deque(tasks)
    running = list(adopted)
    attempts = {task.name: 1 for task in running}
    progress = Progress({}, {})
    with StopRequest() as stop:
        while (waiting or running) and not stop:
            room = max(0, min(cluster.capacity - len(running), len(waiting)))
            batch = [waiting.popleft() for _ in range(room)]
            for task in batch:
                attempts[task.name] = attempts.get(task.name, 0) + 1
                say(f"start    {task.name}" + (" again" if attempts[task.name] > 1 else ""))
            if batch:
                cluster.submit(batch)
            running += batch
            for task in cluster.ended(running):
                running.remove(task)
                state, facts = _outcome(task, cluster)
                say(_ending(task.name, state, facts))
                if facts.get("is_worth_retrying") and attempts[task.name] < MAX_ATTEMPTS:
                    waiting.append(task)
                else:
                    progress.states[task.name] = state
                    progress.reasons[task.name] = str(facts.get("reason", ""))
            time.sleep(cluster.poll_seconds)
        _stop_all(cluster, running)
        if stop and (waiting or running):
            raise StoppedEarly(
                f"stopped by {stop.signal_name}, the state of all cells is saved; {len(waiting) + len(running)} are "
                "not finished, the same command goes on with them"
            )
    return progress


def _stop_all(cluster: Cluster, running: list[CellTask]) -> None:
    """Ask the cells to stop until they have; asked twice, a cell passes on only one signal."""
    left = list(running)
    asked = float("-inf")
    while left:
        if time.monotonic() - asked >= STOP_AGAIN_SECONDS:
            cluster.stop(left)
            asked = time.monotonic()
        time.sleep(cluster.poll_seconds)
        for task in cluster.ended(left):
            left.remove(task)


def _outcome(task: CellTask, cluster: Cluster) -> tuple[str, dict]:
    """Return the state of a cell whose job has ended, and what else is known of it."""
    found = _settled(task, cluster.settle_seconds)
    state = str(found["state"])
    if (
        state == "preempted"
    ):  # by somebody else than this sweep, which waits for those that it stops
        found["is_worth_retrying"] = True
    elif state in ("waiting", "running"):  # the job itself was killed
        state = "failed"
        words = cluster.last_words(task) or "killed"
        found = {
            "reason": f"the launcher's own process ended: {words}"[:500],
            "is_worth_retrying": True,
            **{f"{name}_seconds": seconds_of(found, name) for name in ("train", "eval")},
        }
        task.folder.mkdir(parents=True, exist_ok=True)
        write_cell_json(task.folder, state, **found)
    return state, found


def _settled(task: CellTask, seconds: float) -> dict:
    """Read what a job wrote at its end; give its file that much time to be seen from here."""
    end = time.monotonic() + seconds
    while True:
        found = read_cell_json(task.folder)
        if found["state"] not in ("waiting", "running") or time.monotonic() >= end:
            return found
        time.sleep(SETTLE_POLL_SECONDS)


def _ending(name: str, state: str, facts: dict) -> str:
    seconds = seconds_of(facts, "train") + seconds_of(facts, "eval")
    words = [f"{state:<8} {name}"]
    if state == "done" and isinstance(facts.get("value"), float):
        words.append(f"{facts['metric']} = {facts['value']:.4g}")
    if state != "done" and facts.get("reason"):
        words.append(str(facts["reason"]))
    return ", ".join(words) + (f" ({seconds:.0f} s)" if seconds else "")
