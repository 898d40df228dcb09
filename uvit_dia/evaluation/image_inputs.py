"""What `--images` and `--reference` mean, found and checked before torch is imported."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from uvit_dia.config.checks import make_config
from uvit_dia.config.files import read_config_json, run_config_file
from uvit_dia.config.flag import told_in_one_line
from uvit_dia.config.places import config_path
from uvit_dia.config.schema import Config
from uvit_dia.data.arrays import array_headers, image_array
from uvit_dia.data.folders import list_folder
from uvit_dia.data.listing import Listing
from uvit_dia.data.paths import check_paths
from uvit_dia.data.zip_images import list_zip
from uvit_dia.runs.find import find_paths, with_paths
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import user_path

if TYPE_CHECKING:
    from uvit_dia.evaluation.statistics import Statistics

IMAGES, REFERENCE, SAVE = "--images", "--reference", "--save_stats"
_ALLOWED = {
    IMAGES: "a folder of images, an .npz or a .zip",
    REFERENCE: "a folder of images, an .npz, a .zip, statistics, a config, or a run",
}


@dataclass(frozen=True)
class ImageInput:
    """Images, or what stands for them; one of the last four is set.

    Attributes:
        flag: that it was given to.
        path: the file or folder.
        listing: of images in files.
        array: name of the array of images in an .npz.
        statistics: of their features, in place of the images.
        config: whose training images they are.
    """

    flag: str
    path: Path
    listing: Listing | None = None
    array: str = ""
    statistics: "Statistics | None" = None
    config: Config | None = None


def find_images(text: str) -> ImageInput:
    """Find what `--images` means.

    Raises:
        InputError: if there are no images, or they may not be read.
    """
    path = user_path(text, IMAGES)
    if _is_run(path):
        raise InputError(f"{IMAGES}: {path} is a run; --checkpoint {path} samples from it")
    found = _find_files(path, IMAGES)
    if found is None:
        raise InputError(f"{IMAGES}: {path} is none of {_ALLOWED[IMAGES]}")
    if found.statistics is not None:
        raise InputError(f"{IMAGES}: {path} holds statistics; they go to {REFERENCE}")
    return found


def find_reference(text: str) -> ImageInput:
    """Find what `--reference` means; a config is code, and is run.

    Raises:
        InputError: if there is no such thing, or it may not be read.
    """
    file = config_path(text, flag=REFERENCE) if _may_be_config(text) else ""
    if file:
        with told_in_one_line(file):
            config = make_config(run_config_file(file).to_dict())
        config = with_paths(config, find_paths(config, None))
        check_paths(config.data)
        return ImageInput(REFERENCE, Path(file), config=config)
    path = user_path(text, REFERENCE)
    if _is_run(path):  # data, not code
        config = read_config_json(path / "config.json")
        config = with_paths(config, find_paths(config, path))
        check_paths(config.data)
        return ImageInput(REFERENCE, path, config=config)
    found = _find_files(path, REFERENCE)
    if found is None:
        raise InputError(f"{REFERENCE}: {path} is none of {_ALLOWED[REFERENCE]}")
    return found


def _may_be_config(text: str) -> bool:
    """Say whether a text is a config's file or name, and not a file or folder of images."""
    is_python = text.partition(":")[0].endswith(".py")
    is_name = text.partition(":")[0].replace("-", "_").isidentifier()
    return is_python or (is_name and not user_path(text, REFERENCE).exists())


def _is_run(path: Path) -> bool:
    return (path / "config.json").is_file() and (path / "checkpoints").is_dir()


def _find_files(path: Path, flag: str) -> ImageInput | None:
    if not path.exists():
        raise InputError(f"{flag}: no file or folder {path}; allowed is {_ALLOWED[flag]}")
    if path.is_dir():
        try:
            listing = list_folder(path, "train")
        except InputError as error:
            raise InputError(str(error).replace("data.path", flag)) from error
        if listing is None or listing.unreadable:
            reason = listing.unreadable[0] if listing else "it has no images for training"
            raise InputError(f"{flag}: {reason}")
        return ImageInput(flag, path, listing=listing)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        headers = array_headers(path, flag)
        if "mu" in headers or "sigma" in headers:
            from uvit_dia.evaluation.statistics import read_statistics  # needs NumPy

            return ImageInput(flag, path, statistics=read_statistics(path, flag))
        return ImageInput(flag, path, array=image_array(headers, path, flag))
    if suffix == ".zip":
        return ImageInput(flag, path, listing=list_zip(path, flag))
    return None


def check_save(text: str) -> Path:
    """Return where statistics are to be written.

    Raises:
        InputError: if that is no .npz in a folder that can be written to.
    """
    path = user_path(text, SAVE)
    if path.suffix.lower() != ".npz" or path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{SAVE} {path}: must be an .npz in a folder that is there")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{SAVE} {path}: cannot write to the folder {path.parent}")
    return path
