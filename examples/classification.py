"""Train a classifier with or without a shared attention unit, by the paper's recipe.

    python -m examples.classification --workdir runs/digits --data digits --unit dia_lstm
    python -m examples.classification --workdir runs/r164 --model resnet --depth 164 \
        --data cifar100 --path data --unit dia_lstm
    accelerate launch -m examples.classification --workdir runs/r50 --model tv_resnet50 \
        --data folder --path IMAGENET --recipe imagenet --unit dia_lstm_light

The same command again goes on after the last whole epoch. metrics.jsonl has a line an epoch,
record.json what came out. `python -m examples.classification_sweep` compares units over seeds.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from examples.classification_data import DATA_NAMES, Batch, ClassData, Share, load_data
from examples.classification_models import MODEL_NAMES, Images, add_unit, make_classifier
from examples.classification_recipes import RECIPES, ByRecipe, Recipe
from examples.command import command_parser
from examples.training import MAX_GRAD_NORM, train
from examples.unit_options import add_unit_arguments, unit_options
from uvit_dia.system.errors import InputError

MAX_SEED = 2**31 - 1


class Classification(ByRecipe):
    """A classifier in training, as `training.fit` takes it.

    Args:
        model: maps images to logits (B, K).
        data: images with classes.
        recipe: of the training.
        facts: all that the run is.
        seed: of the run.
        eval_every_epochs: distance between evaluations.
    """

    max_grad_norm = MAX_GRAD_NORM

    def __init__(
        self,
        model: nn.Module,
        data: ClassData,
        recipe: Recipe,
        facts: dict[str, Any],
        *,
        seed: int,
        eval_every_epochs: int = 1,
    ) -> None:
        self.model, self.data, self.recipe = model, data, recipe
        self.facts: Mapping[str, object] = facts
        self.seed, self.num_epochs, self.batch_size = seed, recipe.num_epochs, recipe.batch_size
        self.eval_every_epochs = eval_every_epochs

    def num_batches(self) -> int:
        """Return how many steps an epoch has."""
        return self.data.num_batches()

    def batches(self, epoch: int, accelerator: Accelerator) -> Iterator[Batch]:
        """Yield this process's share of each batch of an epoch."""
        share = Share(accelerator.process_index, accelerator.num_processes, accelerator.device)
        return self.data.batches(epoch, share)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy of a batch, ()."""
        images, labels = batch
        return F.cross_entropy(
            model(images).float(), labels, label_smoothing=self.recipe.label_smoothing
        )

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, Any]:
        """Return accuracy in percent and mean cross-entropy on the test set."""
        correct = count = 0
        total = 0.0
        for images, labels in self.data.test_batches(device):
            logits = model(images).float()
            correct += int((logits.argmax(dim=1) == labels).sum())
            total += float(F.cross_entropy(logits, labels, reduction="sum"))
            count += len(labels)
        return {"accuracy": 100 * correct / count, "test_loss": total / count, "num_test": count}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = command_parser("classification", __doc__)
    made.add_argument("--data", default="digits", choices=DATA_NAMES)
    made.add_argument("--path", default="", help="where the data lie")
    made.add_argument("--num_train", type=int, help="training images that are used, not all")
    add_network_arguments(made)
    add_training_arguments(made)
    return made


def add_network_arguments(made: argparse.ArgumentParser) -> None:
    """Add what chooses the network and its unit."""
    made.add_argument("--model", default="resnet", choices=MODEL_NAMES)
    made.add_argument("--depth", type=int, default=20, help="layers of --model resnet")
    add_unit_arguments(made)
    made.add_argument("--no_norm", action="store_true", help="blocks without normalisation")
    made.add_argument("--no_skip", action="store_true", help="blocks without skip connections")


def add_training_arguments(made: argparse.ArgumentParser) -> None:
    """Add the run's folder, and what chooses how it is trained."""
    made.add_argument("--workdir", required=True, help="folder of the run")
    made.add_argument("--no_augmentation", action="store_true", help="neither crops nor flips")
    made.add_argument("--recipe", choices=RECIPES, help="default: by the data")
    made.add_argument("--num_epochs", type=int)
    made.add_argument("--batch_size", type=int)
    made.add_argument("--learning_rate", type=float)
    made.add_argument("--eval_every_epochs", type=int, default=1)
    made.add_argument("--seed", type=int, default=0, help="of weights, order, crops and flips")


def chosen_recipe(arguments: argparse.Namespace) -> Recipe:
    """Return the recipe of a command line.

    Raises:
        InputError: if a number is out of its range.
    """
    by_data = {"digits": "digits", "folder": "imagenet", "xray": "xray"}
    recipe = RECIPES[arguments.recipe or by_data.get(arguments.data, "cifar")]
    for name, least in (("num_epochs", 1), ("batch_size", 2), ("learning_rate", 0.0)):
        value = getattr(arguments, name)
        if value is None:
            continue
        if not least <= value < 1e6:
            raise InputError(f"--{name} {value}: allowed is {least} or more, below a million")
        recipe = replace(recipe, **{name: value})
    if not 0 <= arguments.seed <= MAX_SEED:
        raise InputError(f"--seed {arguments.seed}: allowed is 0 to {MAX_SEED}")
    if arguments.eval_every_epochs < 1:
        raise InputError(f"--eval_every_epochs {arguments.eval_every_epochs}: allowed is 1 or more")
    return recipe


def make_network(arguments: argparse.Namespace, images: Images) -> tuple[nn.Module, int]:
    """Make the network of a command line; return it and how many weights its units have.

    Raises:
        InputError: if something does not fit.
    """
    options = unit_options(arguments)
    torch.manual_seed(arguments.seed)
    classifier = make_classifier(
        arguments.model,
        images,
        depth=arguments.depth,
        has_norm=not arguments.no_norm,
        has_skip=not arguments.no_skip,
    )
    num_weights = 0
    if arguments.unit != "none":
        unit = add_unit(
            classifier, images, arguments.unit, shared=not arguments.unshared, options=options
        )
        num_weights = unit.num_weights()
    return classifier.model, num_weights


def make_task(arguments: argparse.Namespace) -> Classification:
    """Make what a command line asks for: data, network, unit.

    Raises:
        InputError: if something does not fit.
    """
    recipe = chosen_recipe(arguments)
    data = load_data(
        arguments.data,
        arguments.path,
        recipe,
        augments=not arguments.no_augmentation,
        seed=arguments.seed,
        num_train=arguments.num_train,
    )
    images = Images(data.in_chans, data.img_size, data.num_classes)
    model, num_weights = make_network(arguments, images)
    moves = ("workdir", "path")  # a run and its data may lie elsewhere when it goes on
    facts = {
        **{name: value for name, value in vars(arguments).items() if name not in moves},
        "given": {
            "recipe": arguments.recipe,
            "num_train": arguments.num_train,
        },  # what follows hides
        "train_sha256": data.fingerprint(),
        "recipe": asdict(recipe),
        "num_train": data.num_batches() * recipe.batch_size,
        "unit_weights": num_weights,
        "weights": sum(p.numel() for p in model.parameters()),
    }
    return Classification(
        model,
        data,
        recipe,
        facts,
        seed=arguments.seed,
        eval_every_epochs=arguments.eval_every_epochs,
    )


def main(argv: list[str] | None = None) -> None:
    """Train as the command line says; wrong input ends with one line and exit code 2."""
    arguments = parser().parse_args(argv)
    train("classification", lambda: make_task(arguments), arguments.workdir)


if __name__ == "__main__":
    main()
