"""What a config may hold, and how it is read from Python files, command lines and JSON.

This module needs neither torch nor diffusers, so that a mistake in a config is reported in a fraction of a second.
A config is complete: every key below must be there, and no other.
"""

import math

from ml_collections import ConfigDict

from uvit_dia.config.schema import (
    OTHER_UNITS,
    RECURRENT_UNITS,
    SCHEMA,
    UNIT_OVER_IMAGES,
    UNITS_WITH_REDUCTION,
    parse_blocks,
)
from uvit_dia.system.errors import InputError, nearest

LOG_SMALLEST_FLOAT32 = math.log(2.0**-126)  # of the numbers with all their digits


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
