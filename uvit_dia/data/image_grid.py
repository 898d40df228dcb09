"""Images as PNG: one, or many in a grid."""

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from uvit_dia.system.files import write_atomically

GRID_MARGIN = 2  # pixels between the images of a grid
MIN_GRID_SIDE = 32  # smaller images are enlarged without smoothing, so that one can see them


def png_bytes(image: Tensor) -> bytes:
    """Encode one image, (C, H, W) uint8 with C = 1 or 3, as PNG."""
    from PIL import Image

    pixels = image.numpy()
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def image_grid(
    images: Tensor, class_labels: Tensor | None = None, columns: int | None = None
) -> Tensor:
    """Lay images out in rows on white: a row a class, or as near to a square as possible.

    Args:
        images: (N, C, H, W) uint8, N at least 1.
        class_labels: (N,) int64; each class gets a row, the lowest first, if there are several and
            a row has two images or more on average.
        columns: images of a row, whatever their classes; None for the rules above.

    Returns:
        (C, height, width) uint8.
    """
    count, channels, height, width = images.shape
    scale = max(1, -(-MIN_GRID_SIDE // max(height, width)))
    images = images.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    height, width = height * scale, width * scale
    chosen = columns or int(np.ceil(np.sqrt(count)))
    places = [divmod(index, chosen) for index in range(count)]
    if columns is None and class_labels is not None and 1 < len(class_labels.unique()) <= count / 2:
        places = _rows_of_classes(class_labels.tolist())
    rows, columns = (1 + max(place[axis] for place in places) for axis in (0, 1))
    step_y, step_x = height + GRID_MARGIN, width + GRID_MARGIN
    grid = torch.full(
        (channels, rows * step_y + GRID_MARGIN, columns * step_x + GRID_MARGIN), 255
    ).to(torch.uint8)
    for (row, column), image in zip(places, images, strict=True):
        y, x = row * step_y + GRID_MARGIN, column * step_x + GRID_MARGIN
        grid[:, y : y + height, x : x + width] = image
    return grid


def _rows_of_classes(labels: list[int]) -> list[tuple[int, int]]:
    """Return row and column of each image: its class, and how many of that came before."""
    row_of = {label: row for row, label in enumerate(sorted(set(labels)))}
    taken = dict.fromkeys(row_of, 0)
    places = []
    for label in labels:
        places.append((row_of[label], taken[label]))
        taken[label] += 1
    return places


def write_grid(
    path: Path, images: Tensor, class_labels: Tensor | None = None, columns: int | None = None
) -> None:
    """Write images, (N, C, H, W) uint8, as one PNG grid, see `image_grid`."""
    write_atomically(path, png_bytes(image_grid(images, class_labels, columns)))
