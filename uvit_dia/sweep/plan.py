"""What a sweep set out to do, read from the `sweep.json` that the sweep wrote.

Data only, from any version.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from uvit_dia.sweep.cells import Cell
from uvit_dia.sweep.schema import SweepConfig, make_sweep_config
from uvit_dia.system.errors import InputError, nearest
from uvit_dia.system.records import Record, number, read_json

FORMAT = 1  # of sweep.json
CELL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]{0,199}")
VARIANT_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,60}")
MAX_INT = 2**53
MAX_SAMPLE_SEEDS = 10_000


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep set out to do.

    Attributes:
        folder: where it lies now; the folder may have been moved since.
        config: the resolved sweep config, as JSON; what an older version did not know is missing.
        base_config: the config that all runs are made from, as JSON; {} where it is not recorded.
        sha256: of all that the results depend on.
        extractors: SHA-256 of the feature extractor's file by name of the cell, as the launcher
            found it before the first cell ran; {} in the folders of older versions.
        run_order: the runs as the sweep starts them.
    """

    folder: Path
    config: Record
    base_config: Record
    sha256: str
    extractors: dict[str, str]
    run_order: tuple[Cell, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The runs by variant (baseline first, then their order), batch size and seed."""
        order = self.variants
        return tuple(
            sorted(
                self.run_order,
                key=lambda cell: (
                    order.index(cell.variant),
                    cell.batch_size,
                    cell.seed,
                    cell.name,
                ),
            )
        )

    def checked_config(self) -> SweepConfig:
        """Return the sweep config with all checks of one that is read from a file.

        Raises:
            InputError: naming the first wrong key, what was found and what is allowed.
        """
        origin = str(self.folder / "sweep.json")
        try:
            return make_sweep_config(self.config, origin)
        except InputError as error:
            message = str(error)
            raise InputError(message if origin in message else f"{origin}: {message}") from error

    def cell(self, name: str) -> Cell:
        """Return a run by its name.

        Raises:
            InputError: if there is none of this name.
        """
        by_name = {cell.name: cell for cell in self.run_order}
        if name not in by_name:
            hint = nearest(name, by_name)
            raise InputError(f"{self.folder} has no cell {name!r:.80}{hint}")
        return by_name[name]

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants; the first one is the baseline, which the others are compared with."""
        names = list(dict.fromkeys(cell.variant for cell in self.run_order))
        baseline = self.config.get("baseline")
        names.sort(key=lambda name: name != baseline)  # stable
        return tuple(names)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The global batch sizes, ascending."""
        return tuple(sorted({cell.batch_size for cell in self.run_order}))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The training seeds, ascending."""
        return tuple(sorted({cell.seed for cell in self.run_order}))

    @property
    def budget(self) -> str:
        """What all batch sizes have in common: "steps" or "images"; "" where it is not recorded."""
        found = self.config.get("budget")
        return found if found in ("steps", "images") else ""

    @property
    def budget_amount(self) -> float:
        """So many steps or images; NaN where it is not recorded."""
        return number(self.config.get("budget_amount"))

    @property
    def held_constant(self) -> str:
        """What is held constant over batch sizes, in the sweep's own words; "" without any."""
        return str(self.config.get("held_constant") or "").strip()

    @property
    def evaluation(self) -> Record:
        """The group `eval` of the sweep config.

        num_images, sampler, num_steps, seed, num_repeats, extractor.
        """
        found = self.config.get("eval")
        return found if isinstance(found, dict) else {}

    @property
    def sample_seeds(self) -> tuple[int, ...]:
        """The seeds of the samples that every cell is evaluated with.

        () where they are not recorded.
        """
        first = number(self.evaluation.get("seed"))
        count = number(self.evaluation.get("num_repeats", 1))
        if not (math.isfinite(first) and math.isfinite(count)):
            return ()
        return tuple(int(first) + repeat for repeat in range(min(int(count), MAX_SAMPLE_SEEDS)))


def read_plan(folder: Path) -> SweepPlan:
    """Read the `sweep.json` of a sweep's folder.

    Raises:
        InputError: if there is no sweep, or its plan is damaged or of another format.
    """
    path = folder / "sweep.json"
    if not path.is_file():
        raise InputError(f"{folder} holds no sweep: there is no sweep.json")
    file = read_json(path)
    config, cells = file.values.get("config"), file.values.get("cells")
    if file.problem:
        raise InputError(f"{path} {file.problem}; move the folder away, or choose another")
    if file.values.get("format", FORMAT) != FORMAT:
        found = file.values["format"]
        raise InputError(f"{path} has format {found!r:.40}; this version reads {FORMAT}")
    if not isinstance(config, dict) or not isinstance(cells, list) or not cells:
        raise InputError(f"{path} is no sweep: it needs a config and a list of cells")
    try:
        planned = tuple(_planned_cell(cell) for cell in cells)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: a cell is damaged ({type(error).__name__}: {error})") from error
    if len({cell.name for cell in planned}) < len(planned):
        raise InputError(f"{path}: two cells have the same name")
    base_config, extractors = (_group(file.values, name) for name in ("base_config", "extractors"))
    return SweepPlan(
        folder=folder,
        config=config,
        base_config=base_config,
        sha256=str(file.values.get("hash", "")),
        extractors={name: found for name, found in extractors.items() if isinstance(found, str)},
        run_order=planned,
    )


def _group(values: Record, name: str) -> Record:
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def _planned_cell(values: Record) -> Cell:
    name, variant = values["name"], None
    if not isinstance(name, str) or not CELL_NAME.fullmatch(name):
        raise ValueError(f"{name!r:.60} is no name of a cell")
    variant = values["variant"]
    if not isinstance(variant, str) or not VARIANT_NAME.fullmatch(variant):
        raise ValueError(f"{variant!r:.60} is no name of a variant")
    cell = Cell(
        name=name,
        variant=variant,
        batch_size=int(values["batch_size"]),
        seed=int(values["seed"]),
        num_steps=int(values["num_steps"]),
        images=int(values["images"]),
        learning_rate=float(values["learning_rate"]),
        overrides=_group(values, "overrides"),
    )
    counts = (cell.batch_size, cell.num_steps, cell.images)
    if not all(1 <= count <= MAX_INT for count in counts) or not 0 <= cell.seed <= MAX_INT:
        raise ValueError(f"{name} has a batch size, a seed, steps or images out of range")
    if not math.isfinite(cell.learning_rate):
        raise ValueError(f"the learning rate of {name} is {cell.learning_rate}")
    return cell
