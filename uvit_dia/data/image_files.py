"""Decoding image files and parquet tables of them; nothing that is read can run."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from uvit_dia.data.images import ImageSet
from uvit_dia.system.errors import InputError

if TYPE_CHECKING:
    import PIL.Image

MAX_IMAGE_PIXELS = 4096 * 4096


MAX_MEMORY_BYTES = (
    64 * 2**30
)  # of decoded images; larger sets need streaming, which is not there yet


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def _decode(content: bytes, origin: str, img_size: int, in_chans: int, resize: bool) -> np.ndarray:
    """Decode one image file to (C, H, W) uint8."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise InputError(
                    f"{origin} has {image.width}x{image.height} pixels; at most 4096x4096 are read"
                )
            if image.mode.startswith(("I", "F")):  # Pillow would clip, not scale, them to 0 .. 255
                raise InputError(
                    f"{origin} has mode {image.mode}; images of 8 bits a channel are read"
                )
            sized: PIL.Image.Image = image
            if image.size != (img_size, img_size):
                if not resize:
                    raise InputError(
                        f"{origin} is {image.width}x{image.height}; model.img_size = {img_size} "
                        "(data.resize = True would scale and crop it)"
                    )
                sized = _resize(image, img_size)
            pixels = np.asarray(sized.convert("L" if in_chans == 1 else "RGB"))
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{origin} is no readable image: {' '.join(str(error).split())[:80]}"
        ) from error
    return pixels[None] if in_chans == 1 else pixels.transpose(2, 0, 1)


def _resize(image: "PIL.Image.Image", img_size: int) -> "PIL.Image.Image":
    """Scale the shorter side to img_size and crop the middle."""
    from PIL import ImageOps

    return ImageOps.fit(image.convert("RGB"), (img_size, img_size), method=1)  # 1: Lanczos


def _decode_all(
    files: Iterator[tuple[bytes, str]],
    count: int,
    *,
    img_size: int,
    in_chans: int,
    resize: bool,
    show: bool,
) -> torch.Tensor:
    """Decode `count` image files into one (N, C, H, W) uint8 tensor."""
    from tqdm import tqdm

    if in_chans not in (1, 3):
        raise InputError(f"model.in_chans = {in_chans}; image files give 1 (grey) or 3 (RGB)")
    size = count * in_chans * img_size**2
    if size > MAX_MEMORY_BYTES:
        raise InputError(
            f"data.path: {count} images of this size need {size} bytes; at most {MAX_MEMORY_BYTES}"
        )
    images = np.empty((count, in_chans, img_size, img_size), dtype=np.uint8)
    bar = tqdm(files, total=count, desc="decoding", leave=False, disable=not show or count < 5000)
    for index, (content, origin) in enumerate(bar):
        images[index] = _decode(content, origin, img_size, in_chans, resize)
    return torch.from_numpy(images)


def _parquet(
    path: Path, split: str, *, img_size: int, in_chans: int, resize: bool, show: bool
) -> ImageSet | None:
    """Read the Hugging Face image layout: a column `img` or `image` of {bytes, path}, a column `label` or none."""
    if not path.exists():
        raise InputError(f"data.path: no file or folder {path}")
    files = [path] if path.is_file() else sorted(path.rglob(f"{split}*.parquet"))
    if split == "test" and (path.is_file() or not files):
        return None
    if not files:
        raise InputError(f"data.path: no {split}*.parquet in {path}")
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.concat_tables([pyarrow.parquet.read_table(file) for file in files])
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(
            f"{files[0]} is no readable parquet: {' '.join(str(error).split())[:80]}"
        ) from error
    column = next((c for c in ("img", "image") if c in table.column_names), None)
    if column is None:
        raise InputError(f"{files[0]} has columns {table.column_names}; one must be img or image")
    cells = table.column(column)

    def contents() -> Iterator[tuple[bytes, str]]:
        for index, cell in enumerate(cells):
            value = cell.as_py()
            content = value.get("bytes") if isinstance(value, dict) else value
            if not isinstance(content, bytes):
                raise InputError(f"{files[0]}, row {index}: column {column} holds no bytes")
            yield content, f"{files[0]}, row {index}"

    images = _decode_all(
        contents(), len(cells), img_size=img_size, in_chans=in_chans, resize=resize, show=show
    )
    labels, names = None, _class_names(table.schema.metadata)
    if "label" in table.column_names:
        values = table.column("label").to_pylist()
        wrong = [v for v in values if not isinstance(v, int) or not -(2**63) <= v < 2**63]
        if wrong:
            raise InputError(f"{files[0]}: column label holds {wrong[0]!r}; integers are read")
        nameless = [v for v in values if names and not -1 <= v < len(names)]  # -1: not labelled
        if nameless:
            raise InputError(
                f"{files[0]}: column label holds {nameless[0]}; its {len(names)} class names go with 0 to {len(names) - 1}"
            )
        labels = torch.tensor(values, dtype=torch.int64)
    return ImageSet(path.stem, images, labels, names)


def _class_names(metadata: dict[bytes, bytes] | None) -> tuple[str, ...]:
    """Read the class names that Hugging Face datasets keep in a parquet's metadata; none where there are none."""
    import json

    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features["label"]["names"])
    except (KeyError, ValueError, TypeError, RecursionError):
        return ()


def _folder(
    path: Path, split: str, *, img_size: int, in_chans: int, resize: bool, show: bool
) -> ImageSet | None:
    """Read a folder whose sub-folders are classes; images directly in it make a set without labels."""
    if not path.is_dir():
        raise InputError(f"data.path: no folder {path}")
    root = path / split if (path / "train").is_dir() else path
    if split == "test" and (root == path or not root.is_dir()):
        return None
    classes = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    labelled = [
        (file, label) for label, name in enumerate(classes) for file in _image_files(root / name)
    ]
    loose = _loose_images(root)
    left_out = (loose if labelled else []) + (_loose_images(path) if root != path else [])
    if left_out:
        raise InputError(
            f"data.path: {left_out[0].parent} holds images ({left_out[0].name}) beside folders that hold them; "
            "move them into one"
        )
    labelled = labelled or [(file, -1) for file in loose]
    if not labelled:
        raise InputError(f"data.path: no images ({', '.join(IMAGE_SUFFIXES)}) in {root}")
    contents = ((_read_image(file), str(file)) for file, _ in labelled)
    images = _decode_all(
        contents, len(labelled), img_size=img_size, in_chans=in_chans, resize=resize, show=show
    )
    labels = torch.tensor([label for _, label in labelled]) if labelled[0][1] >= 0 else None
    return ImageSet(path.name, images, labels, tuple(classes))


def _read_image(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error


def _loose_images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())


def _image_files(folder: Path) -> list[Path]:
    return sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()
    )
