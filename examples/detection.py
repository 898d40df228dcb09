"""Train a detector with or without a shared attention unit in its backbone (Table X).

    python -m examples.paste_objects --output objects
    python -m examples.detection --workdir runs/objects_dia --data objects --backbone resnet18 \
        --img_size 96 --smallest_anchor 8 --unit dia_lstm --num_epochs 10
    accelerate launch -m examples.detection --workdir runs/coco_dia --unit dia_lstm \
        --train_images COCO/train2017 --train_json COCO/annotations/instances_train2017.json \
        --test_images COCO/val2017 --test_json COCO/annotations/instances_val2017.json \
        --weights resnet50.pth --trainable_layers 3

The same command again goes on after the last whole epoch. metrics.jsonl has a line an epoch with
COCO's metrics by pycocotools, record.json what came out, detections.json the last detections in
COCO's format. Recipe: SGD, momentum 0.9, weight decay 1e-4, learning rate 0.02 at batch 16, a tenth
of it after 2/3 and again after 11/12 of the epochs, as torchvision trains them on COCO.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from examples.coco_data import Annotated, CocoSet, Target, read_coco
from examples.coco_metrics import as_coco, coco_metrics
from examples.command import command_parser
from examples.detection_models import BACKBONES, DETECTORS, add_unit, make_detector
from examples.training import train
from examples.unit_options import add_unit_arguments, unit_options
from uvit_dia.rng import integer_rows, permutation
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import sha256_file, write_json

MILESTONES = (2 / 3, 11 / 12)
WARMUP_EPOCHS = 0.5
RATE_PER_IMAGE = 0.02 / 16
TEST_BATCH_SIZE = 8

Batch = tuple[list[Tensor], list[Target]]


class Detection:
    """A detector in training, as `training.fit` takes it.

    Args:
        model: one of torchvision's.
        train: images and boxes.
        test: likewise.
        facts: all that the run is.
        arguments: of the command line.
    """

    max_grad_norm = 10.0

    def __init__(
        self,
        model: nn.Module,
        train: CocoSet,
        test: CocoSet,
        facts: dict[str, Any],
        arguments: argparse.Namespace,
    ) -> None:
        self.model, self.train, self.test, self.facts = model, train, test, facts
        self.seed, self.num_epochs = arguments.seed, arguments.num_epochs
        self.eval_every_epochs = arguments.eval_every_epochs
        self.batch_size = arguments.batch_size
        self.learning_rate = arguments.learning_rate or RATE_PER_IMAGE * self.batch_size
        self.folder = Path(arguments.workdir).expanduser()

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Make SGD over what is trained."""
        weights = [p for p in self.model.parameters() if p.requires_grad]
        return torch.optim.SGD(weights, lr=self.learning_rate, momentum=0.9, weight_decay=1e-4)

    def lr_factor(self, epoch: float) -> float:
        """Return the share of the highest learning rate at a point of the run, in epochs."""
        rise = min(1.0, (epoch + 1e-2) / WARMUP_EPOCHS)
        return rise * 0.1 ** sum(epoch / self.num_epochs >= each for each in MILESTONES)

    def num_batches(self) -> int:
        """Return how many whole batches an epoch has."""
        return len(self.train) // self.batch_size

    def batches(self, epoch: int, accelerator: Accelerator) -> Iterator[Batch]:
        """Yield this process's share of each batch of an epoch; half of the images are mirrored."""
        size, ranks = self.batch_size, accelerator.num_processes
        rank, device = accelerator.process_index, accelerator.device
        order = permutation(self.seed, "detection order", epoch, len(self.train))
        rows = range(rank * size // ranks, (rank + 1) * size // ranks)
        for batch in range(self.num_batches()):
            step = epoch * self.num_batches() + batch
            flips = integer_rows(self.seed, "detection flips", step, rows, size, 2)
            chosen = order[batch * size :][rows.start : rows.stop].tolist()
            pairs = [
                mirrored(*_read(self.train.images[row])) if flip else _read(self.train.images[row])
                for row, flip in zip(chosen, flips.tolist(), strict=True)
            ]
            yield (
                [image.to(device) for image, _ in pairs],
                [{name: x.to(device) for name, x in target.items()} for _, target in pairs],
            )

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the sum of the detector's losses, ()."""
        return torch.stack(list(model(*batch).values())).sum()

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, Any]:
        """Return COCO's metrics in percent; the detections go to detections.json."""
        results = as_coco(detect(model, self.test.images, device), self.test.category_ids)
        write_json(self.folder / "detections.json", results)
        return coco_metrics(self.test, results)


def _read(image: Annotated) -> tuple[Tensor, Target]:
    return image.read(), image.target()


def mirrored(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Return an image, (3, H, W), and its target, left and right exchanged."""
    width = image.shape[-1]
    left, top, right, bottom = target["boxes"].unbind(dim=1)
    boxes = torch.stack([width - right, top, width - left, bottom], dim=1)
    return image.flip(-1), {**target, "boxes": boxes}


@torch.no_grad()
def detect(
    model: nn.Module, images: Sequence[Annotated], device: torch.device
) -> dict[int, dict[str, Tensor]]:
    """Return what a detector in evaluation mode finds: image id -> boxes, labels, scores."""
    found = {}
    for first in range(0, len(images), TEST_BATCH_SIZE):
        part = images[first : first + TEST_BATCH_SIZE]
        outputs = model([image.read().to(device) for image in part])
        for image, output in zip(part, outputs, strict=True):
            found[image.image_id] = {name: x.cpu() for name, x in output.items()}
    return found


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = command_parser("detection", __doc__)
    made.add_argument("--workdir", required=True, help="folder of the run")
    made.add_argument("--data", help="folder with train.json, test.json, train/ and test/")
    for name in ("train_images", "train_json", "test_images", "test_json"):
        made.add_argument(f"--{name}", help="in place of --data")
    made.add_argument("--detector", default="faster_rcnn", choices=DETECTORS)
    made.add_argument("--backbone", default="resnet50", choices=BACKBONES)
    made.add_argument("--weights", help="of torchvision's ResNet; normalisations are frozen then")
    made.add_argument("--trainable_layers", type=int, default=5, help="of the backbone, the last")
    made.add_argument("--img_size", type=int, default=800, help="least side after scaling")
    made.add_argument("--smallest_anchor", type=int, default=32, help="in pixels")
    made.add_argument(
        "--num_proposals", type=int, default=512, help="boxes an image in Faster R-CNN's training"
    )
    add_unit_arguments(made)
    made.add_argument("--num_epochs", type=int, default=12)
    made.add_argument("--eval_every_epochs", type=int, default=1)
    made.add_argument("--batch_size", type=int, default=16)
    made.add_argument("--learning_rate", type=float, help="default: 0.02 at batch 16")
    made.add_argument("--seed", type=int, default=0, help="of weights, order and flips")
    return made


def read_sets(arguments: argparse.Namespace) -> tuple[CocoSet, CocoSet]:
    """Read both sets of a command line.

    Raises:
        InputError: if one is not named, not there or wrong, or they have different categories.
    """
    found = []
    for part in ("train", "test"):
        images = getattr(arguments, f"{part}_images")
        annotations = getattr(arguments, f"{part}_json")
        if arguments.data is not None:
            folder = Path(arguments.data).expanduser()
            images, annotations = images or folder / part, annotations or folder / f"{part}.json"
        if images is None or annotations is None:
            raise InputError(f"give --data, or --{part}_images and --{part}_json")
        found.append(read_coco(Path(annotations).expanduser(), Path(images).expanduser()))
    first, test = found
    if first.category_ids != test.category_ids:
        raise InputError(f"{first.path} and {test.path} have different categories")
    return first, test


def make_task(arguments: argparse.Namespace) -> Detection:
    """Make what a command line asks for: data, detector, unit.

    Raises:
        InputError: if something does not fit.
    """
    least = {"num_epochs": 1, "eval_every_epochs": 1, "batch_size": 1, "seed": 0}
    least |= {"img_size": 16, "smallest_anchor": 1, "num_proposals": 8}
    for name, smallest in least.items():
        if not smallest <= getattr(arguments, name) < 2**31:
            raise InputError(f"--{name} {getattr(arguments, name)}: allowed is {smallest} or more")
    if not 0 <= arguments.trainable_layers <= 5:
        raise InputError(f"--trainable_layers {arguments.trainable_layers}: allowed is 0 to 5")
    options = unit_options(arguments)
    images, test = read_sets(arguments)
    if len(images) < arguments.batch_size:
        raise InputError(
            f"--batch_size {arguments.batch_size} is larger than the {len(images)} training images"
        )
    torch.manual_seed(arguments.seed)
    side = arguments.img_size
    model = make_detector(
        arguments.detector,
        arguments.backbone,
        len(images.category_ids),
        img_size=(side, side * 1333 // 800),
        smallest_anchor=arguments.smallest_anchor,
        weights=None if arguments.weights is None else Path(arguments.weights).expanduser(),
        trainable_layers=arguments.trainable_layers,
        num_proposals=arguments.num_proposals,
    )
    num_weights = 0
    if arguments.unit != "none":
        shared = not arguments.unshared
        unit = add_unit(model, arguments.backbone, arguments.unit, shared=shared, options=options)
        num_weights = unit.num_weights()
    places = (
        "workdir",
        "data",
        "weights",
        *(f"{a}_{b}" for a in ("train", "test") for b in ("images", "json")),
    )
    facts = {
        **{name: value for name, value in vars(arguments).items() if name not in places},
        "train_sha256": sha256_file(images.path),
        "test_sha256": sha256_file(test.path),
        "num_train": len(images),
        "unit_weights": num_weights,
        "all_weights": sum(p.numel() for p in model.parameters()),
    }
    return Detection(model, images, test, facts, arguments)


def main(argv: list[str] | None = None) -> None:
    """Train as the command line says; wrong input ends with one line and exit code 2."""
    arguments = parser().parse_args(argv)
    train("detection", lambda: make_task(arguments), arguments.workdir)


if __name__ == "__main__":
    main()
