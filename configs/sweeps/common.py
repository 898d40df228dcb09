"""What sweep configs have in common: every key, with a value or the wish for one."""

from collections.abc import Mapping

from ml_collections import ConfigDict

NO_UNIT = {"model": {"attention": "none"}}  # the baseline: a plain U-ViT

# Digits: no warm-up that takes most of a short run, and a log line every 50 steps.
DIGITS_OVERRIDES = {
    "optimizer": {"lr_schedule": "constant", "warmup_steps": 100},
    "train": {"log_every_steps": 50, "checkpoint_every_steps": 500, "tracker": "none"},
}


def sweep_config(
    *,
    base: str,
    variants: Mapping[str, dict],
    overrides: dict,
    batch_sizes: tuple[int, ...],
    num_steps: int,
    reference_batch_size: int,
    held_constant: str,
    evaluation: Mapping[str, int],
    threads_per_cell: int = 1,
    seconds: tuple[float, float, float] = (0.0, 0.0, 0.0),
    slurm: Mapping[str, int],
) -> ConfigDict:
    """Return a complete sweep config that holds steps, learning rate and the average's decay.

    Three training seeds; the first variant is the baseline.

    Args:
        base: path of the base config.
        variants: overrides of each variant by its name.
        overrides: of all variants.
        batch_sizes: global.
        num_steps: optimizer steps of each run.
        reference_batch_size: where the base config's learning rate holds, for another `lr_rule`.
        held_constant: in words, for the report.
        evaluation: `num_images`, `num_steps` of the sampler, `num_repeats` (sample seeds).
        threads_per_cell: CPU threads of a run.
        seconds: measured costs of an image, a step, and start and evaluation of a run; 0: unknown.
        slurm: `timeout_minutes`, `gpus_per_run`, `cpus_per_run` of a job.
    """
    config = ConfigDict()
    config.base = base
    config.baseline = next(iter(variants))
    config.variants = ConfigDict(dict(variants), sort_keys=False)
    config.overrides = ConfigDict(overrides)
    config.batch_sizes = batch_sizes
    config.seeds = (0, 1, 2)
    config.budget = "steps"
    config.budget_amount = num_steps
    config.lr_rule = "constant"
    config.reference_batch_size = reference_batch_size
    config.ema_rule = "base"
    config.ema_halflife_images = 0
    config.eval = ConfigDict(
        {"sampler": "dpmpp_2m", "seed": 0, "extractor": "", "weights": "", **evaluation}
    )
    config.num_processes = 1
    config.threads_per_cell = threads_per_cell
    config.seconds_per_image, config.seconds_per_step, config.seconds_per_cell = seconds
    config.held_constant = held_constant
    config.slurm = ConfigDict({"partition": "", "account": "", "qos": "", **slurm})
    return config


def digits_config(
    *,
    variants: Mapping[str, dict],
    held_constant: str,
    batch_sizes: tuple[int, ...] = (32,),
    overrides: Mapping[str, dict] | None = None,
) -> ConfigDict:
    """Return the sweep config of 1,500 steps on digits.

    The costs were measured in digits_batch_size.py.

    Args:
        variants: overrides of each variant by its name.
        held_constant: in words, for the report.
        batch_sizes: global.
        overrides: of all variants, beside those of all sweeps on digits.
    """
    return sweep_config(
        base="configs/digits_uvit_dia.py",
        variants=variants,
        overrides={**(overrides or {}), **DIGITS_OVERRIDES},
        batch_sizes=batch_sizes,
        num_steps=1500,
        reference_batch_size=max(batch_sizes),
        held_constant=held_constant,
        evaluation={"num_images": 500, "num_steps": 20, "num_repeats": 3},
        seconds=(0.00062, 0.0073, 22.0),
        slurm={"timeout_minutes": 60, "gpus_per_run": 0, "cpus_per_run": 1},
    )


def steps_held_constant(num_steps: int, learning_rate: str, warmup_steps: int) -> str:
    """Return the words for a sweep over batch sizes that holds steps and learning rate."""
    return (
        f"Steps ({num_steps:,}) and learning rate ({learning_rate} after a warm-up of "
        f"{warmup_steps:,} steps) are the same for every batch size (the paper's Fig. 8 does not "
        "say what it held); a smaller batch therefore sees fewer "
        "images. The EMA is the same function of the step."
    )
