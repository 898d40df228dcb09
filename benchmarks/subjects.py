"""What is measured: configs of three sizes, and trainers of them on random images."""

import contextlib
import importlib
import io
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from uvit_dia.config.checks import make_config
from uvit_dia.config.schema import Config, ModelConfig
from uvit_dia.data.batches import TrainingBatches
from uvit_dia.data.images import ImageSet
from uvit_dia.diffusion import make_process
from uvit_dia.models.build import make_model
from uvit_dia.runs.data_identity import DataIdentity
from uvit_dia.runs.folder import RunFolder
from uvit_dia.runs.resume import RunCheckpoints
from uvit_dia.training.log import TrainLog
from uvit_dia.training.optimizer import make_optimizer
from uvit_dia.training.trainer import Trainer

# name -> config, batch size on a CPU, batch size on CUDA (that of the config)
SIZES = {
    "large": ("cifar10_uvit_dia", 8, 128),
    "small": ("cifar10_small_uvit_dia", 64, 128),
    "digits": ("digits_uvit_dia", 64, 64),
}
UNITS = ("none", "dia_lstm", "dia_lstm_light")
AUTHORS_ARGUMENTS = (
    *("img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads", "mlp_ratio"),
    *("qkv_bias", "mlp_time_embed", "num_classes", "conv", "skip"),
)
NEVER = 10**9  # steps between log lines: what a step does besides is not measured
TINY: dict[str, object] = {
    "model.embed_dim": 16,
    "model.depth": 2,
    "model.num_heads": 2,
    "train.batch_size": 4,
}


def config_of(
    size: str,
    unit: str = "none",
    *,
    device: torch.device,
    batch_size: int = 0,
    short: bool = False,
    changes: Mapping[str, object] | None = None,
) -> Config:
    """Return the config of a size with a unit.

    Args:
        size: one of `SIZES`.
        unit: its `model.attention`.
        device: decides the batch size, unless that is given.
        batch_size: 0 for that of `SIZES`.
        short: whether the network is tiny.
        changes: keys of the config with their values.
    """
    name, on_cpu, on_cuda = SIZES[size]
    values = importlib.import_module(f"configs.{name}").get_config()
    values.update_from_flattened_dict(
        {
            "model.attention": unit,
            "train.batch_size": batch_size or (on_cuda if device.type == "cuda" else on_cpu),
            "train.num_steps": NEVER,
            "train.log_every_steps": NEVER,
            "train.sample_every_steps": 0,
            "train.tracker": "none",
            **(TINY if short else {}),
            **(changes or {}),
        }
    )
    return make_config(values.to_dict())


def random_images(model: ModelConfig, count: int = 1024) -> ImageSet:
    """Return random images of a model's shape, for the speed of anything but learning."""
    shape = (count, model.in_chans, model.img_size, model.img_size)
    generator = torch.Generator().manual_seed(0)
    return ImageSet("random", torch.randint(256, shape, generator=generator, dtype=torch.uint8))


def make_trainer(config: Config, accelerator: Accelerator, folder: Path) -> Trainer:
    """Make the trainer of a config on random images, which lie on the device."""
    images = random_images(config.model)
    identity = DataIdentity.of(images)
    images = ImageSet(images.name, images.images.to(accelerator.device))
    run = RunFolder(folder)
    train, device = config.train, accelerator.device
    log = TrainLog(
        accelerator,
        run,
        batch_size=train.batch_size,
        num_steps=train.num_steps,
        show_progress=False,
    )
    model = make_model(config)
    batches = TrainingBatches(
        images,
        train.batch_size,
        seed=config.seed,
        random_flip=config.data.random_flip,
        device=device,
    )
    return Trainer(
        accelerator,
        model,
        make_optimizer(model, config.optimizer),
        diffusion=make_process(config.diffusion, device),
        batches=batches,
        config=config,
        checkpoints=RunCheckpoints(run, config, data=identity, num_processes=1, warn=log.warn),
        log=log,
    )


def other_uvit(folder: Path, module: str, config: ModelConfig) -> nn.Module:
    """Make the network of another repository, whose class `UViT` takes the authors' arguments.

    Args:
        folder: a checkout of the repository, put before all others on the path.
        module: that holds the class, such as "libs.uvit".
        config: of the model; the unit is left out.
    """
    sys.path.insert(0, str(folder))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            found = importlib.import_module(module).UViT
    finally:
        sys.path.remove(str(folder))
    arguments = {name: getattr(config, name) for name in AUTHORS_ARGUMENTS}
    return found(**arguments)
