"""What a trained model can be loaded from, found without torch.

A run's folder or a step folder, a folder that `uvit-dia export` wrote, the id of one on the Hugging
Face Hub, or a file with weights of the U-ViT authors. Of an exported folder only data are read, and
only data are fetched from the Hub: no code of others is run.
"""

import re
from dataclasses import replace
from pathlib import Path

from uvit_dia.cli import SamplingArguments
from uvit_dia.runs.find import check_checkpoint, is_step_folder
from uvit_dia.runs.hub import told_by_the_hub
from uvit_dia.system.errors import InputError

WEIGHT_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
INDEX = "model_index.json"  # of an exported folder, as diffusers calls it
DATA_FILES = (INDEX, "unet/config.json", "unet/*.safetensors", "scheduler/*.json")
HUB_ID = re.compile(r"[\w.\-]{1,96}/[\w.\-]{1,96}")


def is_weight_file(path: Path) -> bool:
    """Say whether a path names a file with weights alone."""
    return path.suffix.lower() in WEIGHT_SUFFIXES


def is_exported(path: Path) -> bool:
    """Say whether a path is an exported folder."""
    return (path / INDEX).is_file()


def find_source(path: Path, *, has_config: bool, flag: str = "--checkpoint") -> Path:
    """Find what a user means by a model, and fetch it if it lies on the Hub.

    Args:
        path: a run, a step folder, an exported folder, a file of weights, or an id "owner/name".
        has_config: whether a config was given, which a file of weights needs and others have.
        flag: that the path was given to, for messages.

    Returns:
        Where it lies on this machine.

    Raises:
        InputError: saying what the path is instead, or why the Hub does not give it.
    """
    if is_weight_file(path) and not path.is_dir():
        if not path.is_file():
            raise InputError(f"{flag}: no file {path}")
        for folder in (path.parent, path.parent.parent):
            if is_step_folder(folder) or is_exported(folder):  # their network is told another time
                raise InputError(f"{flag}: {path} is a part of {folder}; give that folder")
        if not has_config:
            raise InputError(
                f"{flag}: {path} holds weights alone; --config NAME says of which network, such as "
                "cifar10_uvit"
            )
        return path
    if has_config:
        raise InputError(
            f"--config goes with a file of weights ({', '.join(WEIGHT_SUFFIXES)}); "
            f"{path} has its own"
        )
    if is_exported(path):
        return path
    if _may_be_on_the_hub(path):
        return _fetch(path.as_posix(), flag)
    check_checkpoint(path, flag)
    return path


def with_source(arguments: SamplingArguments) -> SamplingArguments:
    """Return what sampling is told, with the place on this machine of what it samples from.

    Raises:
        InputError: see `find_source`.
    """
    found = find_source(arguments.checkpoint, has_config=arguments.config is not None)
    return replace(arguments, checkpoint=found)


def _may_be_on_the_hub(path: Path) -> bool:
    """Say whether a path looks like an id, and like nothing that was to lie here."""
    return bool(HUB_ID.fullmatch(path.as_posix())) and not path.parent.exists()


def _fetch(name: str, flag: str) -> Path:
    from huggingface_hub import snapshot_download

    with told_by_the_hub(f"{flag}: no folder {name}, and the Hugging Face Hub gives no such model"):
        folder = Path(snapshot_download(name, allow_patterns=list(DATA_FILES)))
    if not is_exported(folder):
        raise InputError(f"{flag}: {name} on the Hugging Face Hub is no model of uvit_dia")
    return folder
