"""Trained models out of run folders, for sampling and evaluation: everything that is read is data, and checked."""

from dataclasses import dataclass
from pathlib import Path

import torch

from uvit_dia.config.files import read_config_json
from uvit_dia.config.schema import Config
from uvit_dia.models import UViT
from uvit_dia.models.build import make_model
from uvit_dia.runs.checkpoint import Checkpoint, Warn, check_tensors, newest_valid, verify
from uvit_dia.system.errors import InputError


@dataclass(frozen=True)
class TrainedModel:
    """A model with the weights of a checkpoint, in evaluation mode.

    Attributes:
        model: on the device.
        config: of its run.
        run: the run's folder, or None for a step folder that lies elsewhere.
        step: optimizer steps that went into it.
        weights: "ema" or "model".
        sha256: of the weight file.
    """

    model: UViT
    config: Config
    run: Path | None
    step: int
    weights: str
    sha256: str


def find_checkpoint(path: Path, warn: Warn) -> Checkpoint:
    """Find and verify the checkpoint that a `--checkpoint` means: a run (its newest), or a step folder.

    Raises:
        InputError: if there is none, or none that is undamaged.
    """
    if not path.is_dir():
        raise InputError(f"--checkpoint: no folder {path}")
    if (path / "manifest.json").is_file():
        return verify(path)
    if not (path / "config.json").is_file():
        raise InputError(f"--checkpoint: {path} is neither a run nor a step folder")
    checkpoint = newest_valid(path / "checkpoints", warn)
    if checkpoint is None:
        raise InputError(f"--checkpoint: the run {path} has no checkpoint yet")
    return checkpoint


def load_trained(
    checkpoint: Checkpoint, *, use_ema: bool = True, device: torch.device | str = "cpu"
) -> TrainedModel:
    """Load a checkpoint's weights into the model that its config describes.

    Raises:
        InputError: if config or weights are not those of a U-ViT of ours.
    """
    config = read_config_json(checkpoint.folder / "config.json")
    model = make_model(config)
    weights = "ema" if use_ema else "model"
    check_tensors(checkpoint, weights, model.state_dict())
    model.load_state_dict(checkpoint.tensors(weights), strict=True)
    parent = checkpoint.folder.resolve().parent
    is_in_run = parent.name == "checkpoints" and (parent.parent / "config.json").is_file()
    return TrainedModel(
        # diffusers' decorator hides the signature of `to`
        model=model.to(device).eval().requires_grad_(False),  # type: ignore[arg-type]
        config=config,
        run=parent.parent if is_in_run else None,
        step=checkpoint.step,
        weights=weights,
        sha256=checkpoint.manifest["files"][f"{weights}.safetensors"]["sha256"],
    )
