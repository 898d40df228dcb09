"""An exported folder read as data: its weights and what its index says of the run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from uvit_dia.config.checks import make_config
from uvit_dia.config.files import MAX_CONFIG_BYTES
from uvit_dia.config.schema import Config
from uvit_dia.models.build import make_model
from uvit_dia.models.official_weights import MAX_WEIGHT_FILE_BYTES, differences
from uvit_dia.runs.data_identity import DataIdentity
from uvit_dia.runs.find import with_paths
from uvit_dia.runs.sources import INDEX
from uvit_dia.runs.trained_model import TrainedModel
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import expand_home, sha256_file
from uvit_dia.system.messages import clip
from uvit_dia.system.notices import warn

DESCRIPTION = "uvit_dia"  # the key of the index under which the run describes itself
WEIGHTS = Path("unet") / "diffusion_pytorch_model.safetensors"


def load_exported(
    folder: Path, *, device: torch.device | str = "cpu", data_path: str | None = None
) -> TrainedModel:
    """Load the model of a folder that `uvit-dia export` wrote; the code in it is not run.

    Args:
        folder: the folder.
        device: where the model shall run.
        data_path: where the training images lie, if not where the config says.

    Raises:
        InputError: if a file is missing, damaged, or of another network.
    """
    description = read_description(folder)
    config = _config(description, folder)
    if data_path:
        config = with_paths(config, {"data.path": expand_home(data_path, "--data_path")})
    path = folder / WEIGHTS
    with torch.device("meta"):  # a config may claim a size that no memory has
        expected = make_model(config).state_dict()
    tensors = _tensors(path, expected)
    model = make_model(config)
    model.load_state_dict(tensors, strict=True)
    sha256 = sha256_file(path)
    if sha256 != description.get("weights_sha256"):
        warn(f"{path} is not the file that was exported: its weights were changed since")
    step = description.get("step")
    return TrainedModel(
        model=model.to(device).eval().requires_grad_(False),  # type: ignore[arg-type]
        config=config,
        run=None,
        step=step if isinstance(step, int) else 0,
        weights=str(description.get("weights", "exported")),
        sha256=sha256,
        data=DataIdentity.from_dict(description.get("data")),
    )


def read_description(folder: Path) -> Mapping[str, Any]:
    """Return what an exported folder's index says of its run.

    Raises:
        InputError: if it cannot be read, or is the index of another kind of model.
    """
    path = folder / INDEX
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise InputError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
        index = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {clip(str(error), 80)}") from error
    found = index.get(DESCRIPTION) if isinstance(index, dict) else None
    if not isinstance(found, dict):
        raise InputError(f"{path} is of another kind of model: it has no {DESCRIPTION!r}")
    return found


def _config(description: Mapping[str, Any], folder: Path) -> Config:
    tree = description.get("config")
    if not isinstance(tree, dict):
        raise InputError(f"{folder / INDEX} holds no config")
    try:
        return make_config(tree, str(folder / INDEX))
    except RecursionError as error:
        raise InputError(f"{folder / INDEX} is not a config") from error


def _tensors(path: Path, expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Read the weights, strictly: every tensor in its shape and type, and no other."""
    if not path.is_file():
        raise InputError(f"no weight file at {path}")
    if path.stat().st_size > MAX_WEIGHT_FILE_BYTES:
        raise InputError(f"{path} has more than {MAX_WEIGHT_FILE_BYTES} bytes")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"cannot read weights from {path}: {clip(str(error), 80)}") from error
    problems = differences(tensors, expected)
    if problems:
        raise InputError(f"{path} holds no weights of this network: {clip('; '.join(problems))}")
    return tensors
