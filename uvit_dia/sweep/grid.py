"""From a sweep config to its runs: the grid, and the rules that hold something constant over batch sizes."""

from itertools import product

from uvit_dia.config.files import flatten
from uvit_dia.config.schema import Config
from uvit_dia.sweep.cells import Cell
from uvit_dia.sweep.schema import SweepConfig
from uvit_dia.system.errors import InputError


def expand(config: SweepConfig, base_config: Config) -> tuple[Cell, ...]:
    """Return the runs of a checked sweep config: seeds outermost, then batch sizes, then variants, baseline first."""
    others = [name for name in config.variants if name != config.baseline]
    variants = [config.baseline, *others]
    grid = product(config.seeds, config.batch_sizes, variants)
    return tuple(
        _make_cell(config, base_config, name, batch_size, seed) for seed, batch_size, name in grid
    )


def _make_cell(
    config: SweepConfig, base_config: Config, variant: str, batch_size: int, seed: int
) -> Cell:
    changes = flatten(config.overrides) | flatten(config.variants[variant])
    base_rate = changes.pop("optimizer.learning_rate", base_config.optimizer.learning_rate)
    if isinstance(base_rate, bool) or not isinstance(base_rate, int | float):
        raise InputError(f"variants.{variant}: optimizer.learning_rate = {base_rate!r:.60}")
    learning_rate = scaled_learning_rate(
        config.lr_rule, float(base_rate), batch_size, config.reference_batch_size
    )
    num_steps = steps_of_budget(config.budget, config.budget_amount, batch_size)
    ema = {}
    if config.ema_rule == "halflife_images":
        ema = {"ema.decay": 0.0, "ema.halflife_images": config.ema_halflife_images}
    return Cell(
        name=f"{variant}-b{batch_size:04d}-s{seed}",
        variant=variant,
        batch_size=batch_size,
        seed=seed,
        num_steps=num_steps,
        images=num_steps * batch_size,
        learning_rate=learning_rate,
        overrides={
            **changes,
            **ema,
            "seed": seed,
            "train.batch_size": batch_size,
            "train.num_steps": num_steps,
            "train.sample_every_steps": num_steps,
            "optimizer.learning_rate": learning_rate,
        },
    )


def scaled_learning_rate(rule: str, base: float, batch_size: int, reference: int) -> float:
    """Return the learning rate at a batch size.

    Args:
        rule: "constant"; "sqrt", which keeps the noise of Adam's updates (Malladi et al. 2022, arXiv:2205.10287); or
            "linear", which keeps that of SGD's (Goyal et al. 2017, arXiv:1706.02677).
        base: learning rate at the reference batch size.
        batch_size: global batch size.
        reference: global batch size at which `base` holds.
    """
    exponent = {"constant": 0.0, "sqrt": 0.5, "linear": 1.0}[rule]
    return base * (batch_size / reference) ** exponent


def steps_of_budget(budget: str, amount: int, batch_size: int) -> int:
    """Return the optimizer steps of a run: the amount itself, or as many as show at least so many images."""
    return amount if budget == "steps" else -(-amount // batch_size)
