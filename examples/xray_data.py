"""X-rays, or other images, with findings: an `.npz` as MedMNIST's, a table of files, or folders.

    .npz      train_images, test_images: uint8 (N, H, W) or (N, H, W, 3); train_labels, test_labels:
              integers (N,) or (N, 1), one class an image, or 0 and 1 (N, K), findings of which an
              image has any number; if they are there, class_names and test_masks, 0 outside,
              (N, H, W) or (N, K, H, W)
    folder    with a table of its files: see `xray_table`
    folder    train and test (or val), each with one folder a class

No pickles are read. What is called a mask shows where a finding is; Grad-CAM is held against it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from examples.xray_table import MaskFolder, find_table, read_table
from uvit_dia.data.arrays import ArrayHeader, array_headers, read_array
from uvit_dia.data.images import ImageSet, in_order
from uvit_dia.data.sources import list_images, load_image_set
from uvit_dia.system.errors import InputError

FOLDER_SIDE = 224
FLAG = "--path"


@dataclass(frozen=True)
class XrayData:
    """A training and a test set with findings.

    Attributes:
        train: images and labels: int64, (N,) of classes, or (N, K) of 0 and 1.
        test: likewise.
        class_names: K of them.
        masks: of the test images, bool (N, H, W), or (N, K, H, W) with one a finding; None where
            there are none.

    Raises:
        InputError: if labels do not fit images, classes or each other.
    """

    train: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    masks: Tensor | None = None

    def __post_init__(self) -> None:
        for part, images in (("train", self.train), ("test", self.test)):
            _check_labels(part, images, len(self.class_names), self.is_multi_label)
        if self.train.shape != self.test.shape:
            raise InputError(
                f"{FLAG}: training images are {self.train.shape}, test images {self.test.shape} "
                "(channels, height, width); make them alike"
            )
        _, height, width = self.test.shape
        allowed = [(len(self.test), *k, height, width) for k in ((), (len(self.class_names),))]
        if self.masks is not None and tuple(self.masks.shape) not in allowed:
            raise InputError(
                f"masks of shape {list(self.masks.shape)} do not fit {len(self.test)} test images "
                f"of {height} x {width}: give them as {list(allowed[0])} or {list(allowed[1])}"
            )

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have any number of findings."""
        return self.train.labels is not None and self.train.labels.dim() == 2

    def mask_of(self, row: int, finding: int) -> Tensor:
        """Return where a finding is in a test image, (H, W) bool."""
        assert self.masks is not None
        return self.masks[row] if self.masks.dim() == 3 else self.masks[row, finding]


def _check_labels(part: str, images: ImageSet, num_classes: int, is_multi_label: bool) -> None:
    labels = images.labels
    if labels is None or int(labels.min()) < 0:
        raise InputError(f"{FLAG}: {part} has images without a label")
    wanted = (len(images), num_classes) if is_multi_label else (len(images),)
    if tuple(labels.shape) != wanted:
        raise InputError(
            f"{FLAG}: {part} labels are {list(labels.shape)}; {len(images)} images of "
            f"{num_classes} {'findings' if is_multi_label else 'classes'} need {list(wanted)}"
        )
    most = 1 if is_multi_label else num_classes - 1
    if int(labels.max()) > most:
        what = "of several findings must be 0 or 1" if is_multi_label else f"go up to {most}"
        raise InputError(f"{FLAG}: {part} has a label {int(labels.max())}; labels {what}")


def load_xrays(
    path: str, *, img_size: int | None = None, in_chans: int | None = None, masks: str = ""
) -> XrayData:
    """Read a training and a test set.

    Args:
        path: of an .npz, or of a folder.
        img_size: side to which a folder's images are scaled; None for 224. An .npz has its own.
        in_chans: 1 or 3, of a folder's images; None for 1. An .npz has its own.
        masks: folder of masks of the test images, PNG files with their names; "" for none.

    Raises:
        InputError: if it cannot be read or does not fit.
    """
    place = Path(path).expanduser()
    if place.suffix == ".npz" and place.is_file():
        if img_size is not None or in_chans is not None or masks:
            raise InputError(
                f"{FLAG} {path}: an .npz has its own size, channels and masks (test_masks); leave "
                "--img_size, --in_chans and --masks out"
            )
        return _read_npz(place)
    if not place.is_dir():
        raise InputError(f"{FLAG} {path}: no such folder or .npz file")
    img_size, in_chans = img_size or FOLDER_SIDE, in_chans or 1
    table = find_table(place)
    if table is not None:
        train, test, names, files = read_table(table, img_size, in_chans)
    else:
        train, test, names, files = _read_folders(path, img_size, in_chans)
    read = MaskFolder(Path(masks).expanduser(), img_size).read(files) if masks else None
    return XrayData(train, test, names, read)


def _read_folders(
    path: str, img_size: int, in_chans: int
) -> tuple[ImageSet, ImageSet, tuple[str, ...], tuple[Path, ...]]:
    try:
        train, test = (
            load_image_set("folder", path, split, img_size=img_size, in_chans=in_chans, resize=True)
            for split in ("train", "test")
        )
        listing = list_images("folder", path, "test")
    except InputError as error:
        raise InputError(str(error).replace("data.path", FLAG)) from error
    if train is None or test is None or listing is None:
        raise InputError(f"{FLAG} {path}: needs folders train and test (or val), or labels.csv")
    if train.class_names != test.class_names:
        only = sorted(set(train.class_names) ^ set(test.class_names))
        raise InputError(f"{FLAG} {path}: {only[0]} is a class of one of train and test only")
    return train, test, train.class_names, listing.files


def _read_npz(path: Path) -> XrayData:
    headers = array_headers(path, FLAG)
    known = {f"{part}_{kind}" for part in ("train", "test") for kind in ("images", "labels")}
    missing = sorted(known - set(headers))
    if missing:
        raise InputError(
            f"{FLAG} {path}: holds no {missing[0]}; it needs {', '.join(sorted(known))}"
        )
    sets = []
    for part in ("train", "test"):
        images = _images(path, f"{part}_images", headers)
        labels = _labels(path, f"{part}_labels", headers)
        sets.append(ImageSet(path.stem, images, labels, source=f"{part} of {path}"))
    train, test = sets
    assert train.labels is not None  # made above
    one_hot = train.labels.dim() == 2
    count = train.labels.shape[1] if one_hot else int(train.labels.max()) + 1
    names = tuple(map(str, range(count)))
    if "class_names" in headers:
        names = tuple(map(str, read_array(path, "class_names", FLAG).tolist()))
    masks = None
    if "test_masks" in headers:
        masks = torch.from_numpy(read_array(path, "test_masks", FLAG) > 0)
    return XrayData(train, test, names, masks)


def _images(path: Path, name: str, headers: dict[str, ArrayHeader]) -> Tensor:
    shape, kind = headers[name].shape, headers[name].dtype
    is_known = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
    if kind != np.uint8 or not is_known or min(shape) < 1 or shape[1] != shape[2]:
        raise InputError(
            f"{FLAG} {path}: {name} is {kind} {list(shape)}; square images must be uint8, "
            "(N, H, H), (N, H, H, 1) or (N, H, H, 3)"
        )
    pixels = torch.from_numpy(read_array(path, name, FLAG))
    return pixels[:, None] if pixels.dim() == 3 else in_order(pixels.permute(0, 3, 1, 2))


def _labels(path: Path, name: str, headers: dict[str, ArrayHeader]) -> Tensor:
    shape, kind = headers[name].shape, headers[name].dtype
    if kind.kind not in "iub" or len(shape) not in (1, 2) or min(shape) < 1:
        raise InputError(
            f"{FLAG} {path}: {name} is {kind} {list(shape)}; labels must be integers: (N,) or "
            "(N, 1) of classes, or (N, K) of 0 and 1"
        )
    labels = torch.from_numpy(read_array(path, name, FLAG).astype(np.int64))
    return labels[:, 0] if labels.dim() == 2 and labels.shape[1] == 1 else labels
