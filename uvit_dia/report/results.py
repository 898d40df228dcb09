"""A sweep's folder as a table of one row a cell, and as `results.csv`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from uvit_dia.report.cell_measures import (
    NOISE_TERMS,
    log_measures,
    metric_measures,
    noise_scale_of,
)
from uvit_dia.report.comparable import LeftOut, comparable_evaluations, sample_seeds
from uvit_dia.report.result_files import CellFiles, Line, SweepPlan, read_cell, read_plan

if TYPE_CHECKING:
    import pandas as pd

STATES = ("done", "running", "preempted", "waiting", "diverged", "failed")
ENDED = ("done", "diverged")  # states that are results
FLOAT_FORMAT = "%.8g"

COLUMNS = (
    "variant",
    "batch_size",
    "seed",
    "state",
    "num_steps",
    "last_step",
    "images",
    "learning_rate",
    "metric",
    "value",
    "value_spread",
    "num_sample_seeds",
    "floor",
    "kernel_distance",
    "precision",
    "recall",
    "final_loss",
    "grad_norm_mean",
    "grad_norm_std",
    "grad_norm_min",
    "grad_norm_max",
    "loss_spikes",
    "grad_spikes",
    "nonfinite",
    "noise_scale",
    *NOISE_TERMS,
    "update_ratio",
    "num_images",
    "sampler",
    "sampler_steps",
    "nfe",
    "weights",
    "extractor",
    "extractor_sha256",
    "reference_sha256",
)
TEXTS = (
    "variant",
    "state",
    "metric",
    "sampler",
    "weights",
    "extractor",
    "extractor_sha256",
    "reference_sha256",
)
COUNTS = (
    "last_step",
    "num_sample_seeds",
    "loss_spikes",
    "grad_spikes",
    "nonfinite",
    "num_images",
    "sampler_steps",
    "nfe",
)


@dataclass(frozen=True)
class SweepResults:
    """What a sweep gave.

    Attributes:
        plan: what it set out to do.
        cells: the files of every cell, in the plan's order.
        states: what became of each cell, by name; one of `STATES`.
        reasons: why, by name, where a reason is known.
        settings: what all compared evaluations have in common, by the names of `eval.jsonl`; {} without any.
        table: one row a cell, with `COLUMNS`, in the plan's order.
        left_out: everything that takes no part in the comparison, in the plan's order.
    """

    plan: SweepPlan
    cells: tuple[CellFiles, ...]
    states: dict[str, str]
    reasons: dict[str, str]
    settings: Line
    table: "pd.DataFrame"
    left_out: tuple[LeftOut, ...]

    @property
    def metric_name(self) -> str:
        """FID with Inception, else FD with the name of its extractor."""
        if not self.settings:
            return "metric"
        if self.settings["metric"] == "fid":
            return "FID"
        return f"FD ({self.settings['extractor']})"

    def rows(self, variant: str, batch_size: int) -> "pd.DataFrame":
        """Return the table's rows of a variant at a batch size."""
        table = self.table
        return table[(table["variant"] == variant) & (table["batch_size"] == batch_size)]

    def values(self, column: str, variant: str, batch_size: int) -> list[float]:
        """Return the finite numbers of a column for a variant at a batch size, by seed."""
        numbers = [float(value) for value in self.rows(variant, batch_size)[column].to_numpy(float)]
        return [value for value in numbers if math.isfinite(value)]

    def noise_scale(self, variant: str, batch_size: int) -> float:
        """Return the gradient noise scale of a variant at a batch size, in images, over all seeds; or NaN."""
        terms = self.rows(variant, batch_size)[list(NOISE_TERMS)].to_numpy(float)
        return noise_scale_of([(noise, signal) for noise, signal in terms.tolist()])

    def count(self, state: str, variant: str, batch_size: int) -> int:
        """Return how many seeds of a variant at a batch size are in a state."""
        return int((self.rows(variant, batch_size)["state"] == state).sum())

    @property
    def is_finished(self) -> bool:
        """Whether every cell ended with a result."""
        return all(state in ENDED for state in self.states.values())


def read_results(folder: Path) -> SweepResults:
    """Read a sweep folder.

    Raises:
        InputError: if there is no sweep in it, or its plan is damaged.
    """
    import pandas as pd

    plan = read_plan(folder)
    cells = tuple(read_cell(folder, cell) for cell in plan.cells)
    settings, evaluations, left_out = comparable_evaluations(plan, cells)
    states: dict[str, str] = {}
    reasons: dict[str, str] = {}
    rows = []
    for cell in cells:
        name, lines = cell.plan.name, evaluations[cell.plan.name]
        missing = sorted(set(sample_seeds(plan.config)) - {line["seed"] for line in lines})
        states[name], reason = _state(cell, is_evaluated=bool(lines) and not missing)
        if reason:
            reasons[name] = reason
        if states[name] != "done":
            why = _why_without(states[name], reason, is_trained=_is_trained(cell))
            if lines and missing:
                why = f"no evaluation with sample seed {', '.join(map(str, missing))} yet"
            left_out.append(LeftOut(name, "metric", why))
            lines = []
        rows.append(_row(cell, states[name], lines))
        left_out.extend(LeftOut(name, "damaged file", text) for text in cell.damage)
    order = {cell.name: position for position, cell in enumerate(plan.cells)}
    left_out.sort(key=lambda item: order[item.cell])  # stable: within a cell as found
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table = table.astype({name: _dtype(name) for name in COLUMNS})
    return SweepResults(plan, cells, states, reasons, settings, table, tuple(left_out))


def _dtype(column: str) -> str:
    if column in TEXTS:
        return "object"
    if column in ("batch_size", "seed", "num_steps", "images"):
        return "int64"
    return "Int64" if column in COUNTS else "float64"


def results_csv(results: SweepResults) -> bytes:
    """Return the table as CSV: the same bytes for the same numbers, with nothing of time or machine in it."""
    text = results.table.to_csv(index=False, float_format=FLOAT_FORMAT, lineterminator="\n")
    return text.encode()


def _state(cell: CellFiles, *, is_evaluated: bool) -> tuple[str, str]:
    """Return what became of a cell, and why.

    The run's own `status.json` says how far the training is; the launcher's `cell.json` adds what the run cannot
    know, such as an evaluation that failed.
    """
    told, trained = str(cell.cell.get("state", "")), str(cell.status.get("state", ""))
    reason = str(cell.cell.get("reason") or cell.status.get("reason") or "")
    if "diverged" in (told, trained):
        return "diverged", reason
    is_trained = _is_trained(cell)
    if is_trained and is_evaluated:
        return "done", ""
    if "failed" in (told, trained):
        return "failed", reason
    if is_trained:
        return "running", "trained, not evaluated yet"
    for state in (trained, told):
        if state in ("running", "preempted"):
            return state, reason
    return "waiting", reason


def _is_trained(cell: CellFiles) -> bool:
    status = cell.status
    return status.get("state") == "done" and status.get("step") == cell.plan.num_steps


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


def _row(cell: CellFiles, state: str, lines: Sequence[Line]) -> Line:
    """Return a cell's row of the table; what was not measured is left empty."""
    plan = cell.plan
    row: Line = dict.fromkeys(COLUMNS)
    row |= {
        "variant": plan.variant,
        "batch_size": plan.batch_size,
        "seed": plan.seed,
        "state": state,
        "num_steps": plan.num_steps,
        "images": plan.num_steps * plan.batch_size,
        "learning_rate": plan.learning_rate,
    }
    if state in ENDED:
        row |= log_measures(cell, is_complete=_is_trained(cell))
    if lines:
        row |= metric_measures(lines)
    return row
