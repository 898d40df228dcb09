"""Reading image sets: scikit-learn's digits, the official CIFAR-10 archive, parquet files, image folders.

Nothing that is read can run: CIFAR-10 comes in its *binary* edition (plain bytes, no pickles), and its SHA-256 is
checked before the archive is opened. Images are decoded by Pillow after their size was looked at.
"""

import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from uvit_dia.config.schema import Config
from uvit_dia.data.image_files import _folder, _parquet
from uvit_dia.data.images import ImageSet
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import cache_folder, download, sha256_file

if TYPE_CHECKING:
    pass

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def load_image_set(
    name: str,
    path: str,
    split: str,
    *,
    img_size: int,
    in_chans: int,
    resize: bool = False,
    show_progress: bool = True,
) -> ImageSet | None:
    """Read one split of an image set.

    Args:
        name: "digits", "cifar10", "parquet" or "folder".
        path: for cifar10 the folder that holds, or will hold, the archive ("" for the user's cache); for parquet a
            file, or a folder with `train*.parquet` and `test*.parquet`; for folder a folder with one sub-folder a
            class, or with sub-folders `train` and `test` that hold them.
        split: "train" or "test".
        img_size: side of the images in pixels.
        in_chans: 1 for grey, 3 for RGB.
        resize: whether images of another size are scaled (shorter side, Lanczos) and cropped in the middle.
        show_progress: whether a bar shows downloads and decoding.

    Returns:
        The set, or None where there is no test split.

    Raises:
        InputError: if data are missing, corrupt, or not of this size and these channels.
    """
    if name == "digits":
        image_set = _digits() if split == "train" else None
    elif name == "cifar10":
        image_set = _cifar10(path, split, show_progress)
    elif name == "parquet":
        image_set = _parquet(
            Path(path),
            split,
            img_size=img_size,
            in_chans=in_chans,
            resize=resize,
            show=show_progress,
        )
    elif name == "folder":
        image_set = _folder(
            Path(path),
            split,
            img_size=img_size,
            in_chans=in_chans,
            resize=resize,
            show=show_progress,
        )
    else:
        raise InputError(f"data.name = {name!r}; allowed is digits, cifar10, parquet or folder")
    if image_set is None:
        return None
    found = tuple(image_set.images.shape[1:])
    if found != (in_chans, img_size, img_size):
        raise InputError(
            f"data.name = {name!r} has images of shape {found}; model.in_chans = {in_chans} and "
            f"model.img_size = {img_size} ask for {(in_chans, img_size, img_size)}"
        )
    return image_set


def _digits() -> ImageSet:
    """Read scikit-learn's 1,797 handwritten digits, 8x8 grey, their 17 levels spread over 0 .. 255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = torch.from_numpy(digits.target.astype(np.int64))
    return ImageSet("digits", torch.from_numpy(images), labels, tuple("0123456789"))


def _cifar10(path: str, split: str, show_progress: bool) -> ImageSet:
    """Read CIFAR-10 from the official binary archive, which is downloaded where it is missing."""
    archive = (Path(path) if path else cache_folder()) / "cifar-10-binary.tar.gz"
    if not archive.exists():
        download(CIFAR10_URL, archive, CIFAR10_SHA256, show_progress)
    try:
        found = sha256_file(archive)
    except OSError as error:
        raise InputError(f"cannot read {archive}: {error.strerror}") from error
    if found != CIFAR10_SHA256:
        raise InputError(
            f"{archive} is corrupt: SHA-256 {found[:16]}..., expected {CIFAR10_SHA256[:16]}..."
        )
    batches = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
    records = []
    with tarfile.open(archive, "r:gz") as tar:  # members are read in memory; nothing is extracted
        for batch in batches:
            member = tar.extractfile(f"cifar-10-batches-bin/{batch}.bin")
            if member is None:
                raise InputError(f"{archive} lacks {batch}.bin")
            records.append(
                np.frombuffer(member.read(), dtype=np.uint8).reshape(-1, 1 + 3 * 32 * 32)
            )
    rows = torch.from_numpy(np.concatenate(records))
    images = rows[:, 1:].reshape(-1, 3, 32, 32).contiguous()
    return ImageSet("cifar10", images, rows[:, 0].long(), CIFAR10_CLASSES)


def load_training_images(config: Config, *, show_progress: bool) -> ImageSet:
    """Read the training images of a config."""
    images = _load_images(config, "train", show_progress=show_progress)
    assert images is not None  # only a test split can be missing
    return images


def load_test_images(config: Config, *, show_progress: bool) -> ImageSet | None:
    """Read the test images of a config; None where its image set has no test split."""
    return _load_images(config, "test", show_progress=show_progress)


def _load_images(config: Config, split: str, *, show_progress: bool) -> ImageSet | None:
    return load_image_set(
        config.data.name,
        config.data.path,
        split,
        img_size=config.model.img_size,
        in_chans=config.model.in_chans,
        resize=config.data.resize,
        show_progress=show_progress,
    )
