"""The files of a sweep folder, read as data and with distrust: any of them may be missing, torn or foreign.

::

    sweep.json               the resolved sweep and its list of cells
    cells/NAME/              an ordinary run folder a cell
    cells/NAME/cell.json     what the launcher says of the cell

Only a missing or damaged `sweep.json` is an error; whatever is wrong with a cell is told beside its numbers.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uvit_dia.system.errors import InputError

CELL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]{0,199}")
VARIANT_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,60}")
SAMPLE_NAME = re.compile(r"step_(\d+)\.png")
MAX_INT = 2**53
MAX_JSON_BYTES = 2**26
MAX_LINES_BYTES = 2**29

Line = dict[str, Any]


@dataclass(frozen=True)
class PlannedCell:
    """One run of the sweep, as the sweep planned it.

    Attributes:
        name: of its folder under `cells/`.
        variant: which variant of the model.
        batch_size: global batch size, images an optimizer step.
        seed: of everything random in the training.
        num_steps: optimizer steps.
        images: images seen in all.
        learning_rate: after the sweep's rule for the batch size.
    """

    name: str
    variant: str
    batch_size: int
    seed: int
    num_steps: int
    images: int
    learning_rate: float


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep set out to do.

    Attributes:
        folder: where it lies.
        config: the resolved sweep config.
        sha256: its hash.
        cells: by variant, the baseline first and the others in the sweep's order, then batch size, then seed.
    """

    folder: Path
    config: Line
    sha256: str
    cells: tuple[PlannedCell, ...]

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants; the first one is the baseline."""
        return tuple(dict.fromkeys(cell.variant for cell in self.cells))

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The batch sizes, ascending."""
        return tuple(sorted({cell.batch_size for cell in self.cells}))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The training seeds, ascending."""
        return tuple(sorted({cell.seed for cell in self.cells}))


@dataclass(frozen=True)
class CellFiles:
    """What lies in the folder of a cell.

    Attributes:
        plan: the cell.
        cell: `cell.json`, or {}.
        status: `status.json`, or {}.
        config: `config.json`, or {}.
        env: `env.json`, or {}.
        log: the lines of `metrics.jsonl` that hold a loss, by step.
        nonfinite: its lines that tell of a non-finite loss or gradient, by step; such a line ends a training.
        evaluations: the lines of `eval.jsonl`, in their order.
        sample: the newest preview of samples, or None.
        damage: a sentence for every file or line that could not be read.
    """

    plan: PlannedCell
    cell: Line
    status: Line
    config: Line
    env: Line
    log: list[Line]
    nonfinite: list[Line]
    evaluations: list[Line]
    sample: Path | None
    damage: list[str]


def read_plan(folder: Path) -> SweepPlan:
    """Read the `sweep.json` of a sweep folder.

    Raises:
        InputError: if there is no sweep, or its plan is damaged.
    """
    path = folder / "sweep.json"
    if not path.is_file():
        raise InputError(f"{folder} holds no sweep (there is no sweep.json)")
    damage: list[str] = []
    content = _read_json(path, damage)
    if damage:
        raise InputError(f"{path}: {damage[0]}")
    config, cells = content.get("config"), content.get("cells")
    if not isinstance(config, dict) or not isinstance(cells, list) or not cells:
        raise InputError(f"{path} is no sweep: it needs a config and a list of cells")
    try:
        planned = [_planned_cell(cell) for cell in cells]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: a cell is damaged ({type(error).__name__}: {error})") from error
    if len({cell.name for cell in planned}) < len(planned):
        raise InputError(f"{path}: two cells have the same name")
    order = list(dict.fromkeys(cell.variant for cell in planned))
    if (baseline := config.get("baseline")) in order:
        order.insert(0, order.pop(order.index(baseline)))
    planned.sort(key=lambda c: (order.index(c.variant), c.batch_size, c.seed, c.name))
    return SweepPlan(folder, config, str(content.get("hash", "")), tuple(planned))


def _planned_cell(cell: Line) -> PlannedCell:
    name = str(cell["name"])
    if not CELL_NAME.fullmatch(name):
        raise ValueError(f"{name[:60]!r} is no name of a cell")
    planned = PlannedCell(
        name=name,
        variant=str(cell["variant"]),
        batch_size=int(cell["batch_size"]),
        seed=int(cell["seed"]),
        num_steps=int(cell["num_steps"]),
        images=int(cell["images"]),
        learning_rate=float(cell["learning_rate"]),
    )
    if not VARIANT_NAME.fullmatch(planned.variant):
        raise ValueError(f"{planned.variant[:60]!r} is no name of a variant")
    counts = (planned.batch_size, planned.num_steps, planned.images)
    if not all(1 <= count <= MAX_INT for count in counts) or not 0 <= planned.seed <= MAX_INT:
        raise ValueError(f"{name} has a batch size, a seed, steps or images out of range")
    if not math.isfinite(planned.learning_rate):
        raise ValueError(f"the learning rate of {name} is {planned.learning_rate}")
    return planned


def read_cell(sweep: Path, plan: PlannedCell) -> CellFiles:
    """Read the folder of a cell; what is missing or damaged is left empty, never an error."""
    folder = sweep / "cells" / plan.name
    damage: list[str] = []
    lines = _read_lines(folder / "metrics.jsonl", damage)
    return CellFiles(
        plan=plan,
        cell=_read_json(folder / "cell.json", damage),
        status=_read_json(folder / "status.json", damage),
        config=_read_json(folder / "config.json", damage),
        env=_read_json(folder / "env.json", damage),
        log=_by_step(lines, "loss", first_step=1),
        nonfinite=_by_step(lines, "nonfinite", first_step=0),
        evaluations=_read_lines(folder / "eval.jsonl", damage),
        sample=_newest_sample(folder / "samples"),
        damage=damage,
    )


def number(value: object) -> float:
    """Return a JSON value as a float; NaN where it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value) if math.isfinite(value) else math.nan
    except OverflowError:  # an int beyond every float
        return math.nan


def _by_step(lines: list[Line], key: str, *, first_step: int) -> list[Line]:
    """Return the lines of a log that have a key, by step; of a step that was written twice the later line."""
    found = {
        step: line
        for line in lines
        if key in line and type(step := line.get("step")) is int and first_step <= step <= MAX_INT
    }
    return [found[step] for step in sorted(found)]


def _read_text(path: Path, max_bytes: int, damage: list[str]) -> str:
    try:
        if path.stat().st_size > max_bytes:
            damage.append(f"{path.name} is larger than {max_bytes} bytes and was not read")
            return ""
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        damage.append(f"{path.name} cannot be read ({error.strerror})")
        return ""


def _read_json(path: Path, damage: list[str]) -> Line:
    text = _read_text(path, MAX_JSON_BYTES, damage)
    if not text and not path.exists():
        return {}
    value = _parse(text)
    if value is None:
        damage.append(f"{path.name} is damaged")
    return value or {}


def _read_lines(path: Path, damage: list[str]) -> list[Line]:
    lines = _read_text(path, MAX_LINES_BYTES, damage).splitlines()
    values = [_parse(line) for line in lines if line.strip()]
    if num_damaged := values.count(None):
        damage.append(f"{path.name} has {num_damaged} damaged line(s)")
    return [value for value in values if value is not None]


def _parse(text: str) -> Line | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _newest_sample(folder: Path) -> Path | None:
    try:
        found = [(int(m[1]), p) for p in folder.iterdir() if (m := SAMPLE_NAME.fullmatch(p.name))]
    except (OSError, ValueError):
        return None
    return max(found)[1] if found else None
