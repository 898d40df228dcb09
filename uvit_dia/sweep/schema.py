"""The config of a sweep.

Every key with its type, range, unit and meaning, and what must fit together.

A sweep config is an ml_collections file in `configs/sweeps/`. Like the config of a run it is
complete: it has every key but those whose absence has a meaning, and no other. Neither torch nor
submitit is needed here.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from uvit_dia.config.fields import Group, check_tree, flat_rules, key, make_group, schema_of, shown
from uvit_dia.config.files import flatten
from uvit_dia.config.rules import Rule, choice, integer, number, sequence, text
from uvit_dia.config.sampling import ALL_SAMPLERS
from uvit_dia.config.schema import RULES, rule_of
from uvit_dia.system.errors import InputError, nearest

MAX_CELLS = 10_000
VARIANT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]{0,63}")
KEY_OF_A_RUN = re.compile(r"(?:overrides|variants\.[^.]+)\.(.+)")
SET_BY_SWEEP = {  # keys of a run's config that no variant may set -> what sets them
    "seed": "seeds",
    "train.batch_size": "batch_sizes",
    "train.num_steps": "budget_amount",
    "train.sample_every_steps": "train.num_steps, so that each run ends with a sample grid",
}
SET_BY_EMA_RULE = ("ema.decay", "ema.halflife_images")


def _integers(low: int, high: int) -> Rule:
    one = integer(low, high)
    allowed = f"a tuple of integers from {low} to {high}"
    return sequence(allowed, lambda items: bool(items) and all(map(one.fits, items)))


# Groups of keys of a run's config, which are checked key by key in `_check_overrides`.
OVERRIDES = Rule("a group of keys", lambda value: isinstance(value, dict), lambda text, _: text)


@dataclass(frozen=True, kw_only=True)
class Evaluation(Group, prefix="eval."):
    """How every cell is evaluated."""

    num_images: int = key(integer(2, 10**8), "Samples a seed", unit="images")
    sampler: str = key(choice(*ALL_SAMPLERS), "Scheduler of diffusers")
    num_steps: int = key(integer(1, 10**6), "Steps of the sampler", unit="steps")
    seed: int = key(integer(0, 2**31 - 1), "First seed of the samples")
    num_repeats: int = key(integer(1, 10**4), "Seeds, from the first on, measured one by one")
    extractor: str = key(text(), "Feature extractor; empty for that of the base config")
    weights: str = key(text(), "Inception weights; empty for those of the base config")

    @property
    def seeds(self) -> range:
        """The seeds of the samples."""
        return range(self.seed, self.seed + self.num_repeats)


@dataclass(frozen=True, kw_only=True)
class SlurmConfig(Group, prefix="slurm."):
    """What a job of a cell asks Slurm for."""

    partition: str = key(text(), "Empty for the cluster's default")
    timeout_minutes: int = key(integer(1, 10**6), "Time limit of a job; cells go on in the next")
    gpus_per_run: int = key(integer(0, 1024), "GPUs of a cell", unit="GPUs")
    cpus_per_run: int = key(integer(1, 4096), "CPUs of a cell", unit="CPUs")
    account: str = key(text(), "Account to charge; empty for your default", absent="")
    qos: str = key(text(), "Quality of service; empty for your default", absent="")


@dataclass(frozen=True, kw_only=True)
class SweepConfig(Group):
    """All that a sweep is; `make_sweep_config` makes it, from whatever source."""

    base: str = key(text(), "Path of the base config")
    baseline: str = key(text(), "Variant that the others are compared with")
    variants: Mapping[str, Any] = key(
        OVERRIDES, "Overrides of the base config by name of a variant"
    )
    overrides: Mapping[str, Any] = key(OVERRIDES, "Overrides of the base config for all variants")
    batch_sizes: tuple[int, ...] = key(_integers(1, 10**7), "Global batch sizes", unit="images")
    seeds: tuple[int, ...] = key(_integers(0, 2**31 - 1), "Seeds of the training")
    budget: str = key(choice("steps", "images"), "What all batch sizes have in common")
    budget_amount: int = key(integer(1, 10**12), "So many steps or images")
    lr_rule: str = key(
        choice("constant", "sqrt", "linear", "adam_sde"),
        "Learning rate as a function of batch size / reference_batch_size; adam_sde scales AdamW's "
        "betas and eps with it",
    )
    reference_batch_size: int = key(
        integer(1, 10**7), "Where the base config's learning rate holds", unit="images"
    )
    ema_rule: str = key(choice("base", "halflife_images"), "How the weights are averaged")
    ema_halflife_images: int = key(
        integer(0, 10**12), "Half-life under halflife_images, else 0", unit="images"
    )
    eval: Evaluation
    num_processes: int = key(integer(1, 1024), "That train a cell together", unit="processes")
    threads_per_cell: int = key(integer(1, 1024), "CPU threads of each process", unit="threads")
    seconds_per_image: float = key(number(0, 1e6), "Measured cost for --dry_run; 0: unknown")
    seconds_per_step: float = key(number(0, 1e6), "Measured cost of a step beside its images")
    seconds_per_cell: float = key(number(0, 1e9), "Measured cost of starting and evaluating")
    held_constant: str = key(text(), "What is held constant, in words, for the report")
    slurm: SlurmConfig


SWEEP_RULES = dict(flat_rules(schema_of(SweepConfig)))


def sweep_rule_of(name: str) -> Rule:
    """Return the rule of a dotted key of a sweep config, which holds keys of runs too.

    Raises:
        InputError: if no sweep config has it, with the nearest one.
    """
    if match := KEY_OF_A_RUN.fullmatch(name):
        return rule_of(match[1])
    if name not in SWEEP_RULES or SWEEP_RULES[name].allowed == OVERRIDES.allowed:
        raise InputError(f"unknown config key {name[:80]}{nearest(name, SWEEP_RULES)}")
    return SWEEP_RULES[name]


def make_sweep_config(tree: Mapping[str, Any], origin: str = "sweep config") -> SweepConfig:
    """Check the values of a sweep config and build it.

    Args:
        tree: the values as nested dictionaries.
        origin: what messages call the config, such as a file name.

    Raises:
        InputError: naming the first wrong key, what was found and what is allowed.
    """
    check_tree(tree, schema_of(SweepConfig), origin)
    config = make_group(SweepConfig, tree)
    reserved = dict(SET_BY_SWEEP)
    if config.ema_rule == "halflife_images":
        reserved |= dict.fromkeys(SET_BY_EMA_RULE, "ema_rule")
    _check_overrides("overrides", config.overrides, reserved)
    _check_variants(config.variants, config.baseline, reserved)
    for name, values in (("batch_sizes", config.batch_sizes), ("seeds", config.seeds)):
        value, count = Counter(values).most_common(1)[0]
        if count > 1:
            raise InputError(f"{name} has {value} twice: the grid would have duplicate cells")
    if (config.ema_rule == "halflife_images") != (config.ema_halflife_images > 0):
        raise InputError(
            f"ema_halflife_images = {config.ema_halflife_images} with "
            f"ema_rule = {config.ema_rule!r}; it must be above 0 with 'halflife_images', and 0 "
            "with 'base'"
        )
    if config.eval.seed + config.eval.num_repeats > 2**31:
        raise InputError("eval.seed + eval.num_repeats is above 2147483648")
    count = len(config.variants) * len(config.batch_sizes) * len(config.seeds)
    if count > MAX_CELLS:
        raise InputError(f"the grid has {count} cells; at most {MAX_CELLS} are allowed")
    return config


def _check_variants(variants: Mapping, baseline: str, reserved: Mapping[str, str]) -> None:
    if not variants:
        raise InputError("sweep config: variants must be a group of named overrides, such as uvit")
    # the folders of their cells would be one where names ignore case
    alike = Counter(str(name).lower() for name in variants).most_common(1)[0]
    if alike[1] > 1:
        raise InputError(f"variants: {alike[0]} stands there in more than one spelling")
    for name, changes in variants.items():
        if not VARIANT_NAME.fullmatch(str(name)):
            raise InputError(f"variants: {shown(name)} is no name; allowed are letters, digits, _")
        _check_overrides(f"variants.{name}", changes, reserved)
    if baseline not in variants:
        names = ", ".join(map(str, variants))
        raise InputError(f"baseline = {shown(baseline)} is none of the variants: {names}")


def _check_overrides(origin: str, changes: object, reserved: Mapping[str, str]) -> None:
    if not isinstance(changes, dict):
        raise InputError(f"{origin} must be a group of overrides, got {shown(changes)}")
    for name in flatten(changes):
        if name not in RULES:
            raise InputError(f"{origin}: unknown key {name}{nearest(name, RULES)}")
        if name in reserved:
            where = f"which the sweep sets itself ({reserved[name]})"
            raise InputError(f"{origin} sets {name}, {where}")
