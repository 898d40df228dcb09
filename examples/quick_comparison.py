"""What the short comparisons share: images with classes, a minute of training, two accuracies."""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uvit_dia.data.images import ImageSet, to_model_range
from uvit_dia.data.sources import load_image_set
from uvit_dia.models.other_backbones.hooks import SharedAttention
from uvit_dia.models.units.registry import ATTENTION_NAMES
from uvit_dia.system.errors import InputError

SPLIT_SEED = 0  # of digits, which have no test set of their own; the same whatever --seed is
NUM_TEST_DIGITS = 360
TEST_BATCH_SIZE = 512
MIN_BATCH_SIZE = 2  # batch normalisation has nothing to do with one image
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Classes:
    """Images of ten classes, split for training and testing.

    Attributes:
        name: what the set is called.
        train: training images and labels.
        test: test images and labels.
    """

    name: str
    train: ImageSet
    test: ImageSet

    @property
    def in_chans(self) -> int:
        """Channels of the images."""
        return self.train.images.shape[1]

    @property
    def img_size(self) -> int:
        """Side of the images in pixels."""
        return self.train.images.shape[2]


def read_input(description: str, num_epochs: int) -> tuple[argparse.Namespace, Classes]:
    """Read the command line and the images.

    What does not fit ends the program with one line and exit code 2.

    Args:
        description: the first lines of --help.
        num_epochs: the default of --num_epochs.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--unit", default="dia_lstm", choices=ATTENTION_NAMES[1:])
    parser.add_argument("--unshared", action="store_true", help="one unit a block, not one a stage")
    parser.add_argument("--cifar10", metavar="FOLDER", help="that holds cifar-10-binary.tar.gz")
    parser.add_argument("--num_epochs", type=int, default=num_epochs)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="of weights and of the images' order")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    if arguments.num_epochs < 1:
        parser.error(f"--num_epochs {arguments.num_epochs}: allowed is 1 or more")
    if not 0 <= arguments.seed <= MAX_SEED:
        parser.error(f"--seed {arguments.seed}: allowed is 0 to {MAX_SEED}")
    if not _is_usable(arguments.device):
        parser.error(f"--device {arguments.device}: torch cannot use it here")
    try:
        classes = load_classes(arguments.cifar10)
    except InputError as error:
        parser.error(str(error))
    most = len(classes.train)
    if not MIN_BATCH_SIZE <= arguments.batch_size <= most:
        parser.error(
            f"--batch_size {arguments.batch_size}: allowed is {MIN_BATCH_SIZE} to {most}, the"
            " training images"
        )
    return arguments, classes


def _is_usable(device: str) -> bool:
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError):  # the latter where torch was built without it
        return False
    return True


def load_classes(cifar10: str | None) -> Classes:
    """Read scikit-learn's digits, or CIFAR-10 from a folder.

    Raises:
        InputError: if CIFAR-10 is not there.
    """
    if cifar10 is not None:
        sets = [
            load_image_set("cifar10", cifar10, split, img_size=32, in_chans=3)
            for split in ("train", "test")
        ]
        train, test = sets
        assert train is not None  # CIFAR-10 has both splits
        assert test is not None
        return Classes("CIFAR-10", train, test)
    digits = load_image_set("digits", "", "train", img_size=8, in_chans=1)
    assert digits is not None  # digits come with scikit-learn
    assert digits.labels is not None
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(SPLIT_SEED))
    parts = [
        ImageSet("digits", digits.images[rows], digits.labels[rows])
        for rows in (order[NUM_TEST_DIGITS:], order[:NUM_TEST_DIGITS])
    ]
    return Classes("digits", *parts)


def train(model: nn.Module, images: ImageSet, arguments: argparse.Namespace) -> None:
    """Train with AdamW, one cycle of the learning rate and cross-entropy."""
    x, labels = _tensors(images, arguments.device)
    steps_per_epoch = len(x) // arguments.batch_size
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2e-3, total_steps=arguments.num_epochs * steps_per_epoch
    )
    orders = torch.Generator().manual_seed(arguments.seed)
    model.train()
    for _ in range(arguments.num_epochs):
        order = torch.randperm(len(x), generator=orders)
        for rows in order[: steps_per_epoch * arguments.batch_size].split(arguments.batch_size):
            loss = F.cross_entropy(model(x[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def accuracy(model: nn.Module, images: ImageSet, device: str) -> float:
    """Return the share of images whose class is found, in percent."""
    x, labels = _tensors(images, device)
    model.eval()
    logits = torch.cat([model(part) for part in x.split(TEST_BATCH_SIZE)])
    return 100 * (logits.argmax(dim=1) == labels).float().mean().item()


def compare(
    name: str,
    classes: Classes,
    make_model: Callable[[], nn.Module],
    put_unit: Callable[[nn.Module], SharedAttention],
    arguments: argparse.Namespace,
) -> None:
    """Train a model without and with the unit from the same weights, and print what came out."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    for has_unit in (False, True):
        torch.manual_seed(arguments.seed)
        model = make_model()
        num_weights = put_unit(model).num_weights() if has_unit else 0
        torch.manual_seed(arguments.seed)  # what drops while training
        started = time.monotonic()
        train(model.to(arguments.device), classes.train, arguments)
        seconds = time.monotonic() - started
        found = accuracy(model, classes.test, arguments.device)
        label = f"with {arguments.unit}" if has_unit else "without a unit"
        print(
            f"{name} on {classes.name}, {label}: test accuracy {found:.2f} % of"
            f" {len(classes.test)} images, {num_weights:,} added weights,"
            f" {arguments.num_epochs} epochs in {seconds:.0f} s"
        )
    print(
        "A minute of training with one seed shows that the unit trains here, and nothing about the"
        " paper's claim."
    )


def _tensors(images: ImageSet, device: str) -> tuple[Tensor, Tensor]:
    assert images.labels is not None  # both sets have classes
    return to_model_range(images.images).to(device), images.labels.to(device)
