"""The experiments of results/PROTOCOL.md.

Does the unit change a U-ViT, and is it attention or scale?

Variants of one seed start from the same backbone and see the same images, timesteps and noise in
the same order. Runs of one experiment see equally many images at every batch size, the learning
rate falls to 0 over the run, and the average of weights has its half-life in images.
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

from configs.sweeps.common import NO_UNIT, sweep_config


def unit(attention: str = "dia_lstm", **options: object) -> dict:
    """Return the overrides of a variant with a unit."""
    return {
        "model": {"attention": attention, "attention_options": {"gate_init": "paper", **options}}
    }


# What is asked in the first place: the paper's unit, and three controls of its start.
VARIANTS = {
    "none": NO_UNIT,
    "constant": unit("constant", constant=0.25),
    "paper": unit(),
    "rescaled": unit(gate_init="rescaled"),
    "identity": unit(gate_init="identity"),
}

# Extensions of ours, one idea each; the last three also have the rescaled gate.
BETTER = {
    "rescaled": unit(gate_init="rescaled"),
    "mean_one": unit(gate_form="mean_one"),
    "residual": unit(gate_form="residual"),
    "output": unit(gate_init="rescaled", place="mlp_output"),
    "time": unit(gate_init="rescaled", time_first_state=True),
    "memory": unit(gate_init="rescaled", forget_bias=2.0),
}


def with_rates(variants: Mapping[str, dict], rates: Mapping[str, float]) -> dict[str, dict]:
    """Return variants that each have a learning rate of their own."""
    return {
        name: {**changes, "optimizer": {"learning_rate": rates[name]}}
        for name, changes in variants.items()
    }


def tried_at(variants: Mapping[str, dict], rates: tuple[float, ...]) -> dict[str, dict]:
    """Return every variant at every learning rate, such as `paper_lr20` at 20e-4."""
    return {
        f"{name}_lr{rate * 1e4:.0f}": {**changes, "optimizer": {"learning_rate": rate}}
        for rate in rates
        for name, changes in variants.items()
    }


def digits_question(
    variants: Mapping[str, dict],
    *,
    batch_size: int,
    num_images: int,
    seeds: tuple[int, ...],
    halflife_images: int = 3_000,
) -> ConfigDict:
    """Return a sweep on 1,437 digits; the other 360 are held out.

    Args:
        variants: with their learning rates; the first is the baseline.
        batch_size: global.
        num_images: that each run sees.
        seeds: of the trainings.
        halflife_images: of the average of weights.
    """
    config = sweep_config(
        base="configs/digits_uvit_dia.py",
        variants=variants,
        overrides={
            "data": {"held_out_images": 360},
            "optimizer": {"lr_schedule": "cosine", "warmup_steps": 100},
            "train": {"log_every_steps": 100, "checkpoint_every_steps": 2000, "tracker": "none"},
            "eval": {"metrics": ("fid", "kid", "prc", "held_out_loss")},
        },
        batch_sizes=(batch_size,),
        num_steps=num_images,
        reference_batch_size=batch_size,
        held_constant=_words(num_images, 100),
        evaluation={"num_images": 500, "num_steps": 20, "num_repeats": 2},
        slurm={"timeout_minutes": 60, "gpus_per_run": 0, "cpus_per_run": 1},
    )
    return _in_images(config, seeds, halflife_images=halflife_images)


def cifar10_question(
    variants: Mapping[str, dict], *, batch_size: int, num_images: int, seeds: tuple[int, ...]
) -> ConfigDict:
    """Return a sweep of a U-ViT of about 1.06 million weights on CIFAR-10.

    The test set is held out.

    Images and extractor are given as `--config.overrides.data.path=FOLDER` (parquet files) and
    `--config.overrides.eval.extractor=pt2:FILE`. Arguments as for `digits_question`.
    """
    config = sweep_config(
        base="configs/cifar10_small_uvit_dia.py",
        variants=variants,
        overrides={
            "model": {"patch_size": 4, "embed_dim": 128, "depth": 4, "num_heads": 4},
            "data": {"name": "parquet", "path": "data/cifar10"},
            "optimizer": {"lr_schedule": "cosine", "warmup_steps": 200},
            "train": {
                "mixed_precision": "no",
                "compile": False,
                "log_every_steps": 200,
                "checkpoint_every_steps": 4000,
                "tracker": "none",
            },
            "eval": {"metrics": ("fid", "held_out_loss")},
        },
        batch_sizes=(batch_size,),
        num_steps=num_images,
        reference_batch_size=batch_size,
        held_constant=_words(num_images, 200),
        evaluation={"num_images": 2000, "num_steps": 20, "num_repeats": 1},
        slurm={"timeout_minutes": 60, "gpus_per_run": 1, "cpus_per_run": 1},
    )
    return _in_images(config, seeds, halflife_images=3_000)


def _in_images(config: ConfigDict, seeds: tuple[int, ...], *, halflife_images: int) -> ConfigDict:
    config.seeds = seeds
    config.budget = "images"
    config.ema_rule = "halflife_images"
    config.ema_halflife_images = halflife_images
    return config


def _words(num_images: int, warmup_steps: int) -> str:
    return (
        f"Images seen ({num_images:,}); the learning rate falls to 0 as a cosine after a warm-up "
        f"of {warmup_steps} steps, and was tuned for each variant and batch size on a seed of "
        "its own."
    )
