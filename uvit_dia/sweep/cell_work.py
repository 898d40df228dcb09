"""One cell at work.

train.py, then eval_fid.py, in processes of their own, and what came of it in `cell.json`.

It goes on from whatever it finds: a trained run is not trained again, and of the evaluations only
the missing seeds are measured. So it may be killed at any moment, and started by anybody: a sweep,
a Slurm job, or by hand.
"""

import math
import os
import platform
import signal
import time
from collections.abc import Sequence

from uvit_dia.config.places import PROGRAM, SCRIPTS
from uvit_dia.sweep.cell_files import CellFiles, final_weights, read_cell_files
from uvit_dia.sweep.cells import Cell, Launch
from uvit_dia.sweep.choice import evaluations_of, has_result
from uvit_dia.sweep.folder import CELL_LOCK, read_told, write_cell_json
from uvit_dia.sweep.plan import SweepPlan
from uvit_dia.sweep.processes import CommandRunner, Stopped
from uvit_dia.system.errors import EXIT_BAD_INPUT, EXIT_DIVERGED, EXIT_STOPPED_EARLY
from uvit_dia.system.records import Record, number

RUN_LOCK = ".lock"  # of the run's folder, held by train.py
MAX_REASON = 500


class _Failed(Exception):
    """A command ended as it should not.

    Args:
        reason: in a few words.
        is_worth_retrying: whether the same command might end otherwise.
    """

    def __init__(self, reason: str, *, is_worth_retrying: bool) -> None:
        super().__init__(reason[:MAX_REASON])
        self.is_worth_retrying = is_worth_retrying


class _Diverged(Exception):
    """The training diverged, or its model samples no finite images.

    A result, which a repeat would give again.
    """


class CellWork:
    """The work on one cell.

    Args:
        plan: of the sweep.
        cell: one of its cells.
        launch: how commands are started.
        is_launched: whether a sweep waits for this process, at the other end of its standard input.
    """

    def __init__(
        self,
        plan: SweepPlan,
        cell: Cell,
        launch: Launch,
        *,
        is_launched: bool,
    ) -> None:
        self._plan, self._cell, self._launch = plan, cell, launch
        self._evaluation = plan.checked_config().eval
        self._folder = cell.folder(plan.folder)
        self._commands = CommandRunner(
            self._folder / "logs", launch.environment(), is_launched=is_launched
        )
        self._owns_cell = False
        self._attempts = 0
        self._seconds: dict[str, float] = {}

    def run(self, stop_signals: Sequence[int]) -> tuple[str, Record]:
        """Work on the cell until it has ended, or one of the signals asks to stop.

        Returns:
            its state, and what `cell.json` says of it.
        """
        self._commands.receive(stop_signals)
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            with self._commands.taken(self._folder / CELL_LOCK):
                self._owns_cell = True
                self._work()
        except Stopped as error:
            return "preempted", {"reason": str(error)}
        told = read_told(self._folder)
        return str(told["state"]), told

    def stop_now(self, signal_name: str) -> None:
        """Stop the command with its state saved, from within a signal handler.

        The cell waits in a queue after that.
        """
        self._commands.stop_now(signal_name)
        if self._owns_cell:
            self._record("preempted", reason="preempted; waits in the queue")

    def _work(self) -> None:
        """Train and evaluate what is missing, under the cell's lock; record how the cell ended."""
        found = self._files()
        if has_result(self._plan, found):
            return
        self._attempts = attempts_of(found.told) + 1
        self._seconds = {
            f"{name}_seconds": seconds_of(found.told, name) for name in ("train", "eval")
        }
        self._record("running")
        try:
            self._train()
            facts = self._evaluate()
        except _Diverged as error:
            self._record("diverged", reason=str(error))
        except Stopped as error:
            self._record("preempted", reason=str(error))
        except _Failed as error:
            self._record("failed", reason=str(error), is_worth_retrying=error.is_worth_retrying)
        else:
            self._record("done", **facts)

    def _files(self) -> CellFiles:
        return read_cell_files(self._cell, self._folder, log_bytes=0)

    def _record(self, state: str, **facts: object) -> None:
        seconds = {name: round(value, 3) for name, value in self._seconds.items()}
        owner = {"host": platform.node(), "process": os.getpid(), "attempts": self._attempts}
        write_cell_json(self._folder, state, **facts, **seconds, **owner)

    # ---------------------------------------------------------------- training

    def _train(self) -> None:
        """Train to the last step; nothing is started where that has been done."""
        with self._commands.taken(self._folder / RUN_LOCK):
            pass  # the training of a launcher that was killed may still be saving its state
        if not self._is_trained():
            self._refuse_diverged(EXIT_DIVERGED, "")
            command = self._cell.train_command(self._launch, self._plan.folder)
            code, last_line = self._run("train", command)
            if not self._is_trained():
                self._refuse_diverged(code, last_line)
                self._raise_reason("train", code, last_line)

    def _is_trained(self) -> bool:
        return self._files().is_trained and self._weights() is not None

    def _weights(self) -> str | None:
        return final_weights(self._folder, self._cell.num_steps)

    def _refuse_diverged(self, code: int, last_line: str) -> None:
        """Raise if the run's `status.json` says that it diverged: launchers change exit codes."""
        status = self._files().status
        if status.get("state") == "diverged" and code > 0:
            raise _Diverged(str(status.get("reason") or last_line))

    # ---------------------------------------------------------------- evaluation

    def _evaluate(self) -> Record:
        """Evaluate the seeds that are not yet evaluated.

        Return what `cell.json` says of the evaluations.
        """
        weights = self._weights()
        assert weights is not None  # it was trained
        wanted = self._evaluation.seeds
        lines = evaluations_of(self._plan, self._files(), weights)
        missing = [seed for seed in wanted if seed not in lines]
        if missing:
            seeds = range(missing[0], missing[-1] + 1)
            code, last_line = self._run(
                "eval",
                self._cell.eval_command(self._launch, self._plan.folder, self._evaluation, seeds),
            )
            lines = evaluations_of(self._plan, self._files(), weights)
            if code == EXIT_DIVERGED:
                raise _Diverged(_without_name(last_line, "eval"))
            if code != 0 or not lines.keys() >= set(wanted):
                self._raise_reason("eval", code, last_line)
        return _evaluation_facts(weights, [lines[seed] for seed in wanted])

    # ---------------------------------------------------------------- both

    def _run(self, name: str, command: Sequence[str]) -> tuple[int, str]:
        started = time.monotonic()
        try:
            return self._commands.run(name, command)
        finally:
            self._seconds[f"{name}_seconds"] += time.monotonic() - started

    def _raise_reason(self, name: str, code: int, last_line: str) -> None:
        """Raise why "train" or "eval" did not do what it was started for."""
        script = SCRIPTS[name]
        if self._commands.stop_reason is not None:
            raise Stopped(self._commands.stop_reason)
        if code < 0:
            raise _Failed(f"{script} was ended by {signal_name(-code)}", is_worth_retrying=True)
        reason = f"{script}, exit code {code}: {_without_name(last_line, name)}"
        if code == EXIT_STOPPED_EARLY:  # by somebody else, with its state saved
            raise Stopped(reason)
        raise _Failed(reason, is_worth_retrying=code not in (0, EXIT_BAD_INPUT))


def _without_name(line: str, name: str) -> str:
    """Return the last line of a command without the command's name at its start."""
    return line.removeprefix(f"{SCRIPTS[name]}: ").removeprefix(f"{PROGRAM} {name}: ")


def _evaluation_facts(weights: str, lines: Sequence[Record]) -> Record:
    """Return what `cell.json` says of a finished cell.

    Its metric with the value of each seed, and their mean.
    """
    values = {str(line["seed"]): line["value"] for line in lines}
    return {
        "metric": lines[0]["metric"],
        "value": math.fsum(values.values()) / len(values),
        "values": values,
        "floor": lines[0].get("floor"),
        "num_images": lines[0].get("num_images"),
        "weights_sha256": weights,
    }


def signal_name(number: int) -> str:
    """Return the name of a signal that ended a process, with what it may mean."""
    name = signal.Signals(number).name
    return f"{name} (kill -9, or out of memory)" if name == "SIGKILL" else name


def attempts_of(told: Record) -> int:
    """Return how often a cell was started, by its `cell.json`; 0 where it does not say."""
    found = told.get("attempts")
    return found if type(found) is int else 0


def seconds_of(told: Record, name: str) -> float:
    """Return the seconds that a `cell.json` says were spent on "train" or "eval".

    0 where it does not say.
    """
    value = number(told.get(f"{name}_seconds"))
    return 0.0 if math.isnan(value) else value
