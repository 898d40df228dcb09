"""From a sweep config to its runs.

The grid, and the rules that hold something constant over batch sizes.
"""

from itertools import product

from uvit_dia.config.files import flatten
from uvit_dia.config.schema import Config
from uvit_dia.sweep.cells import Cell
from uvit_dia.sweep.schema import SweepConfig
from uvit_dia.system.errors import InputError


def expand(config: SweepConfig, base_config: Config) -> tuple[Cell, ...]:
    """Return the runs of a checked sweep config.

    Seeds outermost, then batch sizes, then variants, baseline first.
    """
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
    moments = {}
    if config.lr_rule == "adam_sde":
        betas = changes.pop("optimizer.betas", base_config.optimizer.betas)
        eps = changes.pop("optimizer.eps", base_config.optimizer.eps)
        ratio = batch_size / config.reference_batch_size
        moments = scaled_moments(tuple(betas), float(eps), ratio)  # type: ignore[arg-type]
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
            **moments,
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
        rule: "constant"; "sqrt", the part of Adam's rule that concerns the rate; "adam_sde", its
            whole, see `scaled_moments`; or "linear", which keeps the noise of SGD's updates (Goyal
            et al. 2017, arXiv:1706.02677).
        base: learning rate at the reference batch size.
        batch_size: global batch size.
        reference: global batch size at which `base` holds.
    """
    exponent = {"constant": 0.0, "sqrt": 0.5, "adam_sde": 0.5, "linear": 1.0}[rule]
    return base * (batch_size / reference) ** exponent


def scaled_moments(betas: tuple[float, float], eps: float, ratio: float) -> dict[str, object]:
    """Return AdamW's betas and eps at `ratio` times the batch size, by their dotted keys.

    Beside the learning rate times sqrt(ratio), 1 - beta is multiplied by the ratio and eps divided
    by its root: then Adam's steps follow the same stochastic differential equation (the square root
    scaling rule, Definition 5.2 of Malladi et al. 2022, arXiv:2205.10287).

    Raises:
        InputError: if the ratio is so large that a beta would fall below 0.
    """
    scaled = tuple(1 - ratio * (1 - beta) for beta in betas)
    if min(scaled) < 0:
        raise InputError(
            f"lr_rule = 'adam_sde' at {ratio:g} times reference_batch_size makes the betas {betas} "
            f"{tuple(round(beta, 6) for beta in scaled)}; they must be 0 or more"
        )
    return {"optimizer.betas": scaled, "optimizer.eps": eps / ratio**0.5}


def steps_of_budget(budget: str, amount: int, batch_size: int) -> int:
    """Return the optimizer steps of a run.

    The amount itself, or as many as show at least so many images.
    """
    return amount if budget == "steps" else -(-amount // batch_size)
