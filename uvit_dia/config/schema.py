"""The groups of a run's config: every key with its type, range, unit and meaning, in one place.

A config is complete and holds no other key. `checks.py` says which values must fit each other.
"""

from dataclasses import dataclass

from uvit_dia.config.attention import AttentionOptions
from uvit_dia.config.fields import Group, flat_rules, key, schema_of, shown
from uvit_dia.config.rules import (
    ATTENTION,
    BETAS,
    DISTANCES,
    METRIC_NAMES,
    Rule,
    boolean,
    choice,
    colour,
    integer,
    number,
    text,
)
from uvit_dia.system.errors import InputError, nearest

SAMPLERS = ("ddpm", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "euler", "heun", "pndm")
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
LOSS_WEIGHTINGS = ("none", "min_snr")
DATA_NAMES = ("digits", "cifar10", "parquet", "folder")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Group, prefix="model."):
    """The U-ViT, by its authors' names, and the attention unit in its blocks."""

    img_size: int = key(integer(1, 4096), "Side of an image", unit="pixels")
    patch_size: int = key(integer(1, 4096), "Side of a patch; divides img_size", unit="pixels")
    in_chans: int = key(integer(1, 64), "Channels of an image: 1 grey, 3 RGB")
    embed_dim: int = key(integer(1, 65536), "Width D of the tokens")
    depth: int = key(integer(0, 1000), "Depth of the U, an even number; depth + 1 blocks are built")
    num_heads: int = key(integer(1, 1024), "Heads of self-attention; divides embed_dim")
    mlp_ratio: float = key(number(0, 64, above_low=True), "Width of an MLP over embed_dim")
    qkv_bias: bool = key(boolean(), "Bias of queries, keys and values")
    mlp_time_embed: bool = key(boolean(), "An MLP on the time embedding")
    num_classes: int = key(integer(-1, 10**6), "Classes that the network is told of; -1 for none")
    conv: bool = key(boolean(), "A 3x3 convolution after the last block")
    skip: bool = key(boolean(), "Long skip connections of the U")
    residual: bool = key(boolean(), "Residual connections in the blocks")
    layer_norm: bool = key(boolean(), "Layer normalisation in the blocks")
    attention: str = key(ATTENTION, "Attention unit; MODULE:CLASS for one of your own")
    attention_options: AttentionOptions


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig(Group, prefix="diffusion."):
    """The forward process, by diffusers' names, and what the network learns to predict."""

    num_train_timesteps: int = key(integer(2, 10**6), "T, the number of noise levels", unit="steps")
    beta_schedule: str = key(choice(*BETA_SCHEDULES), "Schedule; squaredcos_cap_v2 is the cosine")
    beta_start: float = key(number(0, 1, above_low=True), "First beta; the cosine ignores it")
    beta_end: float = key(number(0, 0.999999, above_low=True), "Last beta; the cosine ignores it")
    prediction_type: str = key(
        choice(*PREDICTION_TYPES), "What the network predicts: eps, v, or x_0 (sample)"
    )
    loss_weighting: str = key(choice(*LOSS_WEIGHTINGS), "How the loss weights the noise levels")
    min_snr_gamma: float = key(number(0, 1e6, above_low=True), "Gamma of min_snr, a power ratio")


@dataclass(frozen=True, kw_only=True)
class DataConfig(Group, prefix="data."):
    """The training images."""

    name: str = key(choice(*DATA_NAMES), "Kind of image set")
    path: str = key(text(), "Where it lies; empty for digits and for CIFAR-10 in the user's cache")
    resize: bool = key(boolean(), "Scale and crop images of another size")
    background: str = key(colour(), "Colour behind transparent parts of images", absent="white")
    skip_unreadable: bool = key(
        boolean(), "Leave out images that cannot be read, instead of refusing the set", absent=False
    )
    held_out_images: int = key(
        integer(0, 10**8),
        "Training images that are not trained on and take the place of a test split; 0 for none",
        unit="images",
        absent=0,
    )
    random_flip: bool = key(boolean(), "Mirror each image left to right with probability 1/2")
    on_device: bool = key(boolean(), "Keep the images in the accelerator's memory")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Group, prefix="optimizer."):
    """AdamW and its learning rate."""

    learning_rate: float = key(number(0, 1e3, above_low=True), "Highest learning rate")
    lr_schedule: str = key(
        choice("constant", "cosine"),
        "Learning rate after the warm-up; cosine falls to 0 at the last step",
    )
    warmup_steps: int = key(
        integer(0), "Length of the warm-up, a linear rise of the learning rate", unit="steps"
    )
    betas: tuple[float, float] = key(BETAS, "Decay of the two moments a step")
    eps: float = key(number(0, 1, above_low=True), "Added to the root of the second moment")
    weight_decay: float = key(number(0, 1e3), "Decoupled decay of the weights")
    max_grad_norm: float = key(number(0, 1e9), "2-norm to which gradients are clipped; 0 for never")


@dataclass(frozen=True, kw_only=True)
class EMAConfig(Group, prefix="ema."):
    """The moving average of the weights; exactly one of decay and halflife_images is above 0."""

    decay: float = key(number(0, 0.99999999), "Weight of the old average a step")
    halflife_images: int = key(
        integer(0, 10**12), "Half-life, the same at every batch size", unit="images"
    )
    rampup_ratio: float = key(
        number(0, 1e6), "Bound of the half-life as a share of the images seen so far; 0 for none"
    )


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Group, prefix="train."):
    """How long a run is, how it computes, and what it writes."""

    batch_size: int = key(
        integer(1, 10**7), "Batch of a step, over all processes together", unit="images"
    )
    num_steps: int = key(integer(1, 2**32 - 1), "Length of the run", unit="steps")
    accumulation_steps: int = key(
        integer(1, 10**6),
        "Parts into which a process splits its share of the batch, which stays the same",
        unit="parts",
    )
    mixed_precision: str = key(
        choice("no", "bf16", "auto"),
        "Precision of the network, whose weights are float32; auto: bf16 on a GPU that has it, "
        "else no",
    )
    compile: bool | str = key(
        boolean("auto"),
        "Compile the network with torch.compile; auto: on a GPU, if there is a compiler",
    )
    gradient_checkpointing: bool = key(boolean(), "Compute activations twice to save memory")
    log_every_steps: int = key(integer(1), "Distance between log lines", unit="steps")
    checkpoint_every_steps: int = key(integer(1), "Distance between checkpoints", unit="steps")
    keep_checkpoints: int = key(integer(2, 10**6), "How many of the newest checkpoints are kept")
    sample_every_steps: int = key(
        integer(0), "Distance between sample grids; 0 for none", unit="steps"
    )
    eval_every_steps: int = key(
        integer(0), "Distance between evaluations; 0 for none", unit="steps"
    )
    held_out_every_steps: int = key(
        integer(0),
        "Distance between measurements of the held-out loss alone; 0 for none",
        unit="steps",
        absent=0,
    )
    tracker: str = key(choice("tensorboard", "none"), "Where the log goes, beside metrics.jsonl")


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Group, prefix="sample."):
    """How images are sampled."""

    sampler: str = key(choice(*SAMPLERS), "Scheduler of diffusers")
    num_steps: int = key(
        integer(1, 10**6),
        "num_inference_steps; heun and pndm call the network more often",
        unit="steps",
    )
    eta: float = key(number(0, 1), "Share of fresh noise in ddim; 0 is deterministic")
    variance_type: str = key(
        choice("fixed_small", "fixed_large"), "Variance of ddpm (Ho et al. 2020, Sec. 3.2)"
    )
    clip_sample: bool = key(boolean(), "ddpm and ddim clip their estimate of x_0 to [-1, 1]")
    seed: int = key(integer(0, 2**31 - 1), "With an image's index it decides the image's noise")
    batch_size: int = key(integer(1, 10**6), "Images sampled at a time")
    grid_images: int = key(integer(1, 4096), "Images in a sample grid")


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Group, prefix="eval."):
    """How samples are measured."""

    num_images: int = key(
        integer(1, 10**8), "N, how many images are sampled for a measurement", unit="images"
    )
    metrics: tuple[str, ...] = key(
        METRIC_NAMES, "Metrics: torch-fidelity's by their names, and held_out_loss"
    )
    extractor: str = key(
        text(),
        "Feature extractor: inception-v3-compat, digits, vgg16, a CLIP, or pt2:PATH",
    )
    weights: str = key(text(), "Path of its published weights; empty for torch-fidelity's place")
    batch_size: int = key(integer(1, 10**6), "Images given to the extractor at a time")

    @property
    def distances(self) -> tuple[str, ...]:
        """The metrics of sampled images."""
        return tuple(name for name in self.metrics if name in DISTANCES)


@dataclass(frozen=True, kw_only=True)
class Config(Group):
    """All that a run is.

    `checks.make_config` makes it, from whatever source.
    """

    seed: int = key(integer(0, 2**31 - 1), "Decides everything random in the training")
    model: ModelConfig
    diffusion: DiffusionConfig
    data: DataConfig
    optimizer: OptimizerConfig
    ema: EMAConfig
    train: TrainConfig
    sample: SampleConfig
    eval: EvalConfig


RULES: dict[str, Rule] = dict(flat_rules(schema_of(Config)))  # by dotted key


def rule_of(name: str) -> Rule:
    """Return the rule of a dotted key.

    Raises:
        InputError: if no config has it, with the nearest one, or if it is a group of keys.
    """
    if name in RULES:
        return RULES[name]
    for other in RULES:
        if other.startswith(name + "."):
            raise InputError(f"--config.{name} is a group of keys, such as --config.{other}")
    raise InputError(f"unknown config key {shown(name, str)}{nearest(name, RULES)}")
