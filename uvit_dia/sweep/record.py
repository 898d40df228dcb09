"""The record of a sweep: what it planned, what became of each cell, and which evaluations it chose.

`read_sweep` is the one reader of a sweep's folder: the report, `--status` and the launcher itself
see a cell through it.
"""

import platform
from dataclasses import dataclass
from pathlib import Path

from uvit_dia.sweep.cell_files import CellFiles, read_cell_files
from uvit_dia.sweep.cells import Cell
from uvit_dia.sweep.choice import Choice, LeftOut, choose_evaluations
from uvit_dia.sweep.folder import CELL_LOCK, FINAL_STATES, is_held
from uvit_dia.sweep.plan import SweepPlan, read_plan
from uvit_dia.system.records import Record


@dataclass(frozen=True)
class CellRecord:
    """What became of a cell.

    Attributes:
        cell: the cell, as planned: name, variant, batch size, seed, steps, images, learning rate,
            overrides.
        state: "waiting", "running", "preempted", "done", "diverged" or "failed". Done means trained
            to the last step and evaluated with all sample seeds; diverged, that the training or the
            samples became non-finite.
        reason: why, in a few words; "" where nothing is to be said.
        attempts: how often a launcher started to work on it; 0 where that is not recorded.
        step: optimizer steps done, as far as the files say.
        is_trained: whether the run did its last step.
        evaluations: the chosen lines of `eval.jsonl`, one a sample seed, by seed; () unless the
            state is "done".
        log: the lines of `metrics.jsonl` that hold a loss, by step, each step once. A line covers
            the steps since the line before. Read their numbers with
            `uvit_dia.system.records.number`, which gives NaN for what is none.
        nonfinite: its lines about a non-finite loss or gradient, by step; the last one ended the
            training.
        config: the run's `config.json`, or {}.
        env: the run's `env.json` (versions, platform, device), or {}.
        told: the launcher's `cell.json`, or {}: `train_seconds`, `eval_seconds`, `host` and others.
        sample: path of the newest grid of samples, or None.
        left_out: what takes no part in a comparison, and why: evaluations, the metric of a cell
            that is not done, and files that are damaged.
    """

    cell: Cell
    state: str
    reason: str
    attempts: int
    step: int
    is_trained: bool
    evaluations: tuple[Record, ...]
    log: tuple[Record, ...]
    nonfinite: tuple[Record, ...]
    config: Record
    env: Record
    told: Record
    sample: Path | None
    left_out: tuple[LeftOut, ...]

    @property
    def has_ended(self) -> bool:
        """Whether the cell ended with a result; to diverge is one."""
        return self.state in FINAL_STATES


@dataclass(frozen=True)
class SweepRecord:
    """What a sweep planned, ran and chose.

    Attributes:
        plan: what it set out to do.
        cells: the record of every cell, in the order of `plan.cells`: by variant, the baseline
            first, then batch size, then seed.
        settings: what the evaluations of all cells have in common, by the names of `eval.jsonl`
            (`choice.SETTINGS`); {} where nothing is evaluated.
    """

    plan: SweepPlan
    cells: tuple[CellRecord, ...]
    settings: Record


def read_sweep(folder: Path, *, log_bytes: int | None = None) -> SweepRecord:
    """Read a sweep's folder, of this version or an older one, finished or not; nothing is written.

    Args:
        folder: of the sweep, wherever it lies now.
        log_bytes: read only so much of the end of each `metrics.jsonl`; None for all of it.

    Raises:
        InputError: if there is no sweep, or its `sweep.json` is damaged. What is missing or damaged
            in a cell is no error: it stands in `left_out` of the cell.
    """
    return read_cells(read_plan(folder), log_bytes=log_bytes)


def read_cells(plan: SweepPlan, *, log_bytes: int | None = None) -> SweepRecord:
    """Read what became of the cells of a plan; see `read_sweep`."""
    files = [
        read_cell_files(cell, cell.folder(plan.folder), log_bytes=log_bytes) for cell in plan.cells
    ]
    choice = choose_evaluations(plan, files)
    return SweepRecord(plan, tuple(_record(plan, each, choice) for each in files), choice.settings)


def _record(plan: SweepPlan, files: CellFiles, choice: Choice) -> CellRecord:
    name = files.cell.name
    lines, left_out = choice.by_cell[name], list(choice.left_out[name])
    missing = sorted(set(plan.sample_seeds) - {line["seed"] for line in lines})
    state, reason = _state(files, is_evaluated=bool(lines) and not missing)
    if state != "done":
        why = _why_without(state, reason, is_trained=files.is_trained)
        if lines and missing:
            why = f"no evaluation with sample seed {', '.join(map(str, missing))} yet"
        left_out.append(LeftOut(name, "metric", why))
    left_out.extend(LeftOut(name, "damaged file", text) for text in files.damage)
    attempts = files.told.get("attempts")
    return CellRecord(
        cell=files.cell,
        state=state,
        reason=reason,
        attempts=attempts if type(attempts) is int else 0,
        step=_last_step(files),
        is_trained=files.is_trained,
        evaluations=lines if state == "done" else (),
        log=files.log,
        nonfinite=files.nonfinite,
        config=files.config,
        env=files.env,
        told=files.told,
        sample=files.sample,
        left_out=tuple(left_out),
    )


def _state(files: CellFiles, *, is_evaluated: bool) -> tuple[str, str]:
    """Return what became of a cell, and why.

    The run's `status.json` says how far the training is; the launcher's `cell.json` adds what the
    run cannot know, such as an evaluation that failed.
    """
    told, trained = str(files.told.get("state", "")), str(files.status.get("state", ""))
    reason = str(files.told.get("reason") or files.status.get("reason") or "")
    is_here = files.told.get("host") == platform.node()  # locks of other machines are not seen
    is_worked_on = told == "running" and is_here and is_held(files.folder / CELL_LOCK)
    if "diverged" in (told, trained):
        return "diverged", reason
    if files.is_trained and is_evaluated:
        return "done", ""
    if "failed" in (told, trained) and not is_worked_on:
        return "failed", reason
    if told == "running" and is_here and not is_worked_on:
        return "preempted", "its launcher was killed; the sweep's command goes on with it"
    if files.is_trained and told != "preempted":
        return "running", "trained, not evaluated yet"
    if is_worked_on:
        return "running", reason
    return next((s for s in (trained, told) if s in ("running", "preempted")), "waiting"), reason


def _why_without(state: str, reason: str, *, is_trained: bool) -> str:
    if state == "diverged" and is_trained:
        return f"the training ended, and its model's samples are not finite: {reason}"
    told = {
        "diverged": "the training diverged, so there are no weights of the last step",
        "failed": "the run failed",
        "running": "the run is not finished",
        "preempted": "the run was stopped and waits to go on",
        "waiting": "the run has not started",
    }[state]
    return f"{told}: {reason}" if reason and state != "diverged" else told


def _last_step(files: CellFiles) -> int:
    steps = [files.status.get("step"), *(line["step"] for line in files.log[-1:])]
    known = [step for step in steps if type(step) is int and step >= 0]
    return min(max(known, default=0), files.cell.num_steps)
