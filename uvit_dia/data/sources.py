"""Image sets by name: scikit-learn's digits, CIFAR-10, parquet tables, folders of images.

Nothing that is read can run: there are no pickles, and images are decoded by Pillow's own decoders.
"""

import torch

from uvit_dia.config.schema import Config
from uvit_dia.config.training import DATA_NAMES, LATENTS, LISTED
from uvit_dia.data.array_files import read_array_file
from uvit_dia.data.cifar10 import read_cifar10
from uvit_dia.data.decoding import DEFAULT_BACKGROUND, ImageFormat
from uvit_dia.data.digits import read_digits
from uvit_dia.data.folders import list_folder
from uvit_dia.data.hf import list_hf
from uvit_dia.data.images import ImageSet
from uvit_dia.data.latents import read_latents
from uvit_dia.data.listed_set import set_in_map, set_in_memory
from uvit_dia.data.listing import Listing
from uvit_dia.data.paths import check_path, data_path
from uvit_dia.data.zip_images import list_zip
from uvit_dia.rng import permutation
from uvit_dia.system.errors import InputError

HELD_OUT_SEED = 0  # whatever the run's: all runs of a set hold out the same images


def load_image_set(
    name: str,
    path: str,
    split: str,
    *,
    img_size: int,
    in_chans: int,
    resize: bool = False,
    background: str = DEFAULT_BACKGROUND,
    skip_unreadable: bool = False,
    memory_map: bool = False,
    stream_images: int = 0,
    show_progress: bool = True,
) -> ImageSet | None:
    """Read one split of an image set.

    Args:
        name: one of `DATA_NAMES`.
        path: for cifar10 the archive, the folder extracted from it, or a folder that holds, or will
            hold, one of them ("" for the user's cache); for parquet a file, or a folder with train
            and test files; for folder a folder with one sub-folder a class, or with sub-folders
            train and test that hold them; for zip and npz a file; for others see `hf.py` and
            `latents.py`.
        split: "train" or "test".
        img_size: side of the images in pixels.
        in_chans: 1 for grey, 3 for RGB.
        resize: whether images of another size are scaled (shorter side, Lanczos) and cropped in the
            middle.
        background: colour behind transparent parts: "white", "black" or "#rrggbb".
        skip_unreadable: whether images that cannot be read are left out, and not refused.
        memory_map: whether the decoded images stay in a file, see `mapped_set.py`.
        stream_images: how many images are taken of a stream, see `hf_stream.py`; 0 for no stream.
        show_progress: whether a bar shows downloads and decoding.

    Returns:
        The set, or None where there is no test split.

    Raises:
        InputError: if data are missing, corrupt, or not of this size and these channels, or if
            nobody can tell which of them are meant.
    """
    if name not in DATA_NAMES:
        raise InputError(f"data.name = {name!r}; allowed is {', '.join(DATA_NAMES)}")
    check_path(name, path)
    if name in LISTED:
        listing = list_images(name, path, split, stream_images, show_progress=show_progress)
        if listing is None:
            return None
        image_format = ImageFormat(img_size, in_chans, resize, background)
        build = set_in_map if memory_map else set_in_memory
        return build(listing, image_format, skip_unreadable, show_progress)
    image_set = _read_whole(name, path, split, show_progress)
    found = None if image_set is None else image_set.shape
    if found not in (None, (in_chans, img_size, img_size)):
        raise InputError(
            f"data.name = {name!r} has images of shape {found}; model.in_chans = {in_chans} and "
            f"model.img_size = {img_size} ask for {(in_chans, img_size, img_size)}"
        )
    return image_set


def _read_whole(name: str, path: str, split: str, show_progress: bool) -> ImageSet | None:
    if name == "cifar10":
        return read_cifar10(path, split, show_progress=show_progress)
    if name == LATENTS:
        return read_latents(path, split)
    if split != "train":
        return None
    return read_digits() if name == "digits" else read_array_file(data_path(path))


def list_images(
    name: str, path: str, split: str, stream_images: int = 0, *, show_progress: bool = True
) -> Listing | None:
    """List the images of a split of one of the kinds in `LISTED`; None where there is none.

    Arguments and errors as for `load_image_set`.
    """
    if name == "hf" and stream_images:
        from uvit_dia.data.hf_stream import list_first

        return list_first(path, split, stream_images, show_progress=show_progress)
    if name == "hf":
        return list_hf(path, split)
    place = data_path(path)
    if name == "folder":
        return list_folder(place, split)
    if name == "zip":
        return list_zip(place, "data.path", has_classes=True) if split == "train" else None
    from uvit_dia.data.parquet import list_parquet

    return list_parquet(place, split)


def load_training_images(config: Config, *, show_progress: bool) -> ImageSet:
    """Read the training images of a config, without those that it holds out."""
    images = _load_images(config, "train", show_progress=show_progress)
    assert images is not None  # only a test split can be missing
    num_held_out = config.data.held_out_images
    if not num_held_out:
        return images
    kept = _held_out_order(images, num_held_out)[num_held_out:]
    return images.subset(kept, note=f"{num_held_out} more held out")


def load_test_images(config: Config, *, show_progress: bool) -> ImageSet | None:
    """Read the images of a config that are not trained on.

    Returns:
        Those that it holds out, else the test split; None where its image set has none.
    """
    num_held_out = config.data.held_out_images
    if not num_held_out:
        return _load_images(config, "test", show_progress=show_progress)
    images = _load_images(config, "train", show_progress=show_progress)
    assert images is not None
    held_out = _held_out_order(images, num_held_out)[:num_held_out]
    return images.subset(held_out, note="held out from the training set")


def _held_out_order(images: ImageSet, num_held_out: int) -> torch.Tensor:
    """Return the order of a set whose first images are held out: the same for every run's seed."""
    if num_held_out >= len(images):
        raise InputError(
            f"data.held_out_images = {num_held_out} leaves nothing of {len(images)} images to "
            "train on"
        )
    return permutation(HELD_OUT_SEED, "held-out images", 0, len(images))


def _load_images(config: Config, split: str, *, show_progress: bool) -> ImageSet | None:
    return load_image_set(
        config.data.name,
        config.data.path,
        split,
        img_size=config.model.img_size,
        in_chans=config.model.in_chans,
        resize=config.data.resize,
        background=config.data.background,
        skip_unreadable=config.data.skip_unreadable,
        memory_map=config.data.memory_map,
        stream_images=config.data.stream_images,
        show_progress=show_progress,
    )
