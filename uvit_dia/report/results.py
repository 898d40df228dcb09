"""A sweep's record as a table of one row a cell, and as `results.csv`."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from uvit_dia.config.rules import HELD_OUT_LOSS
from uvit_dia.report.cell_measures import (
    HELD_OUT,
    MARKS,
    NOISE_TERMS,
    log_measures,
    metric_measures,
    noise_scale_of,
)
from uvit_dia.sweep.choice import LeftOut
from uvit_dia.sweep.record import CellRecord, SweepRecord, read_sweep
from uvit_dia.system.errors import InputError
from uvit_dia.system.records import Record

if TYPE_CHECKING:
    import pandas as pd

FLOAT_FORMAT = "%.8g"
TEXT, INT, COUNT, NUMBER = "object", "int64", "Int64", "float64"  # a count may be missing
COLUMNS = {
    **{"variant": TEXT, "batch_size": INT, "seed": INT, "state": TEXT},
    **{"num_steps": INT, "last_step": COUNT, "images": INT, "learning_rate": NUMBER},
    **{"metric": TEXT, "value": NUMBER, "value_spread": NUMBER, "num_sample_seeds": COUNT},
    **dict.fromkeys(MARKS, NUMBER),
    **dict.fromkeys(("kernel_distance", "precision", "recall", "final_loss"), NUMBER),
    **dict.fromkeys(("grad_norm_mean", "grad_norm_std", "grad_norm_min", "grad_norm_max"), NUMBER),
    **dict.fromkeys(("loss_spikes", "grad_spikes", "nonfinite"), COUNT),
    **dict.fromkeys(("noise_scale", *NOISE_TERMS, "update_ratio"), NUMBER),
    **{"num_images": COUNT, "sampler": TEXT, "sampler_steps": COUNT, "nfe": COUNT},
    **dict.fromkeys(("weights", "extractor", "extractor_sha256", "reference_sha256"), TEXT),
    **dict.fromkeys(HELD_OUT, NUMBER),
}


@dataclass(frozen=True)
class SweepResults(SweepRecord):
    """What a sweep planned, ran and chose, with its numbers.

    Attributes:
        table: one row a cell, with `COLUMNS`, in the plan's order.
        compare: what its column `value` holds, "fid" or "held_out_loss".
    """

    table: "pd.DataFrame"
    compare: str = "fid"

    @property
    def states(self) -> dict[str, str]:
        """What became of each cell, by name."""
        return {cell.cell.name: cell.state for cell in self.cells}

    @property
    def left_out(self) -> list[LeftOut]:
        """Everything that takes no part in the comparison, in the plan's order."""
        return [item for cell in self.cells for item in cell.left_out]

    @property
    def is_finished(self) -> bool:
        """Whether every cell ended with a result."""
        return all(cell.has_ended for cell in self.cells)

    @property
    def metric_name(self) -> str:
        """FID with Inception, else FD with the name of its extractor; or the held-out loss."""
        if self.compare == HELD_OUT_LOSS:
            return "held-out loss"
        if not self.settings:
            return "metric"
        if self.settings["metric"] == "fid":
            return "FID"
        return f"FD ({self.settings['extractor']})"

    @cached_property
    def _rows(self) -> dict[tuple[str, int], "pd.DataFrame"]:
        return {
            (str(variant), int(size)): rows
            for (variant, size), rows in self.table.groupby(["variant", "batch_size"], sort=False)
        }

    def rows(self, variant: str, batch_size: int) -> "pd.DataFrame":
        """Return the table's rows of a variant at a batch size; none where none is planned."""
        return self._rows.get((variant, batch_size), self.table.iloc[:0])

    def by_seed(self, column: str, variant: str, batch_size: int) -> dict[int, float]:
        """Return the finite numbers of a column for a variant at a batch size, by training seed."""
        rows = self.rows(variant, batch_size)
        pairs = zip(rows["seed"], rows[column].to_numpy(float), strict=True)
        return {int(seed): float(value) for seed, value in pairs if math.isfinite(value)}

    def values(self, column: str, variant: str, batch_size: int) -> list[float]:
        """Return the numbers of `by_seed` alone."""
        return list(self.by_seed(column, variant, batch_size).values())

    def noise_scale(self, variant: str, batch_size: int) -> float:
        """Return the noise scale of all seeds together, in images; or NaN."""
        terms = self.rows(variant, batch_size)[list(NOISE_TERMS)].to_numpy(float)
        return noise_scale_of([(noise, signal) for noise, signal in terms.tolist()])

    def count(self, state: str, variant: str, batch_size: int) -> int:
        """Return how many seeds of a variant at a batch size are in a state."""
        return int((self.rows(variant, batch_size)["state"] == state).sum())


def read_results(folder: Path, compare: str = "fid") -> SweepResults:
    """Read a sweep folder.

    Args:
        folder: of the sweep.
        compare: what its cells are compared by: "fid", the Frechet distance, or "held_out_loss".

    Raises:
        InputError: if there is no sweep in it, its plan is damaged, or no cell that was evaluated
            has what they are to be compared by.
    """
    import pandas as pd

    record = read_sweep(folder)
    rows = [_row(cell, compare) for cell in record.cells]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    if compare == HELD_OUT_LOSS and not table["value"].notna().any():
        raise InputError(
            f"{folder}: no evaluation holds a held-out loss; it is measured where eval.metrics of "
            "the runs has held_out_loss"
        )
    return SweepResults(record.plan, record.cells, record.settings, table, compare)


def results_csv(results: SweepResults) -> bytes:
    """Return the table as CSV: the same bytes for the same numbers, without time or machine."""
    text = results.table.to_csv(index=False, float_format=FLOAT_FORMAT, lineterminator="\n")
    return text.encode()


def _row(cell: CellRecord, compare: str) -> Record:
    """Return a cell's row of the table; what was not measured is left empty."""
    plan = cell.cell
    return {
        **dict.fromkeys(COLUMNS),
        "variant": plan.variant,
        "batch_size": plan.batch_size,
        "seed": plan.seed,
        "state": cell.state,
        "num_steps": plan.num_steps,
        "images": plan.num_steps * plan.batch_size,
        "learning_rate": plan.learning_rate,
        **(log_measures(cell) if cell.has_ended else {}),
        **(metric_measures(cell.evaluations, compare) if cell.evaluations else {}),
    }
