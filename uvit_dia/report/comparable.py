"""Which evaluations of a sweep may stand side by side, and why the others may not.

A metric is compared only where it was measured on the weights of a cell's last step, in one way for all cells: same
metric, feature extractor, reference images, number of images and sampler; and only between cells that train for the
budget that the sweep holds constant. Everything else is left out, and listed with its reason.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from uvit_dia.config.checks import extractor_label
from uvit_dia.report.result_files import CellFiles, Line, SweepPlan, number

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


def comparable_evaluations(
    plan: SweepPlan, cells: Sequence[CellFiles]
) -> tuple[Line, dict[str, list[Line]], list[LeftOut]]:
    """Choose the evaluations that may be compared.

    Returns:
        the settings that they have in common ({} where there are none); the evaluations of each cell, one a sample
        seed, by seed; and what was left out.
    """
    left_out: list[LeftOut] = []
    fitting = {cell.plan.name: _fitting(plan.config, cell, left_out) for cell in cells}
    settings = _common_settings(fitting)
    chosen = {
        name: _newest(name, _with_settings(name, lines, settings, left_out), left_out)
        for name, lines in fitting.items()
    }
    return settings, chosen, left_out


def sample_seeds(config: Line) -> list[int]:
    """Return the sample seeds that a sweep evaluates every cell with; [] where its config does not say."""
    wanted = _group(config, "eval")
    first, count = number(wanted.get("seed")), number(wanted.get("num_repeats", 1))
    if not (math.isfinite(first) and math.isfinite(count)):
        return []
    return [int(first) + repeat for repeat in range(min(int(count), 10_000))]


def _group(config: Line, name: str) -> Line:
    value = config.get(name)
    return value if isinstance(value, dict) else {}


def _fitting(config: Line, cell: CellFiles, left_out: list[LeftOut]) -> list[Line]:
    """Return the evaluations of a cell that are what the sweep asked for."""
    budget_problem = _budget_problem(config, cell)
    kept, refusals = [], Counter[str]()
    for line in cell.evaluations:
        problem = budget_problem or _evaluation_problem(config, cell, line)
        if problem:
            refusals[problem] += 1
        else:
            kept.append(line)
    for reason, count in refusals.items():
        left_out.append(LeftOut(cell.plan.name, _evaluations(count), reason))
    return kept


def _evaluations(count: int) -> str:
    return "1 evaluation" if count == 1 else f"{count} evaluations"


def _budget_problem(config: Line, cell: CellFiles) -> str | None:
    """Return why a cell's training does not hold the sweep's budget, or None."""
    plan, amount = cell.plan, number(config.get("budget_amount"))
    if math.isfinite(amount):
        if config.get("budget") == "steps" and plan.num_steps != amount:
            return f"{plan.num_steps} steps planned, the sweep compares at {amount:.0f}"
        seen = plan.num_steps * plan.batch_size
        if config.get("budget") == "images" and abs(seen - amount) >= plan.batch_size:
            return f"{seen} images planned, the sweep compares at {amount:.0f}"
    train = _group(cell.config, "train")
    for key, found, wanted in (
        ("train.batch_size", train.get("batch_size"), plan.batch_size),
        ("train.num_steps", train.get("num_steps"), plan.num_steps),
        ("seed", cell.config.get("seed"), plan.seed),
    ):
        if found is not None and found != wanted:
            return f"its config.json has {key} = {shorten(found)}, the sweep {wanted}"
    return None


def _evaluation_problem(config: Line, cell: CellFiles, line: Line) -> str | None:
    """Return why an evaluation is not what the sweep asked for, or None."""
    plan = cell.plan
    if line.get("step") != plan.num_steps:
        return f"of step {shorten(line.get('step'))}, not of the last step {plan.num_steps}"
    if line.get("metric") not in METRICS or not math.isfinite(number(line.get("value"))):
        return "without a finite FID or FD"
    if type(line.get("seed")) is not int:
        return "without a sample seed"
    wanted = _group(config, "eval")
    for key, name in (
        ("num_images", "num_images"),
        ("sampler", "sampler"),
        ("num_steps", "sampler steps"),
    ):
        if wanted.get(key) not in (None, "", line.get(key)):
            found = shorten(line.get(key))
            return f"{name} = {found}, the sweep compares at {shorten(wanted[key])}"
    extractor = _wanted_extractor(config, cell)
    if extractor and line.get("extractor") != extractor:
        found = shorten(line.get("extractor"))
        return f"extractor = {found}, the sweep measures with {shorten(extractor)}"
    seeds = sample_seeds(config)
    if seeds and line["seed"] not in seeds:
        return f"sample seed {line['seed']} is not one of the sweep's"
    return None


def _wanted_extractor(config: Line, cell: CellFiles) -> str:
    """Return how results call the extractor that the sweep measures a cell with; "" where nothing says."""
    own = _group(cell.config, "eval").get("extractor")
    return extractor_label(str(_group(config, "eval").get("extractor") or own or ""))


def _key(line: Line) -> tuple[str, ...]:
    return tuple(str(line.get(name)) for name in SETTINGS)


def _common_settings(fitting: dict[str, list[Line]]) -> Line:
    """Return the settings that most cells, then most sample seeds of them, were evaluated with; then by their text."""
    num_cells: Counter[tuple[str, ...]] = Counter()
    num_seeds: Counter[tuple[str, ...]] = Counter()
    example: dict[tuple[str, ...], Line] = {}
    for lines in fitting.values():
        num_cells.update({_key(line) for line in lines})
        num_seeds.update(key for key, _ in {(_key(line), line["seed"]) for line in lines})
        example.update((_key(line), line) for line in lines)
    if not num_cells:
        return {}
    best = min(num_cells, key=lambda key: (-num_cells[key], -num_seeds[key], key))
    return {name: example[best].get(name) for name in SETTINGS}


def _with_settings(
    cell: str, lines: Sequence[Line], settings: Line, left_out: list[LeftOut]
) -> list[Line]:
    """Return the evaluations that have the common settings."""
    kept = []
    for line in lines:
        other = next((n for n in SETTINGS if str(line.get(n)) != str(settings[n])), None)
        if other is None:
            kept.append(line)
            continue
        found, wanted = shorten(line.get(other)), shorten(settings[other])
        reason = f"{other} = {found}, most cells have {wanted}"
        left_out.append(LeftOut(cell, f"evaluation with sample seed {line['seed']}", reason))
    return kept


def _newest(cell: str, lines: Sequence[Line], left_out: list[LeftOut]) -> list[Line]:
    """Return one evaluation a sample seed, by seed, all of the weights that were evaluated last.

    An interrupted sweep may measure the same twice; the later line holds.
    """
    weights = lines[-1].get("weights_sha256") if lines else None
    same = [line for line in lines if line.get("weights_sha256") == weights]
    if num_stale := len(lines) - len(same):
        reason = "of other weights of the same step, evaluated earlier"
        left_out.append(LeftOut(cell, _evaluations(num_stale), reason))
    by_seed = {line["seed"]: line for line in same}
    return [by_seed[seed] for seed in sorted(by_seed)]


def shorten(value: object) -> str:
    """Return a value as a text of at most 20 characters."""
    text = str(value)
    return text if len(text) <= 20 else text[:16] + "..."
