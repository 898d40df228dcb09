"""From the values of a config, whatever their source, to a checked `Config`.

The rule of a key (`schema.py`) checks its value; the functions here check which values fit each
other. Neither torch nor diffusers is imported, so that a mistake is reported at once.
"""

import math
from collections.abc import Mapping

from uvit_dia.config.attention_checks import check_attention
from uvit_dia.config.data_checks import check_data
from uvit_dia.config.fields import check_tree, make_group, schema_of
from uvit_dia.config.guidance_interval import check_interval
from uvit_dia.config.latents import check_latents
from uvit_dia.config.network import FLOW_PREDICTION_TYPES, PREDICTION_TYPES
from uvit_dia.config.rules import HELD_OUT_LOSS
from uvit_dia.config.sampling import FLOW_SAMPLERS, SAMPLERS, VP_SDE_SAMPLERS
from uvit_dia.config.schema import (
    Config,
    DiffusionConfig,
    EMAConfig,
    ModelConfig,
    TrainConfig,
)
from uvit_dia.config.units import moves_averages, normalises_over_images
from uvit_dia.system.errors import InputError

NUM_CLASSES = {"digits": 10, "cifar10": 10}  # of the sets whose classes are known by name
LOG_SMALLEST_FLOAT32 = math.log(2.0**-126)  # of the numbers with all their digits


def make_config(tree: Mapping, origin: str = "config") -> Config:
    """Check the values of a config and build it: from a file, JSON or flags alike.

    Args:
        tree: the values as nested dictionaries: every key, and no other.
        origin: what messages call the config, such as a file name.

    Raises:
        InputError: naming the first wrong key, what was found and what is allowed.
    """
    check_tree(tree, schema_of(Config), origin)
    config = make_group(Config, tree)
    _check_shape(config.model)
    check_attention(config.model)
    _check_process(config.diffusion)
    _check_schedule(config.diffusion)
    check_sampler_of_process(config.sample.sampler, config.diffusion, "sample.sampler =")
    _check_step(config.model, config.train)
    check_images_at_a_time(config, num_processes=1)
    _check_average(config.ema)
    check_data(config.data)
    check_latents(config)
    _check_held_out(config)
    _check_classes(config)
    return config


def _check_classes(config: Config) -> None:
    """Check that labels, "no class" and guidance fit the network and, by its name, the data."""
    num_classes, sample = config.model.num_classes, config.sample
    if config.train.label_dropout and num_classes < 2:
        raise InputError(
            f"train.label_dropout = {config.train.label_dropout} needs model.num_classes of 2 or "
            f"more, the classes and one label for no class, got {num_classes}"
        )
    if sample.guidance_scale != 1 and config.null_class is None:
        raise InputError(
            f"sample.guidance_scale = {sample.guidance_scale} needs a network that was trained "
            "with train.label_dropout above 0"
        )
    num_timesteps = config.diffusion.num_train_timesteps
    check_interval(sample, num_timesteps, is_conditional=config.is_conditional)
    known = NUM_CLASSES.get(config.data.name)
    if config.is_conditional and known not in (None, config.num_data_classes):
        extra = " and one label for no class" if config.null_class is not None else ""
        raise InputError(
            f"model.num_classes = {num_classes}: {config.data.name} has {known} classes{extra}"
        )


def _check_held_out(config: Config) -> None:
    """Check that there are images to measure a held-out loss on, as far as the name tells."""
    asks = config.train.held_out_every_steps or HELD_OUT_LOSS in config.eval.metrics
    if asks and config.data.name == "digits" and not config.data.held_out_images:
        raise InputError(
            "a held-out loss needs images that are not trained on, and digits has no test split; "
            "set data.held_out_images, such as 360"
        )


def _check_shape(model: ModelConfig) -> None:
    """Check that the sizes of the network divide each other as they must."""
    if model.img_size % model.patch_size:
        raise InputError(
            f"model.img_size = {model.img_size} is not a multiple of "
            f"model.patch_size = {model.patch_size}"
        )
    if model.depth % 2:
        raise InputError(
            f"model.depth = {model.depth} is odd; it must be even (depth + 1 blocks are built)"
        )
    if model.embed_dim % model.num_heads:
        raise InputError(
            f"model.embed_dim = {model.embed_dim} is not a multiple of "
            f"model.num_heads = {model.num_heads}"
        )
    if model.embed_dim * model.mlp_ratio < 1:
        raise InputError(
            f"model.mlp_ratio = {model.mlp_ratio} leaves no hidden unit to an MLP; with "
            f"model.embed_dim = {model.embed_dim} allowed is 1/{model.embed_dim} or more"
        )


def _check_process(diffusion: DiffusionConfig) -> None:
    """Check that what is predicted, weighted and told belongs to the process."""
    is_flow = diffusion.process == "flow"
    allowed = FLOW_PREDICTION_TYPES if is_flow else PREDICTION_TYPES
    if diffusion.prediction_type not in allowed:
        raise InputError(
            f"diffusion.prediction_type = {diffusion.prediction_type!r}: with process = "
            f"{diffusion.process!r} allowed is {' or '.join(allowed)}"
        )
    only_ddpm = {"loss_weighting": "none", "time_labels": "steps"}
    only_flow = {"time_sampling": "uniform"}
    for name, value in (only_ddpm if is_flow else only_flow).items():
        if getattr(diffusion, name) != value:
            raise InputError(
                f"diffusion.{name} = {getattr(diffusion, name)!r} does not go with process = "
                f"{diffusion.process!r}; allowed is {value!r}"
            )


def check_sampler_of_process(sampler: str, diffusion: DiffusionConfig, origin: str) -> None:
    """Check that a sampler undoes the process that a network was trained on.

    Args:
        sampler: its name.
        diffusion: the process.
        origin: what messages call the sampler by, such as "--sampler".

    Raises:
        InputError: naming those that do.
    """
    allowed: tuple[str, ...] = SAMPLERS
    if diffusion.process == "flow":
        allowed = FLOW_SAMPLERS
    elif diffusion.time_labels == "vp_sde" and diffusion.prediction_type == "epsilon":
        allowed = (*SAMPLERS, *VP_SDE_SAMPLERS)
    if sampler not in allowed:
        what = f"diffusion.process = {diffusion.process!r}"
        if sampler in VP_SDE_SAMPLERS and diffusion.process != "flow":
            what = "a network without the U-ViT authors' labels (diffusion.time_labels = 'vp_sde')"
        raise InputError(f"{origin} {sampler!r}: with {what} allowed is {', '.join(allowed)}")


def _check_schedule(diffusion: DiffusionConfig) -> None:
    """Check that some signal is left at the last timestep: samplers divide by it."""
    if diffusion.process == "flow":
        return  # no beta concerns it
    if diffusion.beta_start > diffusion.beta_end:
        raise InputError(
            f"diffusion.beta_start = {diffusion.beta_start} is above "
            f"beta_end = {diffusion.beta_end}"
        )
    name, steps = diffusion.beta_schedule, diffusion.num_train_timesteps
    if name == "squaredcos_cap_v2":
        return  # its betas end at 0.999: a thousandth of the signal is left by the last step
    power = 2 if name == "scaled_linear" else 1
    first, last = diffusion.beta_start ** (1 / power), diffusion.beta_end ** (1 / power)
    left = 0.0  # log alphas_cumprod = sum of log(1 - beta)
    for step in range(steps):
        left += math.log1p(-((first + (last - first) * step / (steps - 1)) ** power))
        if left < LOG_SMALLEST_FLOAT32:
            raise InputError(
                f"diffusion.beta_end = {diffusion.beta_end} over diffusion.num_train_timesteps = "
                f"{steps}, {name}: alphas_cumprod is lost to float32 from step {step} on; "
                "lower one of them"
            )


def _check_step(model: ModelConfig, train: TrainConfig) -> None:
    """Check that a batch can be split, and that activations may be computed twice."""
    moves = moves_averages(model.attention, model.attention_options.normalisation)
    if train.gradient_checkpointing and moves:
        raise InputError(
            f"train.gradient_checkpointing = True: not with model.attention = {model.attention!r}, "
            "whose running averages the recomputation would move once more; allowed is False"
        )
    if train.batch_size % train.accumulation_steps:
        raise InputError(
            f"train.batch_size = {train.batch_size} is not divisible by "
            f"train.accumulation_steps = {train.accumulation_steps}"
        )


def check_images_at_a_time(config: Config, num_processes: int) -> None:
    """Check that a unit which normalises over images gets several at a time.

    Args:
        config: the config, whose batch can be divided evenly.
        num_processes: that train together.

    Raises:
        InputError: if it gets only one.
    """
    train, attention = config.train, config.model.attention
    images_at_a_time = train.batch_size // (num_processes * train.accumulation_steps)
    if normalises_over_images(attention) and images_at_a_time == 1:
        raise InputError(
            f"train.batch_size = {train.batch_size} is 1 image for each of {num_processes} "
            f"processes x train.accumulation_steps = {train.accumulation_steps}; "
            f"model.attention = {attention!r} normalises over images and needs 2 or more"
        )


def _check_average(ema: EMAConfig) -> None:
    if (ema.decay > 0) == (ema.halflife_images > 0):
        raise InputError(
            f"exactly one of ema.decay = {ema.decay} and "
            f"ema.halflife_images = {ema.halflife_images} must be above 0"
        )


def extractor_label(name: str) -> str:
    """Return what results call an extractor: "pt2" for a program, which its hash tells from others.

    The program's path stays out of results, since they are shown to others.
    """
    return "pt2" if name.startswith("pt2:") else name
