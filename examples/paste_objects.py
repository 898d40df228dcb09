"""Make a small set for detection from real images: objects pasted on canvases, in COCO's format.

    python -m examples.paste_objects --output objects --objects digits
    python -m examples.paste_objects --output objects --objects cifar10 --path CIFAR10_PARQUET

Objects are scikit-learn's handwritten digits, or CIFAR-10 images, at random sizes and places that
do not overlap, on a noisy ground. OUTPUT gets train.json, test.json and the folders of the images;
objects of test images are not among those of training images.
"""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from examples.command import command_parser, refusing_in_one_line
from uvit_dia.data.images import ImageSet
from uvit_dia.data.sources import load_image_set
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import write_json

NUM_TEST_DIGITS = 360
MAX_OBJECTS = 4
SIZES = (16, 40)  # of an object's side in pixels
TRIES = 50  # for a place that is free


def paste(
    count: int, images: ImageSet, folder: Path, *, side: int, seed: int
) -> dict[str, list[dict[str, object]]]:
    """Write canvases with objects; return what COCO's file says of them.

    Args:
        count: of canvases.
        images: the objects, with labels.
        folder: of the canvases; made here.
        side: of a canvas in pixels.
        seed: of everything random.
    """
    assert images.labels is not None
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    listed: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number in range(count):
        canvas = draw.normal(110, 20, (side, side, 3)).clip(0, 255).astype(np.uint8)
        taken = np.zeros((side, side), dtype=bool)
        for _ in range(int(draw.integers(1, MAX_OBJECTS + 1))):
            row = int(draw.integers(len(images)))
            place = _place(taken, draw)
            if place is None:
                continue
            top, left, size = place
            canvas[top : top + size, left : left + size] = _scaled(images, row, size)
            taken[top : top + size, left : left + size] = True
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": int(images.labels[row]) + 1,
                    "bbox": [left, top, size, size],
                    "area": size * size,
                    "iscrowd": 0,
                }
            )
        name = f"{number:05d}.png"
        Image.fromarray(canvas).save(folder / name)
        listed.append({"id": number + 1, "file_name": name, "height": side, "width": side})
    names = images.class_names or [str(label) for label in range(int(images.labels.max()) + 1)]
    categories: list[dict[str, object]] = [
        {"id": label + 1, "name": name} for label, name in enumerate(names)
    ]
    return {"images": listed, "categories": categories, "annotations": annotations}


def _place(taken: np.ndarray, draw: np.random.Generator) -> tuple[int, int, int] | None:
    side = len(taken)
    for _ in range(TRIES):
        size = int(draw.integers(SIZES[0], min(SIZES[1], side // 2) + 1))
        top, left = map(int, draw.integers(0, side - size + 1, 2))
        if not taken[top : top + size, left : left + size].any():
            return top, left, size
    return None


def _scaled(images: ImageSet, row: int, size: int) -> np.ndarray:
    pixels = images.images[row].permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).convert("RGB")
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def read_objects(name: str, path: str) -> tuple[ImageSet, ImageSet]:
    """Return the objects of training and of test images.

    Raises:
        InputError: if they are not there, or have no classes.
    """
    if name == "digits":
        digits = load_image_set("digits", "", "train", img_size=8, in_chans=1)
        assert digits is not None
        order = np.random.default_rng(0).permutation(len(digits))
        rows = torch.from_numpy(order)
        return (
            digits.subset(rows[NUM_TEST_DIGITS:], note="to train"),
            digits.subset(rows[:NUM_TEST_DIGITS], note="to test"),
        )
    train, test = (
        load_image_set("parquet", path, split, img_size=32, in_chans=3)
        for split in ("train", "test")
    )
    if train is None or test is None or train.labels is None or test.labels is None:
        raise InputError(f"--path {path}: needs a training and a test split with labels")
    return train, test


def main(argv: list[str] | None = None) -> None:
    """Write the set; wrong input ends with one line and exit code 2."""
    made = command_parser("paste_objects", __doc__)
    made.add_argument("--output", required=True, help="a new folder")
    made.add_argument("--objects", default="digits", choices=("digits", "cifar10"))
    made.add_argument("--path", default="", help="of CIFAR-10 as parquet files")
    made.add_argument("--num_train", type=int, default=400)
    made.add_argument("--num_test", type=int, default=100)
    made.add_argument("--side", type=int, default=96, help="of an image in pixels")
    made.add_argument("--seed", type=int, default=0)
    arguments = made.parse_args(argv)
    with refusing_in_one_line("paste_objects"):
        output = Path(arguments.output).expanduser()
        if output.exists():
            raise InputError(f"--output {output} is there already; give a new folder")
        if arguments.side < 2 * SIZES[0]:
            raise InputError(f"--side {arguments.side}: allowed is {2 * SIZES[0]} or more")
        if min(arguments.num_train, arguments.num_test) < 1:
            raise InputError("--num_train and --num_test: allowed is 1 or more")
        sets = read_objects(arguments.objects, arguments.path)
        counts = (arguments.num_train, arguments.num_test)
        for part, (name, images) in enumerate(zip(("train", "test"), sets, strict=True)):
            seed = 2 * arguments.seed + part
            content = paste(counts[part], images, output / name, side=arguments.side, seed=seed)
            write_json(output / f"{name}.json", json.loads(json.dumps(content)))
            print(f"{output / name}: {counts[part]} images, {len(content['annotations'])} objects")


if __name__ == "__main__":
    main()
