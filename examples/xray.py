"""Train a classifier of X-rays with or without a shared attention unit (Table XI).

    python -m examples.planted_digits --output planted.npz
    python -m examples.xray --workdir runs/planted --path planted.npz --unit dia_lstm
    python -m examples.xray --workdir runs/chest --path chestmnist.npz --unit dia_lstm
    accelerate launch -m examples.xray --workdir runs/nih --path NIH --model tv_resnet50 \
        --in_chans 3 --unit dia_lstm_light

One class an image, or any number of findings: `xray_data` says how data may lie. metrics.jsonl has
accuracy and AUC of each class after every epoch, record.json what came out. The same command again
goes on after the last whole epoch. `python -m examples.xray_cam` draws Grad-CAM of such runs.
"""

import argparse
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.classification import (
    Classification,
    add_network_arguments,
    add_training_arguments,
    chosen_recipe,
    make_network,
)
from examples.classification_data import Batch, ImagesInMemory
from examples.classification_models import Images
from examples.command import command_parser
from examples.training import train
from examples.xray_data import XrayData, load_xrays
from examples.xray_metrics import measure
from uvit_dia.system.errors import InputError


class XrayClassification(Classification):
    """A classifier of findings in training: `Classification` with its own loss and measures.

    Args:
        model: maps images to logits (B, K).
        xrays: training and test set.
        images: the same, cropped, flipped and normalised.
        facts: all that the run is.
        eval_every_epochs: how often it is measured.
    """

    def __init__(
        self,
        model: nn.Module,
        xrays: XrayData,
        images: ImagesInMemory,
        facts: dict,
        *,
        eval_every_epochs: int = 1,
    ) -> None:
        super().__init__(
            model,
            images,
            images.recipe,
            facts,
            seed=images.seed,
            eval_every_epochs=eval_every_epochs,
        )
        self.xrays, self.images = xrays, images

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean binary cross-entropy over findings, or the cross-entropy over classes."""
        if not self.xrays.is_multi_label:
            return super().loss(model, batch)
        images, labels = batch
        return F.binary_cross_entropy_with_logits(model(images).float(), labels.float())

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, Any]:
        """Return accuracy and AUC on the test set, overall and of each class, see `measure`."""
        found = [
            (model(images).float().cpu(), labels.cpu())
            for images, labels in self.images.test_batches(device)
        ]
        logits, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        return {**measure(logits, labels, self.xrays.class_names), "num_test": len(labels)}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = command_parser("xray", __doc__)
    made.add_argument("--path", required=True, help="an .npz, or a folder")
    made.add_argument("--img_size", type=int, help="of a folder's images; 224")
    made.add_argument("--in_chans", type=int, choices=(1, 3), help="of a folder's images; 1")
    made.add_argument("--masks", default="", help="folder of masks of the test images")
    add_network_arguments(made)
    add_training_arguments(made)
    made.set_defaults(data="xray")
    return made


def make_task(arguments: argparse.Namespace) -> XrayClassification:
    """Make what a command line asks for: data, network, unit.

    Raises:
        InputError: if something does not fit.
    """
    if arguments.img_size is not None and not 8 <= arguments.img_size <= 2048:
        raise InputError(f"--img_size {arguments.img_size}: allowed is 8 to 2048")
    recipe = chosen_recipe(arguments)
    xrays = load_xrays(
        arguments.path,
        img_size=arguments.img_size,
        in_chans=arguments.in_chans,
        masks=arguments.masks,
    )
    images = ImagesInMemory(
        xrays.train.name,
        xrays.train,
        xrays.test,
        recipe,
        augments=not arguments.no_augmentation,
        seed=arguments.seed,
    )
    num_classes = len(xrays.class_names)
    network = Images(images.in_chans, images.img_size, num_classes)
    model, num_weights = make_network(arguments, network)
    moves = ("workdir", "path", "masks")  # of a run and its data
    facts = {
        **{name: value for name, value in vars(arguments).items() if name not in moves},
        "training": asdict(recipe),
        "class_names": list(xrays.class_names),
        "num_train": len(xrays.train),
        "train_sha256": xrays.train.fingerprint(),
        "test_sha256": xrays.test.fingerprint(),
        "unit_weights": num_weights,
        "weights": sum(p.numel() for p in model.parameters()),
    }
    return XrayClassification(
        model, xrays, images, facts, eval_every_epochs=arguments.eval_every_epochs
    )


def main(argv: list[str] | None = None) -> None:
    """Train as the command line says; wrong input ends with one line and exit code 2."""
    arguments = parser().parse_args(argv)
    train("xray", lambda: make_task(arguments), arguments.workdir)


if __name__ == "__main__":
    main()
