"""Images with classes for `examples.classification`: in memory, or a folder as ImageNet comes.

Order, crops and flips of images in memory are functions of seed, epoch and position. A folder's
images are decoded by torchvision in worker processes, whose draws follow from seed and epoch too.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from examples.classification_recipes import Recipe
from uvit_dia.data.images import ImageSet
from uvit_dia.data.sources import load_image_set
from uvit_dia.rng import integer_rows, permutation, position_seed
from uvit_dia.system.errors import InputError

IN_MEMORY = {"digits": (8, 1), "cifar10": (32, 3), "parquet": (32, 3), "cifar100": (32, 3)}
DATA_NAMES = (*IN_MEMORY, "stl10", "folder")
NUM_TEST_DIGITS = 360
SPLIT_SEED = 0  # of digits, which have no test set of their own; the same whatever the run's seed
TEST_BATCH_SIZE = 500
MEASURED_AT_A_TIME = 1000
FOLDER_SIDE = 224
NUM_WORKERS = min(4, os.cpu_count() or 1)  # that decode images

Batch = tuple[Tensor, Tensor]  # images (B, C, H, W) float32, labels (B,) int64


@dataclass(frozen=True)
class Share:
    """Which part of each batch a process trains on.

    Attributes:
        rank: of the process.
        ranks: how many there are.
        device: where it computes.
    """

    rank: int
    ranks: int
    device: torch.device


class ImagesInMemory:
    """A training and a test set as uint8 tensors.

    Args:
        name: what the data are called.
        train: with labels.
        test: with labels.
        recipe: crops and flips.
        augments: whether training images are cropped and flipped.
        seed: of order, crops and flips.

    Raises:
        InputError: if images have no labels, or there are fewer than a batch.
    """

    def __init__(
        self,
        name: str,
        train: ImageSet,
        test: ImageSet,
        recipe: Recipe,
        *,
        augments: bool,
        seed: int,
    ) -> None:
        for images in (train, test):
            if images.labels is None or int(images.labels.min()) < 0:
                raise InputError(f"--data {name}: {images.source} has images without a class")
        if len(train) < recipe.batch_size:
            raise InputError(
                f"--batch_size {recipe.batch_size} is larger than the {len(train)} training images"
            )
        self.name, self.seed, self.recipe = name, seed, recipe
        self.augments = augments
        self.train, self.test = train, test
        self.in_chans, self.img_size = train.shape[0], train.shape[1]
        assert train.labels is not None  # looked at above
        assert test.labels is not None
        self.num_classes = int(max(train.labels.max(), test.labels.max())) + 1
        mean, std = mean_and_std(train.images)
        self._mean, self._std = mean[:, None, None].float(), std[:, None, None].float()

    def fingerprint(self) -> str:
        """Return the SHA-256 of the training images, as hex digits."""
        return self.train.fingerprint()

    def num_batches(self) -> int:
        """Return how many whole batches an epoch has."""
        return len(self.train) // self.recipe.batch_size

    def batches(self, epoch: int, share: Share) -> Iterator[Batch]:
        """Yield a process's part of the batches of an epoch."""
        size, labels = self.recipe.batch_size, self.train.labels
        assert labels is not None
        order = permutation(self.seed, "classification order", epoch, len(self.train))
        rows = range(share.rank * size // share.ranks, (share.rank + 1) * size // share.ranks)
        for batch in range(self.num_batches()):
            chosen = order[batch * size :][rows.start : rows.stop]
            images = self.normalised(self.train.images[chosen])
            if self.augments:
                images = self._augmented(images, epoch * self.num_batches() + batch, rows)
            yield images.to(share.device), labels[chosen].to(share.device)

    def normalised(self, images: Tensor) -> Tensor:
        """Return uint8 images (B, C, H, W) as the network takes them, by the training set."""
        return (images.float() / 255 - self._mean) / self._std

    def _augmented(self, images: Tensor, step: int, rows: range) -> Tensor:
        """Crop and flip, by draws that belong to the positions of the global batch."""

        def draw(purpose: str, high: int) -> Tensor:
            name = f"classification {purpose}"
            return integer_rows(self.seed, name, step, rows, self.recipe.batch_size, high)

        side = images.shape[-1]
        margin = max(1, side // 8)
        images = F.pad(images, (margin,) * 4)
        span = torch.arange(side)
        down = draw("rows", 2 * margin + 1)[:, None] + span  # B H
        right = draw("columns", 2 * margin + 1)[:, None] + span  # B W
        which = torch.arange(len(images))[:, None, None]
        images = images[which, :, down[:, :, None], right[:, None, :]].permute(0, 3, 1, 2)
        if self.recipe.flip:
            flips = draw("flips", 2).bool()[:, None, None, None]
            images = torch.where(flips, images.flip(-1), images)
        return images

    def test_batches(self, device: torch.device) -> Iterator[Batch]:
        """Yield the test set."""
        assert self.test.labels is not None
        parts = zip(
            self.test.images.split(TEST_BATCH_SIZE),
            self.test.labels.split(TEST_BATCH_SIZE),
            strict=True,
        )
        for images, labels in parts:
            yield self.normalised(images).to(device), labels.to(device)


def mean_and_std(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel, (C,) float64, of pixels in [0, 1].

    Sums are whole numbers, taken in parts: a large set is never in memory as floats.

    Args:
        images: (N, C, H, W) uint8.
    """
    totals = torch.zeros(2, images.shape[1], dtype=torch.int64)
    for part in images.split(MEASURED_AT_A_TIME):
        pixels = part.long()
        totals += torch.stack([pixels.sum(dim=(0, 2, 3)), (pixels**2).sum(dim=(0, 2, 3))])
    count = images.numel() // images.shape[1]
    total, squares = totals.double()
    variance = (squares - total**2 / count) / (count - 1)
    return total / count / 255, variance.sqrt() / 255


class ImageFolders:
    """A folder with `train` and `val`, each with one folder a class, as ImageNet comes.

    Args:
        path: of the folder.
        recipe: crops and flips.
        augments: whether training images are cropped at random and flipped.
        seed: of order, crops and flips.

    Raises:
        InputError: if the folders are not there, or their classes differ.
    """

    def __init__(self, path: Path, recipe: Recipe, *, augments: bool, seed: int) -> None:
        from torchvision.datasets import ImageFolder
        from torchvision.transforms import v2

        to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
        normalise = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        centre = [v2.Resize(FOLDER_SIDE * 8 // 7), v2.CenterCrop(FOLDER_SIDE)]
        random = [v2.RandomResizedCrop(FOLDER_SIDE), v2.RandomHorizontalFlip()]
        for part in ("train", "val"):
            if not (path / part).is_dir():
                raise InputError(f"--path {path}: no folder {part} with one folder a class")
        try:
            self.train = ImageFolder(
                path / "train",
                v2.Compose([*(random if augments else centre), *to_tensor, normalise]),
            )
            self.test = ImageFolder(path / "val", v2.Compose([*centre, *to_tensor, normalise]))
        except FileNotFoundError as error:
            raise InputError(f"--path {path}: {error}") from error
        if self.train.classes != self.test.classes:
            raise InputError(f"--path {path}: train and val have different classes")
        self.name, self.seed, self.recipe = path.name, seed, recipe
        self.in_chans, self.img_size = 3, FOLDER_SIDE
        self.num_classes = len(self.train.classes)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the training files' names and classes, as hex digits."""
        root = Path(self.train.root)
        names = [(str(Path(file).relative_to(root)), label) for file, label in self.train.samples]
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()

    def num_batches(self) -> int:
        """Return how many whole batches an epoch has."""
        return len(self.train) // self.recipe.batch_size

    def batches(self, epoch: int, share: Share) -> Iterator[Batch]:
        """Yield a process's part of the batches of an epoch."""
        size = self.recipe.batch_size // share.ranks
        order = permutation(self.seed, "classification order", epoch, len(self.train))
        mine = order[: self.num_batches() * size * share.ranks].view(-1, share.ranks, size)
        loader = torch.utils.data.DataLoader(
            self.train,
            batch_sampler=mine[:, share.rank].tolist(),
            num_workers=NUM_WORKERS,
            generator=torch.Generator().manual_seed(
                position_seed(self.seed, "workers", epoch * share.ranks + share.rank)
            ),
        )
        for images, labels in loader:
            yield images.to(share.device), labels.to(share.device)

    def test_batches(self, device: torch.device) -> Iterator[Batch]:
        """Yield the test set."""
        loader = torch.utils.data.DataLoader(
            self.test, batch_size=TEST_BATCH_SIZE // 4, num_workers=NUM_WORKERS
        )
        for images, labels in loader:
            yield images.to(device), labels.to(device)


ClassData = ImagesInMemory | ImageFolders


def load_data(
    name: str,
    path: str,
    recipe: Recipe,
    *,
    augments: bool,
    seed: int,
    num_train: int | None = None,
) -> ClassData:
    """Read images with classes.

    Args:
        name: one of `DATA_NAMES`.
        path: of the files; "" for digits, and for CIFAR-10 in the user's cache.
        recipe: batch size, crops and flips.
        augments: whether training images are cropped and flipped.
        seed: of order, crops and flips.
        num_train: how many training images are used, the same for every seed; None for all.

    Raises:
        InputError: if there are no such data.
    """
    if name == "folder":
        return ImageFolders(Path(path).expanduser(), recipe, augments=augments, seed=seed)
    if name in ("cifar100", "stl10"):
        train, test = _by_torchvision(name, path)
    elif name == "digits":
        train, test = _digits()
    else:
        side, channels = IN_MEMORY[name]
        train, test = (
            load_image_set(name, path, split, img_size=side, in_chans=channels)
            for split in ("train", "test")
        )
        if test is None or train is None:
            raise InputError(f"--path {path}: there is no test set")
    if num_train is not None:
        if not recipe.batch_size <= num_train <= len(train):
            raise InputError(
                f"--num_train {num_train}: allowed is {recipe.batch_size}, a batch, to "
                f"{len(train)}, the training images"
            )
        chosen = permutation(SPLIT_SEED, "classification subset", 0, len(train))[:num_train]
        train = train.subset(chosen, note=f"{num_train} of them")
    return ImagesInMemory(name, train, test, recipe, augments=augments, seed=seed)


def _digits() -> tuple[ImageSet, ImageSet]:
    digits = load_image_set("digits", "", "train", img_size=8, in_chans=1)
    assert digits is not None  # they come with scikit-learn
    order = permutation(SPLIT_SEED, "classification split", 0, len(digits))
    test, train = order[:NUM_TEST_DIGITS], order[NUM_TEST_DIGITS:]
    return digits.subset(train, note="to train"), digits.subset(test, note="to test")


def _by_torchvision(name: str, path: str) -> tuple[ImageSet, ImageSet]:
    """Read CIFAR-100 or STL-10 as torchvision downloads them; it checks their hashes first."""
    from torchvision import datasets

    kind = {"cifar100": datasets.CIFAR100, "stl10": datasets.STL10}[name]
    found = []
    for is_train in (True, False):
        which = {"train": is_train} if name == "cifar100" else {"split": _split(is_train)}
        try:
            data = kind(path, download=False, **which)
        except RuntimeError as error:
            raise InputError(
                f"--path {path}: no {name} here, or it is damaged; "
                f"torchvision.datasets.{kind.__name__}({path!r}, download=True) fetches it"
            ) from error
        pixels = torch.from_numpy(data.data)
        images = pixels.permute(0, 3, 1, 2).contiguous() if name == "cifar100" else pixels
        labels = torch.as_tensor(data.targets if name == "cifar100" else data.labels)
        found.append(ImageSet(name, images, labels.long(), tuple(data.classes)))
    return found[0], found[1]


def _split(is_train: bool) -> str:
    return "train" if is_train else "test"
