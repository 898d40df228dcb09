"""What a sweep is up to, as tables in plain text.

`--dry_run` before it, `--status` during and after it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from uvit_dia.sweep.cells import Cell
from uvit_dia.sweep.config import Sweep
from uvit_dia.sweep.folder import CELL_STATES
from uvit_dia.sweep.record import CellRecord, read_sweep
from uvit_dia.sweep.speed import Speed, kept_speed
from uvit_dia.system.records import number

MAX_TAIL_BYTES = 2**14
MAX_NOTE_CHARACTERS = 80


@dataclass(frozen=True)
class CellStatus:
    """What has become of a cell.

    Attributes:
        name: of the cell.
        state: one of `CELL_STATES`.
        step: optimizer steps done.
        num_steps: optimizer steps in all.
        loss: of the last log line, or None.
        metric: its name and value, or "".
        note: why it failed or diverged, or what it is doing.
    """

    name: str
    state: str
    step: int
    num_steps: int
    loss: float | None
    metric: str
    note: str


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Return rows in aligned columns.

    The first `left` columns and the last one to the left, others to the right.
    """
    everything = [header, *rows]
    widths = [max(len(row[i]) for row in everything) for i in range(len(header))]
    last = len(header) - 1
    lines = [
        "  ".join(
            cell.ljust(width) if i < left or i == last else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in everything
    ]
    return "\n".join(lines)


# ---------------------------------------------------------------- before


def plan_table(sweep: Sweep, max_parallel: int, *, is_local: bool = True) -> str:
    """Return the table of a sweep's runs: steps, images, learning rate, estimated time, total.

    Times are from what was measured here, if cells run here, else from the costs that the sweep
    config gives.
    """
    speed = kept_speed(sweep) if is_local else None

    def seconds(cell: Cell) -> float:
        beside = sweep.config.seconds_per_cell
        measured = speed.seconds(cell, beside) if speed else 0.0
        return measured or sweep.seconds(cell)

    rows = [
        [
            cell.name,
            cell.variant,
            str(cell.batch_size),
            str(cell.seed),
            f"{cell.num_steps:,}",
            f"{cell.images:,}",
            f"{cell.learning_rate:.4g}",
            duration(seconds(cell)),
        ]
        for cell in sweep.cells
    ]
    header = ["cell", "variant", "batch size", "seed", "steps", "images", "learning rate", "time"]
    total = sum(seconds(cell) for cell in sweep.cells)
    images = sum(cell.images for cell in sweep.cells)
    count = f"{len(rows)} runs" if len(rows) > 1 else "1 run"
    parallel = min(max_parallel, len(rows))
    at_once = duration(total / (speed.gain(parallel) if speed else parallel))
    lines = [
        table(header, rows, left=2),
        "",
        f"total: {count}, {images:,} training images, {duration(total)} of runs, {at_once} with "
        f"--max_parallel {max_parallel}",
    ]
    if speed is not None:
        lines.append(recommendation(speed))
    else:
        costs = "by the costs in the sweep config, of another machine"
        known = costs if total else "nothing is known of the time"
        lines.append(f"({known}; --measure measures here)" if is_local else f"({known})")
    return "\n".join(lines)


def recommendation(speed: Speed) -> str:
    """Say how many cells at once are best, and what that rests on."""
    rates = ", ".join(f"{count}: {rate:.3g}" for count, rate in sorted(speed.together.items()))
    return (
        f"measured here: steps a second of so many cells at once ({rates}); best is "
        f"--max_parallel {speed.best}"
    )


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it, such as "22 s", "6 min", "1.4 h" or "3.5 days".

    "?" for 0.
    """
    if seconds == 0:
        return "?"
    for limit, size, text in (
        (90, 1, "{:.0f} s"),
        (5400, 60, "{:.0f} min"),
        (172800, 3600, "{:.1f} h"),
    ):
        if seconds < limit:
            return text.format(seconds / size)
    return f"{seconds / 86400:.1f} days"


# ---------------------------------------------------------------- during


def read_status(workdir: Path) -> list[CellStatus]:
    """Read what has become of the cells of a sweep's folder; nothing is written.

    Raises:
        InputError: if there is no sweep in the folder.
    """
    sweep = read_sweep(workdir, log_bytes=MAX_TAIL_BYTES)
    by_name = {record.cell.name: record for record in sweep.cells}
    return [_status_of(by_name[cell.name]) for cell in sweep.plan.run_order]


def _status_of(record: CellRecord) -> CellStatus:
    loss = record.log[-1].get("loss") if record.log else None
    values = [number(line.get("value")) for line in record.evaluations]
    note = record.reason
    return CellStatus(
        name=record.cell.name,
        state=record.state,
        step=record.step,
        num_steps=record.cell.num_steps,
        loss=loss if isinstance(loss, float) else None,
        metric=f"{record.evaluations[0]['metric']} {fmean(values):.4g}" if values else "",
        note=note if len(note) <= MAX_NOTE_CHARACTERS else note[: MAX_NOTE_CHARACTERS - 3] + "...",
    )


def status_table(cells: Sequence[CellStatus]) -> str:
    """Return the table of a sweep's cells, and how many are in which state."""
    rows = [
        [
            cell.name,
            cell.state,
            f"{cell.step:,}/{cell.num_steps:,}",
            "" if cell.loss is None else f"{cell.loss:.4f}",
            cell.metric,
            cell.note,
        ]
        for cell in cells
    ]
    return "\n".join(
        [table(["cell", "state", "steps", "loss", "metric", ""], rows, left=2), "", summary(cells)]
    )


def summary(cells: Sequence[CellStatus]) -> str:
    """Return how many cells are in which state."""
    counts = Counter(cell.state for cell in cells)
    order = ("done", "running", "waiting", "preempted", "diverged", "failed")
    assert set(order) == set(CELL_STATES)
    told = [f"{counts[s]} {s}" for s in order if counts[s] or s in ("done", "running", "waiting")]
    return f"{', '.join(told)} of {len(cells)} cells"
