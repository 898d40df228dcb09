"""Image sets by name: the digits, an unknown name, and real images, read from end to end."""

from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits

from tests.support.image_sets import labels_of, load, must_load
from uvit_dia.data.cifar10 import CLASSES
from uvit_dia.system.errors import InputError


def test_digits() -> None:
    image_set = must_load("digits", "", in_chans=1)
    assert image_set.images.shape == (1797, 1, 8, 8)
    assert image_set.images.dtype == torch.uint8
    assert (int(image_set.images.min()), int(image_set.images.max())) == (0, 255)
    assert len(image_set.images.unique()) == 17
    digits = load_digits()
    levels = (image_set.images[:, 0].double() * (16 / 255)).round()
    torch.testing.assert_close(levels, torch.from_numpy(digits.images), rtol=0, atol=0)
    assert labels_of(image_set) == digits.target.tolist()
    assert image_set.class_names == tuple("0123456789")
    assert load("digits", "", "test", in_chans=1) is None


def test_digits_have_one_size() -> None:
    with pytest.raises(InputError, match=r"\(1, 8, 8\).*model\.img_size = 16.*\(3, 16, 16\)"):
        load("digits", "", img_size=16)


def test_an_unknown_set_is_refused() -> None:
    with pytest.raises(InputError, match=r"data\.name = 'imagenet'.*digits, cifar10"):
        load("imagenet", "")


def test_cifar10_pixels(shared_folder: Path) -> None:
    """All 60,000 images of CIFAR-10 (from a JPEG mirror), where they lie beside the project."""
    folder = shared_folder / "data" / "cifar10-jpeg"
    if not folder.is_dir():
        pytest.skip("there are no CIFAR-10 images beside the project")
    train = must_load("parquet", folder, img_size=32)
    test = must_load("parquet", folder, "test", img_size=32)
    assert train.images.shape == (50_000, 3, 32, 32)
    assert test.images.shape == (10_000, 3, 32, 32)
    assert train.class_names == test.class_names == CLASSES
    assert train.labels is not None and test.labels is not None
    assert train.labels.bincount().tolist() == [5000] * 10
    assert test.labels.bincount().tolist() == [1000] * 10
    means = train.images.double().mean(dim=(0, 2, 3)) / 255  # the figures that everybody uses
    torch.testing.assert_close(
        means, torch.tensor([0.4914, 0.4822, 0.4465]).double(), rtol=0, atol=2e-3
    )
