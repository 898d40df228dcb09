"""The keys of a network and of what it learns to undo."""

from dataclasses import dataclass

from uvit_dia.config.attention import AttentionOptions
from uvit_dia.config.fields import Group, key
from uvit_dia.config.rules import ATTENTION, boolean, choice, integer, number

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")  # of DDPM
FLOW_PREDICTION_TYPES = ("velocity", "sample")
LOSS_WEIGHTINGS = ("none", "min_snr")


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
    num_classes: int = key(
        integer(-1, 10**6),
        "Labels that the network is told: the classes, and with train.label_dropout one more, the "
        "last, for no class; -1 for an unconditional network",
    )
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
        choice(*PREDICTION_TYPES, "velocity"),
        "What the network predicts: eps, v, or x_0 (sample); of flow the velocity, or x_0",
    )
    loss_weighting: str = key(choice(*LOSS_WEIGHTINGS), "How the loss weights the noise levels")
    min_snr_gamma: float = key(number(0, 1e6, above_low=True), "Gamma of min_snr, a power ratio")
    process: str = key(
        choice("ddpm", "flow"),
        "DDPM, or flow matching on straight paths, which no beta concerns",
        absent="ddpm",
    )
    time_sampling: str = key(
        choice("uniform", "logit_normal"), "How times are drawn in flow matching", absent="uniform"
    )
    logit_mean: float = key(number(-10, 10), "Mean of a logit-normal time's logit", absent=0.0)
    logit_std: float = key(
        number(0, 10, above_low=True), "Standard deviation of that logit", absent=1.0
    )
    time_labels: str = key(
        choice("steps", "vp_sde"),
        "What the network is told of a timestep: it, or 999 t of the U-ViT authors' continuous "
        "process",
        absent="steps",
    )
