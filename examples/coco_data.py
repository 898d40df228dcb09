"""Images with boxes in COCO's format: read, checked, and turned into torchvision's targets.

A set is a folder of images and a JSON file with `images` (id, file_name, width, height),
`categories` (id, name) and `annotations` (image_id, category_id, bbox = [x, y, width, height] in
pixels, iscrowd), see https://cocodataset.org/#format-data.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from uvit_dia.system.errors import InputError
from uvit_dia.system.messages import clip

SLACK = 1.0  # pixels by which a box may lie outside: COCO's own are rounded
NUMBERS = (int, float)

Target = dict[str, Tensor]


@dataclass(frozen=True)
class Annotated:
    """An image and its boxes.

    Attributes:
        image_id: in the file.
        path: of the image.
        size: (height, width) in pixels.
        boxes: (n, 4) float32, x_1, y_1, x_2, y_2; without crowds.
        labels: (n,) int64, 1 for the first category; 0 is torchvision's background.
        areas: (n,) float32, in pixels.
    """

    image_id: int
    path: Path
    size: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    areas: Tensor

    def read(self) -> Tensor:
        """Return the image, (3, H, W) float32 in [0, 1].

        Raises:
            InputError: if it cannot be read, or has another size than the file says.
        """
        try:
            with Image.open(self.path) as image:
                pixels = torch.from_numpy(np.array(image.convert("RGB")))
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read the image {self.path}: {clip(error, 80)}") from error
        if tuple(pixels.shape[:2]) != self.size:
            height, width = pixels.shape[:2]
            raise InputError(
                f"{self.path} is {width} x {height}; the annotations say "
                f"{self.size[1]} x {self.size[0]}"
            )
        return pixels.permute(2, 0, 1).float() / 255

    def target(self) -> Target:
        """Return what torchvision's detectors train on."""
        return {
            "boxes": self.boxes,
            "labels": self.labels,
            "area": self.areas,
            "image_id": torch.tensor(self.image_id),
            "iscrowd": torch.zeros(len(self.labels), dtype=torch.int64),
        }


@dataclass(frozen=True)
class CocoSet:
    """A set in COCO's format.

    Attributes:
        path: of the annotations.
        images: in the order of the file.
        category_ids: of the file, in the order of the labels 1, 2, ...
        names: of the categories.
    """

    path: Path
    images: tuple[Annotated, ...]
    category_ids: tuple[int, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)


def read_coco(annotations: Path, images: Path) -> CocoSet:
    """Read a set, without its pixels.

    Args:
        annotations: the JSON file.
        images: folder of the images.

    Raises:
        InputError: naming the first annotation that is wrong, and what is.
    """
    content = _read_json(annotations)
    categories = _listed(content, "categories", annotations)
    ids = [_number(each, "id", f"{annotations}: a category") for each in categories]
    if not ids or len(set(ids)) != len(ids):
        raise InputError(f"{annotations}: needs categories, each with an id of its own")
    label_of = {category: label for label, category in enumerate(ids, start=1)}
    boxes: dict[int, list[tuple[list[float], int, float]]] = {}
    sizes = {}
    for each in (listed := _listed(content, "images", annotations)):
        where = f"{annotations}: image {each.get('id')!r}"
        sizes[_number(each, "id", where)] = tuple(
            _number(each, name, where) for name in ("height", "width")
        )
    for each in _listed(content, "annotations", annotations):
        where = f"{annotations}: annotation {each.get('id')!r}"
        image_id, category = (_number(each, name, where) for name in ("image_id", "category_id"))
        if image_id not in sizes:
            raise InputError(f"{where} is of image {image_id}, which the file does not list")
        if category not in label_of:
            known = clip(", ".join(map(str, ids)), 60)
            raise InputError(
                f"{where} is of category {category}, which the file does not list; it has {known}"
            )
        if each.get("iscrowd"):
            continue  # a group that nobody counted: no target, and pycocotools ignores it
        box = _box(each.get("bbox"), sizes[image_id], where)
        area = float(each.get("area", (box[2] - box[0]) * (box[3] - box[1])))
        boxes.setdefault(image_id, []).append((box, label_of[category], area))
    if not boxes:
        raise InputError(f"{annotations}: no annotation with a box")
    found = tuple(_annotated(each, images, boxes, annotations) for each in listed)
    names = tuple(str(each.get("name", each["id"])) for each in categories)
    return CocoSet(annotations, found, tuple(ids), names)


def _annotated(
    image: Mapping[str, Any],
    folder: Path,
    boxes: Mapping[int, Sequence[tuple[list[float], int, float]]],
    annotations: Path,
) -> Annotated:
    name = image.get("file_name")
    path = folder / str(name)
    if not isinstance(name, str) or not path.is_file():
        raise InputError(f"{annotations}: image {image['id']}: no file {path}")
    found = boxes.get(image["id"], [])
    return Annotated(
        image["id"],
        path,
        (image["height"], image["width"]),
        torch.tensor([box for box, _, _ in found], dtype=torch.float32).view(-1, 4),
        torch.tensor([label for _, label, _ in found], dtype=torch.int64),
        torch.tensor([area for _, _, area in found], dtype=torch.float32),
    )


def _box(bbox: object, size: Sequence[int], where: str) -> list[float]:
    """Return x_1, y_1, x_2, y_2 of a box; refuse empty ones and those outside of their image."""
    is_box = isinstance(bbox, list) and len(bbox) == 4
    if not is_box or not all(type(value) in NUMBERS for value in bbox):  # type: ignore[union-attr]
        raise InputError(f"{where}: bbox must be [x, y, width, height], got {clip(bbox, 60)}")
    x, y, width, height = map(float, bbox)  # type: ignore[call-overload]
    if not (width > 0 and height > 0):
        raise InputError(f"{where}: bbox {bbox} is empty; width and height must be above 0")
    most_y, most_x = size
    if x < -SLACK or y < -SLACK or x + width > most_x + SLACK or y + height > most_y + SLACK:
        raise InputError(
            f"{where}: bbox {bbox} lies outside of its image of {most_x} x {most_y} pixels"
        )
    return [max(x, 0.0), max(y, 0.0), min(x + width, most_x), min(y + height, most_y)]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {clip(error, 80)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not in COCO's format: it must hold an object")
    return content


def _listed(content: Mapping[str, Any], name: str, path: Path) -> list[dict[str, Any]]:
    found = content.get(name)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise InputError(f"{path} is not in COCO's format: it must have a list {name}")
    return found


def _number(each: Mapping[str, Any], name: str, where: str) -> int:
    value = each.get(name)
    if type(value) is not int:
        raise InputError(f"{where}: {name} must be a whole number, got {clip(repr(value), 40)}")
    return value
