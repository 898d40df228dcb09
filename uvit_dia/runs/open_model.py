"""A trained model from wherever it lies: a run, an exported folder, a file of weights."""

from pathlib import Path

import torch

from uvit_dia.config.schema import Config
from uvit_dia.runs.exported import load_exported
from uvit_dia.runs.official import load_official_file
from uvit_dia.runs.sources import is_exported, is_weight_file
from uvit_dia.runs.trained_model import TrainedModel, load_run


def open_model(
    path: Path,
    *,
    config: Config | None = None,
    use_ema: bool = True,
    device: torch.device | str = "cpu",
    data_path: str | None = None,
    flag: str = "--checkpoint",
) -> TrainedModel:
    """Load a model from what `find_source` found.

    Args:
        path: of a run, a step folder, an exported folder or a file of weights.
        config: of a file of weights.
        use_ema: whether the averaged weights of a run are used.
        device: where the model shall run.
        data_path: where the training images lie, if not where the config says.
        flag: that the path was given to, for messages.

    Raises:
        InputError: if it is damaged, or not what its config says.
    """
    if is_exported(path):
        return load_exported(path, device=device, data_path=data_path)
    if config is not None and is_weight_file(path):
        return load_official_file(path, config, device=device, data_path=data_path)
    return load_run(path, use_ema=use_ema, device=device, data_path=data_path, flag=flag)
