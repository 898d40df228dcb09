"""What a config may hold, and how it is read from Python files, command lines and JSON.

This module needs neither torch nor diffusers, so that a mistake in a config is reported in a fraction of a second.
A config is complete: every key below must be there, and no other.
"""

import difflib
import hashlib
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path

from ml_collections import ConfigDict

from uvit_dia.system.errors import InputError

Check = Callable[[object], str | None]  # returns what is allowed, where the value is not

MAX_CONFIG_BYTES = 2**20
MAX_COUNT = 10**9
LOG_SMALLEST_FLOAT32 = math.log(2.0**-126)  # of the numbers with all their digits


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
OTHER_UNITS = ("se", "eca", "cbam", "srm", "spa", "sge", "spem", "sem")
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

# What may change when a run is resumed: how long it goes on, how often it reports, and where things lie.
RESUMABLE_CHANGES = (
    "train.num_steps",
    "train.log_every_steps",
    "train.checkpoint_every_steps",
    "train.keep_checkpoints",
    "train.sample_every_steps",
    "train.eval_every_steps",
    "train.tracker",
    "data.path",
    "data.on_device",
    "sample.",
    "eval.",
)


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


def nearest(name: str, names: Iterable[object]) -> str:
    """Return ", did you mean X?" for the closest of the names, or an empty text."""
    close = difflib.get_close_matches(name, [str(n) for n in names], n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def flatten(tree: dict, prefix: str = "") -> dict[str, object]:
    """Flatten nested dictionaries to dotted keys."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def to_plain(config: ConfigDict) -> dict:
    """Return the config as nested dictionaries of JSON's types; tuples become lists."""
    return json.loads(json.dumps(config.copy_and_resolve_references().to_dict()))


def config_hash(config: ConfigDict) -> str:
    """Return the SHA-256 of the config's canonical JSON."""
    text = json.dumps(to_plain(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check_config(config: ConfigDict, origin: str = "config") -> None:
    """Check that a config has every key, no other, and only allowed values that fit each other.

    Args:
        config: the config.
        origin: what messages call it, such as a file name.

    Raises:
        InputError: naming the first wrong key, what was found and what is allowed.
    """
    _check_tree(config.to_dict(), SCHEMA, origin, "")
    model, train, ema = config.model, config.train, config.ema
    if model.img_size % model.patch_size:
        raise InputError(
            f"model.img_size = {model.img_size} is not a multiple of model.patch_size = {model.patch_size}"
        )
    if model.depth % 2:
        raise InputError(
            f"model.depth = {model.depth} is odd; it must be even (depth + 1 blocks are built)"
        )
    if model.embed_dim % model.num_heads:
        raise InputError(
            f"model.embed_dim = {model.embed_dim} is not a multiple of model.num_heads = {model.num_heads}"
        )
    if model.embed_dim * model.mlp_ratio < 1:
        raise InputError(
            f"model.mlp_ratio = {model.mlp_ratio} leaves no hidden unit to an MLP; with model.embed_dim = "
            f"{model.embed_dim} allowed is 1/{model.embed_dim} or more"
        )
    _check_attention(model)
    if model.attention == UNIT_OVER_IMAGES and train.gradient_checkpointing:
        raise InputError(
            "train.gradient_checkpointing = True: not with model.attention = 'srm', whose running averages the "
            "recomputation would move once more; allowed is False"
        )
    if model.num_classes > 0:
        raise InputError(
            f"model.num_classes = {model.num_classes}: the trainer is unconditional so far; allowed is -1"
        )
    if config.diffusion.beta_start > config.diffusion.beta_end:
        raise InputError(
            f"diffusion.beta_start = {config.diffusion.beta_start} is above beta_end = {config.diffusion.beta_end}"
        )
    _check_schedule(config.diffusion)
    if train.batch_size % train.accumulation_steps:
        raise InputError(
            f"train.batch_size = {train.batch_size} is not divisible by train.accumulation_steps = {train.accumulation_steps}"
        )
    check_images_at_a_time(config, num_processes=1)
    if (ema.decay > 0) == (ema.halflife_images > 0):
        raise InputError(
            f"exactly one of ema.decay = {ema.decay} and ema.halflife_images = {ema.halflife_images} must be above 0"
        )
    if config.data.name in ("parquet", "folder") and not config.data.path:
        raise InputError(f"data.path is empty; data.name = {config.data.name!r} needs a path")


def extractor_label(name: str) -> str:
    """Return what results call an extractor: a program goes by "pt2", its hash says which; its path is nobody's business."""
    return "pt2" if name.startswith("pt2:") else name


def check_images_at_a_time(config: ConfigDict, num_processes: int) -> None:
    """Check that a unit which normalises over images gets several at a time.

    Args:
        config: the config, whose batch can be divided evenly.
        num_processes: that train together.

    Raises:
        InputError: if it gets only one.
    """
    train, attention = config.train, config.model.attention
    if (
        attention == UNIT_OVER_IMAGES
        and train.batch_size == num_processes * train.accumulation_steps
    ):
        raise InputError(
            f"train.batch_size = {train.batch_size} is 1 image for each of {num_processes} processes x "
            f"train.accumulation_steps = {train.accumulation_steps}; model.attention = {attention!r} normalises over "
            "images and needs 2 or more"
        )


def _check_schedule(diffusion: ConfigDict) -> None:
    """Check that some signal is left at the last timestep: samplers divide by it."""
    name, steps = diffusion.beta_schedule, diffusion.num_train_timesteps
    if name == "squaredcos_cap_v2":
        return  # whose last step leaves a thousandth of what was there
    power = 2 if name == "scaled_linear" else 1
    first, last = diffusion.beta_start ** (1 / power), diffusion.beta_end ** (1 / power)
    left = 0.0  # the logarithm of alphas_cumprod
    for step in range(steps):
        left += math.log1p(-((first + (last - first) * step / (steps - 1)) ** power))
        if left < LOG_SMALLEST_FLOAT32:
            raise InputError(
                f"diffusion.beta_end = {diffusion.beta_end} over diffusion.num_train_timesteps = {steps}, {name}: "
                f"alphas_cumprod is lost to float32 from step {step} on; lower one of them"
            )


def _check_attention(model: ConfigDict) -> None:
    """Check that the attention unit's options fit the unit and the network's width."""
    name, options = model.attention, model.attention_options
    if name in UNITS_WITH_REDUCTION and model.embed_dim % options.reduction:
        raise InputError(
            f"model.attention_options.reduction = {options.reduction} does not divide model.embed_dim = {model.embed_dim}"
        )
    if name == "sge" and model.embed_dim % options.groups:
        raise InputError(
            f"model.attention_options.groups = {options.groups} does not divide model.embed_dim = {model.embed_dim}"
        )
    if name in OTHER_UNITS and (options.activation, options.num_cells) != ("default", 1):
        raise InputError(
            f"model.attention_options.activation and num_cells belong to {', '.join(RECURRENT_UNITS)}; for {name!r} "
            "allowed are 'default' and 1"
        )
    if options.gate_init == "identity" and options.activation == "relu":
        raise InputError(
            "model.attention_options.gate_init = 'identity' needs activation sigmoid or tanh"
        )
    blocks = parse_blocks(options.blocks)
    if blocks != "all" and max(blocks) > model.depth:
        raise InputError(
            f"model.attention_options.blocks names block {max(blocks)}; depth = {model.depth} has blocks 0 to {model.depth}"
        )


def _check_tree(tree: dict, schema: dict, origin: str, prefix: str) -> None:
    for key in tree:
        if key not in schema:
            text = str(key)
            shown = text if len(text) <= 60 else text[:57] + "..."
            raise InputError(f"{origin}: unknown key {prefix}{shown}{nearest(shown, schema)}")
    for key, rule in schema.items():
        name = prefix + key
        if key not in tree:
            raise InputError(f"{origin}: key {name} is missing")
        value = tree[key]
        if isinstance(rule, dict):
            if not isinstance(value, dict):
                raise InputError(f"{origin}: {name} must be a group of keys, got {_show(value)}")
            _check_tree(value, rule, origin, name + ".")
        elif (allowed := rule(value)) is not None:
            raise InputError(f"{origin}: {name} = {_show(value)}; allowed is {allowed}")


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def read_config_json(path: Path) -> ConfigDict:
    """Read the `config.json` of a run: data only, checked like any other config.

    Raises:
        InputError: if the file is missing, not JSON, or not an allowed config.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise InputError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes; that is no config")
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not JSON: {' '.join(str(error).split())[:80]}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path} does not hold a config")
    try:
        config = ConfigDict(_with_tuples(tree))
        check_config(config, str(path))
    except InputError:
        raise
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise InputError(f"{path} is not a config: {' '.join(str(error).split())[:80]}") from error
    return config.lock()


def _with_tuples(tree: object) -> object:
    """Turn JSON's lists back into the tuples that configs hold."""
    if isinstance(tree, dict):
        return {key: _with_tuples(value) for key, value in tree.items()}
    return tuple(_with_tuples(v) for v in tree) if isinstance(tree, list) else tree


def forbidden_changes(saved: ConfigDict, wanted: ConfigDict) -> list[str]:
    """List what differs between a run's config and the one it is resumed with, and may not.

    The number of steps may change only under a constant learning rate: a cosine would bend at another place.

    Returns:
        Lines such as "train.batch_size: 64 -> 32".
    """
    old, new = flatten(to_plain(saved)), flatten(to_plain(wanted))
    allowed: tuple[str, ...] = RESUMABLE_CHANGES
    if wanted.optimizer.lr_schedule != "constant":
        allowed = tuple(key for key in allowed if key != "train.num_steps")
    return [
        f"{key}: {old[key]!r} -> {new[key]!r}"
        for key in old
        if old[key] != new[key] and not key.startswith(allowed)
    ]
