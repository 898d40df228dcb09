"""One cell at work: train.py, then eval_fid.py, in processes of their own, and what came of it in `cell.json`.

This is what submitit runs, on this machine or in a Slurm job. It goes on from whatever it finds: a trained run is not
trained again, and of the evaluations only the missing seeds are measured.
"""

import os
import platform
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from uvit_dia.sweep.evaluations import (
    drop_torn_line,
    evaluation_facts,
    evaluations_by_seed,
    final_weights,
)
from uvit_dia.sweep.folder import (
    CELL_LOCK,
    FINAL_STATES,
    read_cell_json,
    read_json,
    write_cell_json,
)
from uvit_dia.sweep.processes import CommandRunner, Stopped
from uvit_dia.system.errors import EXIT_BAD_INPUT, EXIT_DIVERGED

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

RUN_LOCK = ".lock"  # of the run's folder, held by train.py


@dataclass(frozen=True)
class CellTask:
    """All that is needed to work on a cell; plain values, since it travels to another process or machine.

    Attributes:
        name: of the cell.
        folder: of its run, absolute.
        cwd: where its commands are started.
        num_steps: length of the training.
        train: command line of the training.
        evaluate: command line of the evaluation, but for `--seed` and `--num_repeats`.
        first_seed: of the samples.
        num_repeats: how many seeds.
        expected: what a line of `eval.jsonl` must hold to count as this evaluation.
        environment: variables of the commands; one that is None is taken away.
        launcher: process that this one shall not outlive, or None.
    """

    name: str
    folder: Path
    cwd: Path
    num_steps: int
    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    first_seed: int
    num_repeats: int
    expected: dict[str, object]
    environment: dict[str, str | None]
    launcher: int | None


class _Failed(Exception):
    """A command ended as it should not.

    Args:
        reason: in a few words.
        is_worth_retrying: whether the same command might end otherwise.
    """

    def __init__(self, reason: str, *, is_worth_retrying: bool) -> None:
        super().__init__(reason)
        self.is_worth_retrying = is_worth_retrying


class _Diverged(Exception):
    """The training diverged, or its model samples no finite images: a result, which a repeat would give again."""


class CellJob:
    """A callable that submitit runs, and that Slurm may preempt.

    Args:
        task: the cell.
    """

    def __init__(self, task: CellTask) -> None:
        self.task = task
        self._commands = CommandRunner(
            task.folder / "logs", task.cwd, task.environment, task.launcher
        )
        self._owns_cell = False
        self._seconds: dict[str, float] = {}

    def __call__(self) -> str:
        """Work on the cell until it has ended, or was asked to stop; return its state."""
        self._commands.receive_signals()
        self.task.folder.mkdir(parents=True, exist_ok=True)
        try:
            with self._commands.taken(self.task.folder / CELL_LOCK):
                self._owns_cell = True
                return self._work()
        except Stopped:
            return "preempted"

    def checkpoint(self) -> "DelayedSubmission":
        """Stop the training with its state saved; submitit calls it on SIGUSR2, and puts the job back in the queue."""
        from submitit.helpers import DelayedSubmission

        self._commands.stop_now("SIGUSR2")
        if self._owns_cell:
            self._record("preempted", reason="preempted; waits in the queue")
        return DelayedSubmission(CellJob(self.task))

    def _work(self) -> str:
        """Train and evaluate what is missing, with the cell's lock held; return how the cell ended."""
        found = read_cell_json(self.task.folder)
        if found["state"] in FINAL_STATES:
            return str(found["state"])
        self._seconds = {f"{name}_seconds": seconds_of(found, name) for name in ("train", "eval")}
        self._record("running")
        try:
            self._train()
            weights, lines = self._evaluate()
        except _Diverged as error:
            return self._record("diverged", reason=str(error))
        except Stopped as error:
            return self._record("preempted", reason=str(error))
        except _Failed as error:
            return self._record(
                "failed", reason=str(error), is_worth_retrying=error.is_worth_retrying
            )
        return self._record("done", **evaluation_facts(weights, lines))

    def _record(self, state: str, **facts: object) -> str:
        seconds = {name: round(value, 3) for name, value in self._seconds.items()}
        owner = {"host": platform.node(), "process": os.getpid()}
        write_cell_json(self.task.folder, state, **facts, **seconds, **owner)
        return state

    # ---------------------------------------------------------------- training

    def _train(self) -> None:
        """Train to the last step; nothing is started where that has been done."""
        folder = self.task.folder
        with self._commands.taken(folder / RUN_LOCK):
            pass  # the training of a launcher that was killed may still be saving its state
        if not self._is_trained():
            self._refuse_diverged(EXIT_DIVERGED, "")
            code, last_line = self._run("train", self.task.train)
            if not self._is_trained():
                self._refuse_diverged(code, last_line)
                self._raise_reason("train.py", code, last_line)

    def _is_trained(self) -> bool:
        status = read_json(self.task.folder / "status.json") or {}
        is_done = status.get("state") == "done" and status.get("step") == self.task.num_steps
        return is_done and final_weights(self.task.folder, self.task.num_steps) is not None

    def _refuse_diverged(self, code: int, last_line: str) -> None:
        """Raise if the run says that it diverged, by its `status.json`, since launchers change exit codes."""
        status = read_json(self.task.folder / "status.json") or {}
        if status.get("state") == "diverged" and code > 0:
            raise _Diverged(str(status.get("reason") or last_line))

    # ---------------------------------------------------------------- evaluation

    def _evaluate(self) -> tuple[str, dict[int, dict[str, object]]]:
        """Evaluate the seeds that are not yet evaluated; return the hash of the weights and all lines by seed."""
        task, path = self.task, self.task.folder / "eval.jsonl"
        weights = final_weights(task.folder, task.num_steps)
        assert weights is not None  # it was trained
        expected = {**task.expected, "weights_sha256": weights}
        seeds = range(task.first_seed, task.first_seed + task.num_repeats)
        lines = evaluations_by_seed(path, expected, seeds)
        missing = [seed for seed in seeds if seed not in lines]
        if missing:
            drop_torn_line(path)
            repeats = missing[-1] - missing[0] + 1
            flags = ("--seed", str(missing[0]), "--num_repeats", str(repeats))
            code, last_line = self._run("eval", (*task.evaluate, *flags))
            lines = evaluations_by_seed(path, expected, seeds)
            if code == EXIT_DIVERGED:
                raise _Diverged(last_line.removeprefix("eval_fid.py: "))
            if code != 0 or len(lines) < len(seeds):
                self._raise_reason("eval_fid.py", code, last_line)
        return weights, lines

    # ---------------------------------------------------------------- both

    def _run(self, name: str, command: tuple[str, ...]) -> tuple[int, str]:
        started = time.monotonic()
        try:
            return self._commands.run(name, command)
        finally:
            self._seconds[f"{name}_seconds"] += time.monotonic() - started

    def _raise_reason(self, script: str, code: int, last_line: str) -> None:
        """Raise why a command did not do what it was started for."""
        if self._commands.stop_reason is not None:
            raise Stopped(self._commands.stop_reason)
        if code < 0:
            name = signal.Signals(-code).name
            hint = " (kill -9, or out of memory)" if name == "SIGKILL" else ""
            raise _Failed(f"{script} was ended by {name}{hint}", is_worth_retrying=True)
        reason = f"{script}, exit code {code}: {last_line.removeprefix(f'{script}: ')}"
        raise _Failed(reason[:500], is_worth_retrying=code not in (0, EXIT_BAD_INPUT))


def seconds_of(found: dict, name: str) -> float:
    """Return the seconds that a `cell.json` says were spent on "train" or "eval"; 0 where it does not say."""
    value = found.get(f"{name}_seconds")
    return float(value) if isinstance(value, int | float) else 0.0
