"""Train diffusers' UNet2DModel on noise prediction, with or without shared attention units.

    python -m examples.unet --workdir runs/unet_digits --unit dia_lstm
    accelerate launch -m examples.unet --workdir runs/unet_cifar10 --data cifar10 --size ddpm \
        --unit dia_lstm

The unit gates the last convolution of each residual block: `x + f(x)` becomes `x + f(x) ⊗ h`, Eq. 4
of arXiv:2210.16101, which names the UNet and gives no details. Consecutive blocks of one width and
size share a unit: those of each level on the way down, the deepest level with the middle, and those
of each level on the way up. The same command again goes on after the last whole epoch.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import UNet2DModel
from torch import Tensor, nn

from examples.classification_data import ImagesInMemory, load_data
from examples.classification_recipes import ByRecipe, Recipe
from examples.command import command_parser
from examples.training import train
from examples.unit_options import add_unit_arguments, put_unit, unit_options
from uvit_dia.config.schema import DiffusionConfig
from uvit_dia.data.images import to_model_range
from uvit_dia.diffusion import make_process
from uvit_dia.models.units.registry import ATTENTION_NAMES
from uvit_dia.rng import normal_rows, permutation
from uvit_dia.system.errors import InputError

DATA_NAMES = ("digits", "cifar10", "parquet")
RECIPE = Recipe(
    optimizer="adamw",
    learning_rate=2e-4,  # Appendix B of arXiv:2006.11239
    weight_decay=0.0,
    batch_size=128,
    num_epochs=100,
    milestones=(),
    warmup_epochs=1,
    crop="none",
    flip=False,
)
# The process of arXiv:2006.11239, Sec. 4.
PROCESS = DiffusionConfig(
    num_train_timesteps=1000,
    beta_schedule="linear",
    beta_start=1e-4,
    beta_end=0.02,
    prediction_type="epsilon",
    loss_weighting="none",
    min_snr_gamma=5.0,
)
SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 8,
    },
    # of arXiv:2006.11239 on CIFAR-10, 35.7 million weights
    "ddpm": {
        "block_out_channels": (128, 256, 256, 256),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": None,
        "norm_eps": 1e-6,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
    },
}
EVAL_SEED = 0  # of the noise that all runs are measured with


def unet_targets(model: nn.Module) -> dict[str, list[str]]:
    """Return the places of the units for `share_attention`, by stage and in the data's order.

    `named_modules` tells the middle last, so that a pattern would give another order.

    Args:
        model: a UNet2DModel of blocks with ResNets, as all its blocks but KDownBlock2D and the
            like have them.
    """
    stages: dict[str, list[str]] = {}

    def add(stage: str, block: str) -> None:
        resnets = model.get_submodule(f"{block}.resnets").named_children()
        names = [f"{block}.resnets.{index}.conv2" for index, _ in resnets]
        stages.setdefault(stage, []).extend(names)

    deepest = len(list(model.get_submodule("down_blocks").children())) - 1
    for level in range(deepest + 1):
        add(f"down{level}" if level < deepest else "deepest", f"down_blocks.{level}")
    if getattr(model, "mid_block", None) is not None:
        add("deepest", "mid_block")
    for level in range(deepest + 1):
        add(f"up{level}" if level else "deepest", f"up_blocks.{level}")
    return stages


@dataclass(frozen=True)
class NoisedImages:
    """A share of a batch.

    Attributes:
        x_t: (b, C, H, W) noised images.
        target: (b, C, H, W) what the network should predict.
        timesteps: (b,) int64.
    """

    x_t: Tensor
    target: Tensor
    timesteps: Tensor


class Denoising(ByRecipe):
    """A UNet in training, as `training.fit` takes it.

    Args:
        model: the network.
        data: images; their classes are not used.
        recipe: of the training.
        facts: all that the run is.
        seed: of order, noise and timesteps.
        eval_every_epochs: distance between evaluations.
    """

    max_grad_norm = 1.0  # as the released code of arXiv:2006.11239

    def __init__(
        self,
        model: nn.Module,
        data: ImagesInMemory,
        recipe: Recipe,
        facts: Mapping[str, object],
        *,
        seed: int,
        eval_every_epochs: int,
    ) -> None:
        self.model, self.data, self.recipe = model, data, recipe
        self.facts, self.seed, self.eval_every_epochs = facts, seed, eval_every_epochs
        self.num_epochs, self.batch_size = recipe.num_epochs, recipe.batch_size

    def num_batches(self) -> int:
        """Return how many steps an epoch has."""
        return self.data.num_batches()

    def batches(self, epoch: int, accelerator: Accelerator) -> Iterator[NoisedImages]:
        """Yield this process's share of each batch of an epoch."""
        images = self.data.train.images
        order = permutation(self.seed, "unet order", epoch, len(images))
        share = self.batch_size // accelerator.num_processes
        start = accelerator.process_index * share
        for index in range(self.num_batches()):
            rows = range(start, start + share)
            chosen = images[order[index * self.batch_size :][start : start + share]]
            step = epoch * self.num_batches() + index
            yield noised(chosen, self.seed, step, rows, self.batch_size, accelerator.device)

    def loss(self, model: nn.Module, batch: NoisedImages) -> Tensor:
        """Return the mean squared error of the predicted noise, ()."""
        predicted = model(batch.x_t, batch.timesteps).sample
        return (predicted.float() - batch.target).square().mean()

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, Any]:
        """Return the loss on the test images, with the same noise for all runs."""
        images, total = self.data.test.images, 0.0
        for index, part in enumerate(images.split(self.batch_size)):
            rows = range(len(part))
            batch = noised(part, EVAL_SEED, index, rows, self.batch_size, device)
            total += float(self.loss(model, batch)) * len(part)
        return {"test_loss": total / len(images), "num_test": len(images)}


def noised(
    images: Tensor, seed: int, step: int, rows: range, batch_size: int, device: torch.device
) -> NoisedImages:
    """Noise images, by draws that belong to positions in a global batch.

    Args:
        images: (b, C, H, W) uint8.
        seed: of noise and timesteps.
        step: of the optimizer.
        rows: positions of the images.
        batch_size: global.
        device: where the network computes; the noise is drawn on the CPU.
    """
    process = make_process(PROCESS)
    x_0 = to_model_range(images)
    eps = normal_rows(seed, "unet eps", step, rows, batch_size, tuple(x_0.shape[1:]))
    timesteps = process.draw_timesteps(seed, step, rows, batch_size)
    x_t, target = process.add_noise(x_0, eps, timesteps), process.target(x_0, eps, timesteps)
    return NoisedImages(x_t.to(device), target.to(device), timesteps.to(device))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = command_parser("unet", __doc__)
    made.add_argument("--workdir", required=True, help="folder of the run")
    made.add_argument("--data", default="digits", choices=DATA_NAMES)
    made.add_argument("--path", default="", help="where the data lie")
    made.add_argument("--num_train", type=int, help="training images that are used, not all")
    made.add_argument("--size", default="small", choices=SIZES)
    add_unit_arguments(made, ATTENTION_NAMES)
    made.add_argument("--num_epochs", type=int, default=RECIPE.num_epochs)
    made.add_argument("--batch_size", type=int, default=RECIPE.batch_size)
    made.add_argument("--learning_rate", type=float, default=RECIPE.learning_rate)
    made.add_argument("--eval_every_epochs", type=int, default=1)
    made.add_argument("--seed", type=int, default=0, help="of weights, order and noise")
    return made


def make_unet(size: str, in_chans: int, img_size: int) -> nn.Module:
    """Make a UNet of one of `SIZES`.

    Args:
        size: its name.
        in_chans: channels of the images.
        img_size: their side in pixels.

    Raises:
        InputError: if the images cannot be halved as often as the network does.
    """
    halvings = len(SIZES[size]["block_out_channels"]) - 1
    if img_size % 2**halvings or img_size // 2**halvings < 2:
        raise InputError(f"--size {size}: images of {img_size} pixels cannot be halved {halvings}x")
    made: Any = UNet2DModel(  # diffusers tells type checkers of a model without torch's methods
        sample_size=img_size, in_channels=in_chans, out_channels=in_chans, **SIZES[size]
    )
    return made


def make_task(arguments: argparse.Namespace) -> Denoising:
    """Make what a command line asks for: data, network, units.

    Raises:
        InputError: if something does not fit.
    """
    least = {"num_epochs": 1, "batch_size": 1, "learning_rate": 0, "eval_every_epochs": 1}
    for name, lowest in {**least, "seed": 0}.items():
        if not lowest <= getattr(arguments, name) < 2**31:
            raise InputError(f"--{name} {getattr(arguments, name)}: allowed is {lowest} or more")
    options = unit_options(arguments)
    chosen = {name: getattr(arguments, name) for name in list(least)[:3]}
    recipe = replace(RECIPE, **chosen)
    seed, num_train = arguments.seed, arguments.num_train
    data = load_data(
        arguments.data, arguments.path, recipe, augments=False, seed=seed, num_train=num_train
    )
    assert isinstance(data, ImagesInMemory)  # all of DATA_NAMES are
    torch.manual_seed(seed)
    model = make_unet(arguments.size, data.in_chans, data.img_size)
    num_weights = 0
    if arguments.unit != "none":
        shared = not arguments.unshared
        unit = put_unit(model, unet_targets(model), arguments.unit, shared=shared, **options)
        num_weights = unit.num_weights()
    moves = ("workdir", "path")
    facts = {
        **{name: value for name, value in vars(arguments).items() if name not in moves},
        "train_sha256": data.fingerprint(),
        "recipe": asdict(recipe),
        "unit_weights": num_weights,
        "weights": sum(p.numel() for p in model.parameters()),
    }
    every = arguments.eval_every_epochs
    return Denoising(model, data, recipe, facts, seed=seed, eval_every_epochs=every)


def main(argv: list[str] | None = None) -> None:
    """Train as the command line says; wrong input ends with one line and exit code 2."""
    arguments = parser().parse_args(argv)
    train("unet", lambda: make_task(arguments), arguments.workdir)


if __name__ == "__main__":
    main()
