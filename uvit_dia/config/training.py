"""The keys of a training: images, optimizer, average, length, precision, what is written."""

from dataclasses import dataclass

from uvit_dia.config.fields import Group, key
from uvit_dia.config.rules import BETAS, boolean, choice, colour, integer, number, text

LATENTS = "latents"
DATA_NAMES = ("digits", "cifar10", "parquet", "folder", "zip", "npz", "hf", LATENTS)
LISTED = ("parquet", "folder", "zip", "hf")  # kinds whose images are decoded one by one


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
    memory_map: bool = key(
        boolean(),
        "Decode the set into a file of the cache and read batches from there: for sets that are "
        "larger than memory",
        absent=False,
    )
    stream_images: int = key(
        integer(0, 10**8),
        "Of a set of kind hf, take the first so many images of its stream, without downloading the "
        "rest; 0 reads the set whole",
        unit="images",
        absent=0,
    )
    stream_all: bool = key(
        boolean(),
        "Train on the whole stream, data.stream_images at a time, of which the first stand for the "
        "set elsewhere",
        absent=False,
    )
    vae: str = key(
        text(),
        "Autoencoder of latents, a folder or an id on the Hub; empty for the one that the latents' "
        "description names",
        absent="",
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
    label_dropout: float = key(
        number(0, 0.999),
        "Share of images whose label is replaced by 'no class', which guidance needs",
        absent=0.0,
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
    tracker: str = key(
        choice("tensorboard", "wandb", "trackio", "none"),
        "Where the log goes, beside metrics.jsonl",
    )
