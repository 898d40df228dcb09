"""Which evaluations of a sweep's cells may stand side by side, and why the others may not.

A metric is compared only where it was measured on the weights of a cell's last step, in one way for
all cells: same metric, feature extractor, reference images, number of images and sampler; and only
between cells that train for the budget that the sweep holds constant. Everything else is left out,
and listed with its reason.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from uvit_dia.config.checks import extractor_label
from uvit_dia.sweep.cell_files import CellFiles, final_weights
from uvit_dia.sweep.plan import SweepPlan
from uvit_dia.system.records import Record, number

METRICS = ("fid", "fd")
SETTINGS = (  # what two evaluations must have in common to be compared
    "metric",
    "extractor",
    "extractor_sha256",
    "reference_sha256",
    "num_images",
    "sampler",
    "num_steps",
    "weights",
    "eta",
    "variance_type",
    "clip_sample",
    "guidance_scale",
    "guidance_interval",
    "class_labels",
)


@dataclass(frozen=True)
class LeftOut:
    """A number, or a whole cell, that takes no part in the comparison.

    Attributes:
        cell: name of the cell.
        what: what is left out.
        reason: why.
    """

    cell: str
    what: str
    reason: str


@dataclass(frozen=True)
class Choice:
    """The evaluations of a sweep that are compared.

    Attributes:
        settings: what they have in common, by the names of `eval.jsonl`; {} where there are none.
        by_cell: by name of the cell, one evaluation a sample seed, by seed.
        left_out: what is not compared, by name of the cell.
    """

    settings: Record
    by_cell: dict[str, tuple[Record, ...]]
    left_out: dict[str, list[LeftOut]]


def choose_evaluations(plan: SweepPlan, cells: Sequence[CellFiles]) -> Choice:
    """Choose the evaluations of a sweep that may be compared."""
    left_out: dict[str, list[LeftOut]] = {files.cell.name: [] for files in cells}
    fitting = {files.cell.name: _fitting(plan, files, left_out) for files in cells}
    settings = _common_settings(fitting)
    chosen = {
        files.cell.name: _of_one_model(
            files, _with_settings(files, fitting[files.cell.name], settings, left_out), left_out
        )
        for files in cells
    }
    return Choice(settings, chosen, left_out)


def evaluations_of(plan: SweepPlan, files: CellFiles, weights_sha256: str) -> dict[int, Record]:
    """Return the evaluations of given weights that the sweep asks of a cell, by sample seed."""
    return {
        line["seed"]: line
        for line in files.evaluations
        if line.get("weights_sha256") == weights_sha256
        and evaluation_problem(plan, files, line) is None
    }


def has_result(plan: SweepPlan, files: CellFiles) -> bool:
    """Say whether the launcher recorded a result for a cell, whose evaluations are still there."""
    told = files.told
    if told.get("state") == "done":
        found = evaluations_of(plan, files, str(told.get("weights_sha256")))
        return found.keys() >= set(plan.sample_seeds)
    return told.get("state") == "diverged"


def evaluation_problem(plan: SweepPlan, files: CellFiles, line: Record) -> str | None:
    """Return why an evaluation is not what the sweep asks of a cell, or None."""
    cell = files.cell
    if line.get("step") != cell.num_steps:
        return f"of step {shorten(line.get('step'))}, not of the last step {cell.num_steps}"
    if line.get("metric") not in METRICS or not math.isfinite(number(line.get("value"))):
        return "without a finite FID or FD"
    if type(line.get("seed")) is not int:
        return "without a sample seed"
    for key, name in (
        ("num_images", "num_images"),
        ("sampler", "sampler"),
        ("num_steps", "sampler steps"),
    ):
        wanted = plan.evaluation.get(key)
        if wanted not in (None, "", line.get(key)):
            found = shorten(line.get(key))
            return f"{name} = {found}, the sweep compares at {shorten(wanted)}"
    for key, wanted in (
        ("extractor", _wanted_extractor(plan, files)),
        ("extractor_sha256", plan.extractors.get(cell.name)),
    ):
        if wanted and line.get(key) != wanted:
            return f"{key} = {shorten(line.get(key))}, the sweep measures with {shorten(wanted)}"
    if plan.sample_seeds and line["seed"] not in plan.sample_seeds:
        return f"sample seed {line['seed']} is not one of the sweep's"
    return None


def _wanted_extractor(plan: SweepPlan, files: CellFiles) -> str:
    """Return how results call the extractor that the sweep measures a cell with.

    "" where nothing says.
    """
    own = _group(files.config, "eval").get("extractor")
    return extractor_label(str(plan.evaluation.get("extractor") or own or ""))


def _group(config: Record, name: str) -> Record:
    value = config.get(name)
    return value if isinstance(value, dict) else {}


def _fitting(
    plan: SweepPlan, files: CellFiles, left_out: Mapping[str, list[LeftOut]]
) -> list[Record]:
    """Return the evaluations of a cell that are what the sweep asked for."""
    of_cell = _problem_of_run(plan, files)
    kept, refusals = [], Counter[str]()
    for line in files.evaluations:
        problem = of_cell or evaluation_problem(plan, files, line)
        if problem:
            refusals[problem] += 1
        else:
            kept.append(line)
    name = files.cell.name
    for reason, count in refusals.items():
        left_out[name].append(LeftOut(name, _evaluations(count), reason))
    return kept


def _evaluations(count: int) -> str:
    return "1 evaluation" if count == 1 else f"{count} evaluations"


def _problem_of_run(plan: SweepPlan, files: CellFiles) -> str | None:
    """Return why a run is not the one that the sweep compares, or None."""
    cell, amount = files.cell, plan.budget_amount
    if math.isfinite(amount):
        if plan.budget == "steps" and cell.num_steps != amount:
            return f"{cell.num_steps} steps planned, the sweep compares at {amount:.0f}"
        seen = cell.num_steps * cell.batch_size
        if plan.budget == "images" and abs(seen - amount) >= cell.batch_size:
            return f"{seen} images planned, the sweep compares at {amount:.0f}"
    train = _group(files.config, "train")
    for key, found, wanted in (
        ("train.batch_size", train.get("batch_size"), cell.batch_size),
        ("train.num_steps", train.get("num_steps"), cell.num_steps),
        ("seed", files.config.get("seed"), cell.seed),
    ):
        if found is not None and found != wanted:
            return f"its config.json has {key} = {shorten(found)}, the sweep {wanted}"
    return None


def _key(line: Record) -> tuple[str, ...]:
    return tuple(str(line.get(name)) for name in SETTINGS)


def _common_settings(fitting: Mapping[str, Sequence[Record]]) -> Record:
    """Return the settings of most cells, then of most sample seeds, then the first as text."""
    num_cells: Counter[tuple[str, ...]] = Counter()
    num_seeds: Counter[tuple[str, ...]] = Counter()
    example: dict[tuple[str, ...], Record] = {}
    for lines in fitting.values():
        num_cells.update({_key(line) for line in lines})
        num_seeds.update(key for key, _ in {(_key(line), line["seed"]) for line in lines})
        example.update((_key(line), line) for line in lines)
    if not num_cells:
        return {}
    best = min(num_cells, key=lambda key: (-num_cells[key], -num_seeds[key], key))
    return {name: example[best].get(name) for name in SETTINGS}


def _with_settings(
    files: CellFiles,
    lines: Sequence[Record],
    settings: Record,
    left_out: Mapping[str, list[LeftOut]],
) -> list[Record]:
    """Return the evaluations that have the common settings."""
    kept, name = [], files.cell.name
    for line in lines:
        other = next((n for n in SETTINGS if str(line.get(n)) != str(settings[n])), None)
        if other is None:
            kept.append(line)
            continue
        found, wanted = shorten(line.get(other)), shorten(settings[other])
        what = f"evaluation with sample seed {line['seed']}"
        left_out[name].append(LeftOut(name, what, f"{other} = {found}, most cells have {wanted}"))
    return kept


def _of_one_model(
    files: CellFiles, lines: Sequence[Record], left_out: Mapping[str, list[LeftOut]]
) -> tuple[Record, ...]:
    """Return one evaluation a sample seed, by seed, all of the same weights.

    Those are the weights that the launcher recorded, or that lie there; where neither was
    evaluated, or is known, those that were evaluated last. An interrupted sweep may measure the
    same twice; the later line holds.
    """
    evaluated = [line.get("weights_sha256") for line in lines]
    known = (files.told.get("weights_sha256"), final_weights(files.folder, files.cell.num_steps))
    newest = evaluated[-1] if evaluated else None
    weights = next((w for w in known if w is not None and w in evaluated), newest)
    same = [line for line in lines if line.get("weights_sha256") == weights]
    if num_stale := len(lines) - len(same):
        reason = "of other weights of the same step, evaluated earlier"
        name = files.cell.name
        left_out[name].append(LeftOut(name, _evaluations(num_stale), reason))
    by_seed = {line["seed"]: line for line in same}
    return tuple(by_seed[seed] for seed in sorted(by_seed))


def shorten(value: object) -> str:
    """Return a value as a text of at most 20 characters."""
    text = str(value)
    return text if len(text) <= 20 else text[:16] + "..."
