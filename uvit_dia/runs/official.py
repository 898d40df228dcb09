"""The U-ViT authors' weights (Bao et al. 2023), as a model that samples and is measured.

They were trained in continuous time (`diffusion/vp_sde.py`), so the network is told 999 t of each
noise level; the discrete schedule of our configs, linear from 1e-4 to 0.02 in 1,000 steps, has the
same levels. Their own samplers are `euler_maruyama` (1,000 steps) and `dpm_solver` (50 calls).
"""

from dataclasses import replace
from pathlib import Path

import torch

from uvit_dia.config.schema import Config
from uvit_dia.models.build import make_model
from uvit_dia.models.official_weights import load_official
from uvit_dia.runs.find import with_paths
from uvit_dia.runs.trained_model import TrainedModel
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import expand_home, sha256_file
from uvit_dia.system.messages import clip

THEIRS = {
    "process": "ddpm",
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}


def load_official_file(
    path: Path,
    config: Config,
    *,
    device: torch.device | str = "cpu",
    data_path: str | None = None,
) -> TrainedModel:
    """Load a file of their weights into the network of a config.

    Args:
        path: a `.pth` or another file of `models/official_weights.py`.
        config: of the network, such as `cifar10_uvit`.
        device: where the model shall run.
        data_path: where the images lie that samples are measured against.

    Raises:
        InputError: if the config is not of their kind, or the file not of this network.
    """
    if config.model.attention != "none":
        raise InputError(
            f"--config: the network has a unit ({config.model.attention}), which the authors' "
            "has not; choose one without, such as cifar10_uvit"
        )
    for name, value in THEIRS.items():
        if getattr(config.diffusion, name) != value:
            raise InputError(
                f"--config: diffusion.{name} = {getattr(config.diffusion, name)!r}; the U-ViT "
                f"authors' process has {value!r}"
            )
    config = replace(config, diffusion=replace(config.diffusion, time_labels="vp_sde"))
    if data_path:
        config = with_paths(config, {"data.path": expand_home(data_path, "--data_path")})
    with torch.device("meta"):
        shapes = make_model(config)
    model = shapes.to_empty(device="cpu")
    try:
        load_official(model, path)
    except ValueError as error:
        raise InputError(f"--checkpoint: {clip(str(error), 220)}") from error
    return TrainedModel(
        model=model.to(device).eval().requires_grad_(False),  # type: ignore[arg-type]
        config=config,
        run=None,
        step=0,
        weights="official",
        sha256=sha256_file(path),
        data=None,
    )
