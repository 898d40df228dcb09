"""What each key of a config may hold; needs neither torch nor diffusers."""

from collections.abc import Callable

Check = Callable[[object], str | None]  # returns what is allowed, where the value is not


MAX_COUNT = 10**9


def _integer(low: int, high: int = MAX_COUNT) -> Check:
    def check(value: object) -> str | None:
        fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return None if fits else f"an integer from {low} to {high}"

    return check


def _number(low: float, high: float, *, above_low: bool = False) -> Check:
    def check(value: object) -> str | None:
        fits = (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and low <= value <= high  # false for NaN, and exact for integers of any size
            and not (above_low and value == low)
        )
        return None if fits else f"a number {'above' if above_low else 'from'} {low:g} to {high:g}"

    return check


def _choice(*allowed: str) -> Check:
    def check(value: object) -> str | None:
        return (
            None if value in allowed and isinstance(value, str) else "one of " + ", ".join(allowed)
        )

    return check


def _boolean(value: object) -> str | None:
    return None if isinstance(value, bool) else "True or False"


def _text(value: object) -> str | None:
    return None if isinstance(value, str) and len(value) <= 4096 else "a text"


def _betas(value: object) -> str | None:
    below_one = _number(0, 0.999999)
    fits = isinstance(value, tuple | list) and len(value) == 2 and not any(map(below_one, value))
    return None if fits else "two numbers from 0 to below 1"


def _blocks(value: object) -> str | None:
    try:
        parse_blocks(value)
    except (ValueError, TypeError):
        return "'all' or block indices such as '0,1,2'"
    return None


def _metric_names(value: object) -> str | None:
    fits = isinstance(value, tuple | list) and value and all(name in METRICS for name in value)
    return None if fits else "a tuple of " + ", ".join(METRICS)


METRICS = ("fid", "kid", "isc", "prc")


SAMPLERS = ("ddpm", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "euler", "heun", "pndm")


RECURRENT_UNITS = ("lstm", "dia_lstm", "dia_lstm_light")


OTHER_UNITS = ("se", "eca", "cbam", "srm", "spa", "sge", "spem", "sem", "constant")


UNIT_OVER_IMAGES = "srm"  # normalises over the images of a batch, in training


UNITS_WITH_REDUCTION = ("dia_lstm", "dia_lstm_light", "se", "cbam", "spa", "sem")


DATA_NAMES = ("digits", "cifar10", "parquet", "folder")


SCHEMA: dict[str, Check | dict] = {
    "seed": _integer(0, 2**31 - 1),
    "model": {
        "img_size": _integer(1, 4096),
        "patch_size": _integer(1, 4096),
        "in_chans": _integer(1, 64),
        "embed_dim": _integer(1, 65536),
        "depth": _integer(0, 1000),
        "num_heads": _integer(1, 1024),
        "mlp_ratio": _number(0, 64, above_low=True),
        "qkv_bias": _boolean,
        "mlp_time_embed": _boolean,
        "num_classes": _integer(-1, 10**6),
        "conv": _boolean,
        "skip": _boolean,
        "residual": _boolean,
        "layer_norm": _boolean,
        "attention": _choice("none", *RECURRENT_UNITS, *OTHER_UNITS),
        "attention_options": {
            "shared": _boolean,
            "reduction": _integer(1, 65536),
            "groups": _integer(1, 65536),
            "activation": _choice("default", "sigmoid", "tanh", "relu"),
            "num_cells": _integer(1, 64),
            "pool": _choice("all", "patches"),
            "blocks": _blocks,
            "gate_init": _choice("paper", "identity"),
        },
    },
    "diffusion": {
        "num_train_timesteps": _integer(2, 10**6),
        "beta_schedule": _choice("linear", "scaled_linear", "squaredcos_cap_v2"),
        "beta_start": _number(0, 1, above_low=True),
        "beta_end": _number(0, 0.999999, above_low=True),
        "prediction_type": _choice("epsilon", "v_prediction", "sample"),
        "loss_weighting": _choice("none", "min_snr"),
        "min_snr_gamma": _number(0, 1e6, above_low=True),
    },
    "data": {
        "name": _choice(*DATA_NAMES),
        "path": _text,
        "resize": _boolean,
        "random_flip": _boolean,
        "on_device": _boolean,
    },
    "optimizer": {
        "learning_rate": _number(0, 1e3, above_low=True),
        "lr_schedule": _choice("constant", "cosine"),
        "warmup_steps": _integer(0),
        "betas": _betas,
        "eps": _number(0, 1, above_low=True),
        "weight_decay": _number(0, 1e3),
        "max_grad_norm": _number(0, 1e9),
    },
    "ema": {
        "decay": _number(0, 0.99999999),
        "halflife_images": _integer(0, 10**12),
        "rampup_ratio": _number(0, 1e6),
    },
    "train": {
        "batch_size": _integer(1, 10**7),
        "num_steps": _integer(1, 2**32 - 1),
        "accumulation_steps": _integer(1, 10**6),
        "mixed_precision": _choice("no", "bf16"),
        "compile": _boolean,
        "gradient_checkpointing": _boolean,
        "log_every_steps": _integer(1),
        "checkpoint_every_steps": _integer(1),
        "keep_checkpoints": _integer(2, 10**6),
        "sample_every_steps": _integer(0),
        "eval_every_steps": _integer(0),
        "tracker": _choice("tensorboard", "none"),
    },
    "sample": {
        "sampler": _choice(*SAMPLERS),
        "num_steps": _integer(1, 10**6),
        "eta": _number(0, 1),
        "variance_type": _choice("fixed_small", "fixed_large"),
        "clip_sample": _boolean,
        "seed": _integer(0, 2**31 - 1),
        "batch_size": _integer(1, 10**6),
        "grid_images": _integer(1, 4096),
    },
    "eval": {
        "num_images": _integer(1, 10**8),
        "metrics": _metric_names,
        "extractor": _text,
        "weights": _text,
        "batch_size": _integer(1, 10**6),
    },
}


def parse_blocks(value: object) -> str | list[int]:
    """Read `attention_options.blocks`: "all", a text such as "0,1,2", or a sequence of ints.

    Raises:
        ValueError: if it is none of these.
    """
    if value == "all":
        return "all"
    parts = value.strip("()[], ").split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or any(isinstance(p, bool | float) for p in parts):
        raise ValueError(f"not a list of block indices: {value!r}")
    indices = sorted({int(part) for part in parts})
    if not indices or indices[0] < 0:
        raise ValueError(f"not a list of block indices: {value!r}")
    return indices
