"""Image sets in one .npz: an array of images, and one of labels if there is one."""

from pathlib import Path

import torch

from uvit_dia.data.arrays import ArrayHeader, array_headers, image_array, read_array
from uvit_dia.data.images import ImageSet, images_of
from uvit_dia.system.errors import InputError
from uvit_dia.system.messages import clip

FLAG = "data.path"


def read_array_file(path: Path) -> ImageSet:
    """Read a set: uint8 (N, H, W, C), and integers (N,) as labels.

    Raises:
        InputError: if it is no such file, or labels do not fit the images.
    """
    headers = array_headers(path, FLAG)
    name = image_array(headers, path, FLAG)
    count = headers[name].shape[0]
    labels_name = _label_array(headers, name, count, path)
    images = images_of(read_array(path, name, FLAG))
    labels = None
    if labels_name is not None:
        labels = torch.from_numpy(read_array(path, labels_name, FLAG).astype("int64"))
        if int(labels.min()) < 0:
            raise InputError(f"{FLAG}: {path}:{labels_name} has a label below 0")
    names = () if labels is None else tuple(map(str, range(int(labels.max()) + 1)))
    return ImageSet(path.stem, images, labels, names, f"array {name} of {path}")


def image_shape(path: Path) -> tuple[int, ...]:
    """Return the shape of a file's images, (N, H, W, C), from its header alone.

    Raises:
        InputError: as for `read_array_file`.
    """
    headers = array_headers(path, FLAG)
    return headers[image_array(headers, path, FLAG)].shape


def _label_array(
    headers: dict[str, ArrayHeader], images: str, count: int, path: Path
) -> str | None:
    found = [
        name
        for name, header in headers.items()
        if header.dtype.kind in "iu" and header.shape in ((count,), (count, 1))
    ]
    others = set(headers) - {images, *found}
    if others or len(found) > 1:
        held = ", ".join(sorted(others or found))
        raise InputError(
            f"{FLAG}: {path} must hold one array of images and at most one of labels, integers "
            f"({count},); it holds also {clip(held, 80)}"
        )
    return found[0] if found else None
