"""What a sweep is: its config, and the check of it and of every run that it expands to (`grid.py`).

A sweep config is an ml_collections file in `configs/sweeps/`. Like the config of a run it is complete: every key of
`SWEEP_SCHEMA`, the groups `variants` and `overrides`, and no other. This module needs neither torch nor submitit.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from uvit_dia import cli
from uvit_dia.config.checks import check_images_at_a_time
from uvit_dia.config.fields import Schema, check_tree, flat_rules
from uvit_dia.config.files import config_hash, flat_values, flatten, to_plain
from uvit_dia.config.flag import define_config_flag, read_config
from uvit_dia.config.rules import Rule, choice, integer, number, sequence, text
from uvit_dia.config.schema import RULES, SAMPLERS, Config, rule_of
from uvit_dia.sweep.cells import Cell, Evaluation, Launch, flag_text
from uvit_dia.sweep.grid import expand
from uvit_dia.system.errors import InputError, nearest

MAX_CELLS = 10_000
VARIANT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]{0,63}")


def _integers(low: int, high: int) -> Rule:
    one = integer(low, high)
    allowed = f"a tuple of integers from {low} to {high}"
    return sequence(allowed, lambda items: bool(items) and all(map(one.fits, items)))


SWEEP_SCHEMA: Schema = {
    "base": text(),  # path of the base config
    "baseline": text(),  # name of the variant that the others are compared with
    "batch_sizes": _integers(1, 10**7),  # global
    "seeds": _integers(0, 2**31 - 1),  # of the training
    "budget": choice("steps", "images"),  # what all batch sizes have in common
    "budget_amount": integer(1, 10**12),
    "lr_rule": choice("constant", "sqrt", "linear"),  # in batch size / reference_batch_size
    "reference_batch_size": integer(1, 10**7),  # where the base config's learning rate holds
    "ema_rule": choice("base", "halflife_images"),
    "ema_halflife_images": integer(0, 10**12),
    "eval": {
        "num_images": integer(2, 10**8),
        "sampler": choice(*SAMPLERS),
        "num_steps": integer(1, 10**6),
        "seed": integer(0, 2**31 - 1),
        "num_repeats": integer(1, 10**4),
        "extractor": text(),
        "weights": text(),
    },
    "num_processes": integer(1, 1024),  # that train a cell together
    "threads_per_cell": integer(1, 1024),  # CPU threads of each of them
    "seconds_per_image": number(0, 1e6),  # measured cost of training, for --dry_run; 0 for unknown
    "seconds_per_step": number(0, 1e6),
    "seconds_per_cell": number(0, 1e9),  # of starting and evaluating
    "held_constant": text(),  # in words, for the report
    "slurm": {
        "partition": text(),  # "" for the cluster's default
        "timeout_minutes": integer(1, 10**6),
        "gpus_per_run": integer(0, 1024),
        "cpus_per_run": integer(1, 4096),
    },
}
SET_BY_SWEEP = {  # keys of a run's config that no variant may set -> what sets them
    "seed": "seeds",
    "train.batch_size": "batch_sizes",
    "train.num_steps": "budget_amount",
    "train.sample_every_steps": "train.num_steps, so that each run ends with a sample grid",
}
SET_BY_EMA_RULE = ("ema.decay", "ema.halflife_images")
SWEEP_RULES = dict(flat_rules(SWEEP_SCHEMA))
KEY_OF_A_RUN = re.compile(r"(?:overrides|variants\.[^.]+)\.(.+)")


def sweep_rule_of(name: str) -> Rule:
    """Return the rule of a dotted key of a sweep config, which holds keys of runs too.

    Raises:
        InputError: if no sweep config has it, with the nearest one.
    """
    if match := KEY_OF_A_RUN.fullmatch(name):
        return rule_of(match[1])
    if name not in SWEEP_RULES:
        raise InputError(f"unknown config key {name[:80]}{nearest(name, SWEEP_RULES)}")
    return SWEEP_RULES[name]


@dataclass(frozen=True)
class Sweep:
    """A checked sweep.

    Attributes:
        config: the sweep config.
        base_config: the base config, plain.
        launch: how the commands of its cells are started.
        evaluation: how every cell is evaluated.
        cells: its runs; seeds outermost, so that a part of them covers all variants and batch sizes.
        configs: the config of each run as train.py sees it, by name.
    """

    config: ConfigDict
    base_config: dict
    launch: Launch
    evaluation: Evaluation
    cells: tuple[Cell, ...]
    configs: dict[str, Config]

    def hours(self, cell: Cell) -> float:
        """Return the estimated time of a cell, from the costs that its sweep config gives."""
        config = self.config
        seconds = cell.images * config.seconds_per_image + cell.num_steps * config.seconds_per_step
        return (seconds + config.seconds_per_cell) / 3600


def make_sweep(config: ConfigDict, path: Path, scripts: Path) -> Sweep:
    """Check a sweep config and expand it.

    Args:
        config: the sweep config.
        path: its file.
        scripts: the folder of train.py and eval_fid.py.

    Raises:
        InputError: naming what is wrong; nothing was written or started.
    """
    check_sweep_config(config)
    base = find_base(config.base, path)
    base_config = read_run_config(["--config", base], f"base {base}")
    launch = Launch(base, config.num_processes, config.threads_per_cell, scripts)
    cells = expand(config, base_config)
    configs = {
        cell.name: read_run_config(cell.config_flags(base), f"cell {cell.name}") for cell in cells
    }
    for cell in cells:
        _check_cell(cell, configs[cell.name], config.num_processes)
    _refuse_equal_runs(configs)
    evaluation = Evaluation(**to_plain(config)["eval"])
    return Sweep(config, to_plain(base_config), launch, evaluation, cells, configs)


def check_sweep_config(config: ConfigDict) -> None:
    """Check that a sweep config has every key, no other, and only allowed values that fit each other.

    Raises:
        InputError: naming the first wrong key, what was found and what is allowed.
    """
    tree = config.to_dict()
    variants, overrides = tree.pop("variants", None), tree.pop("overrides", None)
    check_tree(tree, SWEEP_SCHEMA, "sweep config")
    reserved = dict(SET_BY_SWEEP)
    if config.ema_rule == "halflife_images":
        reserved |= dict.fromkeys(SET_BY_EMA_RULE, "ema_rule")
    _check_overrides("overrides", overrides, reserved)
    _check_variants(variants, config.baseline, reserved)
    for name in ("batch_sizes", "seeds"):
        value, count = Counter(tree[name]).most_common(1)[0]
        if count > 1:
            raise InputError(f"{name} has {value} twice: the grid would have duplicate cells")
    if (config.ema_rule == "halflife_images") != (config.ema_halflife_images > 0):
        raise InputError(
            f"ema_halflife_images = {config.ema_halflife_images} with ema_rule = {config.ema_rule!r}; "
            "it must be above 0 with 'halflife_images', and 0 with 'base'"
        )
    if config.eval.seed + config.eval.num_repeats > 2**31:
        raise InputError("eval.seed + eval.num_repeats is above 2147483648")
    count = len(variants) * len(config.batch_sizes) * len(config.seeds)
    if count > MAX_CELLS:
        raise InputError(f"the grid has {count} cells; at most {MAX_CELLS} are allowed")


def _check_variants(variants: object, baseline: str, reserved: dict[str, str]) -> None:
    if not isinstance(variants, dict) or not variants:
        raise InputError("sweep config: variants must be a group of named overrides, such as uvit")
    for name, changes in variants.items():
        if not VARIANT_NAME.fullmatch(str(name)):
            raise InputError(f"variants: {name!r:.80} is no name; allowed are letters, digits, _")
        _check_overrides(f"variants.{name}", changes, reserved)
    if baseline not in variants:
        names = ", ".join(map(str, variants))
        raise InputError(f"baseline = {baseline!r:.80} is none of the variants: {names}")


def _check_overrides(origin: str, changes: object, reserved: dict[str, str]) -> None:
    if not isinstance(changes, dict):
        raise InputError(f"{origin} must be a group of overrides, got {changes!r:.60}")
    for key in flatten(changes):
        if key not in RULES:
            raise InputError(f"{origin}: unknown key {key}{nearest(key, RULES)}")
        if key in reserved:
            raise InputError(f"{origin} sets {key}, which the sweep sets itself ({reserved[key]})")


def find_base(base: str, path: Path) -> str:
    """Return the path of the base config: as it stands, or from the project that the sweep config lies in.

    Args:
        base: as the sweep config gives it; what follows a colon is an argument of `get_config`.
        path: file of the sweep config, PROJECT/configs/sweeps/NAME.py.

    Raises:
        InputError: if there is no such file.
    """
    file, colon, argument = base.partition(":")
    folder = path.resolve().parent
    projects = folder.parents[1:2]
    for candidate in (Path(file), *(project / file for project in projects)):
        if candidate.is_file():
            return f"{candidate}{colon}{argument}"
    raise InputError(f"base = {base!r}: no such file, neither from here nor from the project")


def read_run_config(flags: list[str], origin: str) -> Config:
    """Return the checked config of a run from `--config` and its overrides, exactly as train.py reads it.

    Raises:
        InputError: if train.py would refuse it; the message begins with the origin.
    """
    argv = ["train.py", *flags]
    values = cli.new_flags()
    try:
        define_config_flag(values)
        cli.parse_flags(values, argv, "")
        config = read_config(values)
    except InputError as error:
        raise InputError(f"{origin}: {error}") from error
    return config


def _check_cell(cell: Cell, config: Config, num_processes: int) -> None:
    """Check a run's config against what its cell asks for, and its batch against the launch."""
    found = flat_values(config)
    for key, value in cell.overrides.items():
        wanted = list(value) if isinstance(value, tuple) else value
        if found[key] != wanted and flag_text(found[key]) != flag_text(value):
            raise InputError(f"cell {cell.name}: {key} = {value!r:.60} was read as {found[key]!r}")
    parts = num_processes * config.train.accumulation_steps
    if cell.batch_size % parts:
        raise InputError(
            f"cell {cell.name}: batch size {cell.batch_size} is not divisible by num_processes = {num_processes} "
            f"x train.accumulation_steps = {config.train.accumulation_steps}"
        )
    try:
        check_images_at_a_time(config, num_processes)
    except InputError as error:
        raise InputError(f"cell {cell.name}: {error}") from error
    _check_halflife(cell, config)


def _check_halflife(cell: Cell, config: Config) -> None:
    """Refuse a half-life that `ema.rampup_ratio` would not let a run reach: the rule would hold nothing constant."""
    ema = config.ema
    longest = ema.rampup_ratio * cell.images
    if ema.rampup_ratio and ema.halflife_images > longest:
        raise InputError(
            f"cell {cell.name}: ema.rampup_ratio = {ema.rampup_ratio:g} of its {cell.images} images keeps the half-life "
            f"of the average below {longest:.0f} images; ema.halflife_images = {ema.halflife_images} has no effect"
        )


def _refuse_equal_runs(configs: dict[str, Config]) -> None:
    """Refuse variants that differ in their names only."""
    names: dict[str, str] = {}
    for name, config in configs.items():
        other = names.setdefault(config_hash(config), name)
        if other != name:
            raise InputError(f"cells {other} and {name} are duplicates: they are the same run")
