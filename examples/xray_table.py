"""Images whose findings stand in a table, and masks of images, as files.

The table lies in the images' folder: `labels.csv` with the columns

    image     path below the folder, or the name of a file anywhere in it
    labels    findings, divided by |; empty, or No Finding, for none
    split     train or test (val is left out)

or, as NIH's ChestX-ray14 (arXiv:1705.02315) comes, `Data_Entry_2017*.csv` (Image Index, Finding
Labels) with `test_list.txt`, which names the test images.
"""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from uvit_dia.data.decoding import WHAT_PILLOW_RAISES, ImageFormat, decode
from uvit_dia.data.images import ImageSet
from uvit_dia.system.errors import InputError

TABLE = "labels.csv"
NIH_TABLE = "Data_Entry_2017*.csv"
NIH_TEST = "test_list.txt"
ALIASES = {"Image Index": "image", "Finding Labels": "labels"}
NO_FINDING = ("", "No Finding")
SPLITS = ("train", "test", "val")


@dataclass(frozen=True)
class _Row:
    file: Path
    findings: frozenset[str]
    split: str


def find_table(folder: Path) -> Path | None:
    """Return the table of a folder's images, or None."""
    found = [folder / TABLE] if (folder / TABLE).is_file() else sorted(folder.glob(NIH_TABLE))
    return found[0] if found else None


def read_table(
    table: Path, img_size: int, in_chans: int
) -> tuple[ImageSet, ImageSet, tuple[str, ...], tuple[Path, ...]]:
    """Read the images that a table names.

    Args:
        table: the file, in the images' folder.
        img_size: side to which images are scaled (shorter side) and cropped.
        in_chans: 1 or 3.

    Returns:
        Training set, test set, both with labels (N, K), names of the findings, test files.

    Raises:
        InputError: if columns, files, splits or findings are missing.
    """
    rows = _read_rows(table)
    names = tuple(sorted({name for row in rows if row.split == "train" for name in row.findings}))
    if not names:
        raise InputError(f"{table}: no row of split train has a finding")
    for row in rows:
        only = sorted(row.findings - set(names)) if row.split == "test" else []
        if only:
            raise InputError(f"{table}: {only[0]} is a finding of test images only; train has none")
    image_format = ImageFormat(img_size, in_chans, resize=True)
    sets = []
    for split in ("train", "test"):
        chosen = [row for row in rows if row.split == split]
        if not chosen:
            raise InputError(f"{table}: no row is of split {split}")
        pixels = [decode(_content(row.file), str(row.file), image_format).pixels for row in chosen]
        labels = torch.tensor([[int(name in row.findings) for name in names] for row in chosen])
        images = torch.from_numpy(np.stack(pixels))
        sets.append(ImageSet(table.parent.name, images, labels, names, f"{split} of {table}"))
    files = tuple(row.file for row in rows if row.split == "test")
    return sets[0], sets[1], names, files


def _read_rows(table: Path) -> list[_Row]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [ALIASES.get(name, name) for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            cells = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table} cannot be read: {error}") from error
    test_names = _names_of_nih_test(table.parent) if "split" not in columns else None
    needed = ["image", "labels"] + ([] if test_names is not None else ["split"])
    missing = [name for name in needed if name not in columns]
    if missing:
        raise InputError(f"{table} has no column {missing[0]}; it needs {', '.join(needed)}")
    files = _Files(table)
    rows = []
    for number, cell in enumerate(cells, start=2):
        name, findings = cell["image"] or "", cell["labels"] or ""
        split = cell["split"] if test_names is None else _split(name in test_names)
        if split not in SPLITS:
            raise InputError(
                f"{table}, line {number}: split {split!r}; allowed is train, test, val"
            )
        found = frozenset(part.strip() for part in findings.split("|")) - set(NO_FINDING)
        rows.append(_Row(files.find(name, number), found, split))
    return rows


def _names_of_nih_test(folder: Path) -> set[str] | None:
    path = folder / NIH_TEST
    return set(path.read_text().split()) if path.is_file() else None


def _split(is_test: bool) -> str:
    return "test" if is_test else "train"


class _Files:
    """The files of a folder by path and by name."""

    def __init__(self, table: Path) -> None:
        self._table = table
        below = [path for path in table.parent.rglob("*") if path.is_file()]
        self._by_name = {path.name: path for path in below}
        self._counts = Counter(path.name for path in below)

    def find(self, name: str, number: int) -> Path:
        """Return the file that a line of the table names."""
        direct = self._table.parent / name
        if name and direct.is_file() and ".." not in Path(name).parts:
            return direct
        if self._counts[name] != 1:
            count = self._counts[name] or "no"
            raise InputError(
                f"{self._table}, line {number}: {count} files are called {name!r}; give the path of"
                " one below the table's folder"
            )
        return self._by_name[name]


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error


@dataclass(frozen=True)
class MaskFolder:
    """Masks as PNG files, white inside, each of its image's size.

    A mask is called as its image, and lies in the folder, or in a folder of it that is called as
    the one that its image lies in: `well/7.jpg` has `well/7.png` or `7.png`.

    Attributes:
        folder: that holds them.
        img_size: side to which they are scaled, as the images are.
    """

    folder: Path
    img_size: int

    def read(self, names: Sequence[str | Path]) -> Tensor:
        """Return the masks of images, (N, H, W) bool; an image without a file has an empty one.

        Raises:
            InputError: if there is no mask at all, one may be that of several images, or has
                another size than its image.
        """
        image_format = ImageFormat(self.img_size, 1, resize=True)
        files = [Path(name) for name in names]
        masks = np.zeros((len(files), self.img_size, self.img_size), dtype=bool)
        stems = Counter(file.stem for file in files)
        found = 0
        for row, file in enumerate(files):
            mask = self.folder / file.parent.name / f"{file.stem}.png"
            if not mask.is_file():
                mask = self.folder / f"{file.stem}.png"
            if not mask.is_file():
                continue
            if mask.parent == self.folder and stems[file.stem] > 1:
                raise InputError(
                    f"{mask} may be the mask of {stems[file.stem]} images: move it to "
                    f"{self.folder / file.parent.name}"
                )
            found += 1
            sizes = _size(file), _size(mask)
            if sizes[0] != sizes[1]:
                raise InputError(
                    f"{mask} is {sizes[1][0]}x{sizes[1][1]}, its image {sizes[0][0]}x{sizes[0][1]}:"
                    " give a mask of the image's size"
                )
            masks[row] = decode(_content(mask), str(mask), image_format).pixels[0] > 127
        if not found:
            raise InputError(f"--masks {self.folder}: no {files[0].stem}.png, nor any other mask")
        return torch.from_numpy(masks)


def _size(file: Path) -> tuple[int, int]:
    try:
        with Image.open(file) as image:
            return image.size
    except WHAT_PILLOW_RAISES as error:
        raise InputError(f"{file} is no readable image: {error}") from error
