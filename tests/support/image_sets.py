"""Image files, tables and folders for tests, and their reading with few words."""

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from PIL import Image
from torch import Tensor

from uvit_dia.data.images import ImageSet
from uvit_dia.data.sources import load_image_set

Pixels = np.ndarray


def load(
    name: str,
    path: Path | str,
    split: str = "train",
    *,
    img_size: int = 8,
    in_chans: int = 3,
    **settings: Any,
) -> ImageSet | None:
    return load_image_set(
        name,
        str(path),
        split,
        img_size=img_size,
        in_chans=in_chans,
        show_progress=False,
        **settings,
    )


def must_load(name: str, path: Path | str, split: str = "train", **settings: Any) -> ImageSet:
    image_set = load(name, path, split, **settings)
    assert image_set is not None
    return image_set


def labels_of(image_set: ImageSet) -> list[int]:
    assert image_set.labels is not None
    assert image_set.labels.dtype == torch.int64
    return image_set.labels.tolist()


def pixels(index: int, side: int = 8, channels: int = 3) -> Pixels:
    """Make the pixels of an image, (H, W, C), or (H, W) for one channel."""
    shape = (side, side) if channels == 1 else (side, side, channels)
    return np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8)


def encoded(image: Pixels | Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    """Encode an image as a file of a kind that Pillow writes."""
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, format=kind, **settings)
    return buffer.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """Make a PNG of 100 bytes that claims to be large; decoding would fail with another message."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10)))
    return b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b"")


def channels_first(*images: Pixels) -> Tensor:
    stacked = np.stack([i[None] if i.ndim == 2 else i.transpose(2, 0, 1) for i in images])
    return torch.from_numpy(stacked)


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == torch.uint8
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def write_image(path: Path, image: Pixels | bytes) -> Path:
    """Write pixels as a PNG, or bytes as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image if isinstance(image, bytes) else encoded(image))
    return path


def write_images(folder: Path, *names: str) -> Path:
    """Write images of these names, each with pixels of its own."""
    for index, name in enumerate(names):
        write_image(folder / name, pixels(index))
    return folder


def write_parquet(path: Path, columns: dict[str, Any], features: object = None) -> Path:
    table = pyarrow.table(columns)
    if features is not None:
        facts = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": facts})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path)
    return path


def cells(*indices: int) -> list[dict]:
    return [{"bytes": encoded(pixels(i)), "path": None} for i in indices]
