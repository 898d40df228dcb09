"""Labels that a network is told: checked, dropped by position, never parted from their images."""

import pytest
import torch

from tests.support.configs import changed
from uvit_dia.config.checks import make_config
from uvit_dia.data.batches import TrainingBatches
from uvit_dia.data.images import ImageSet
from uvit_dia.data.labels import check_labels
from uvit_dia.system.errors import InputError

CONDITIONAL = make_config(changed({"model.num_classes": 11, "train.label_dropout": 0.1}))
NULL = 10


def image_set(classes: torch.Tensor | None, names: tuple[str, ...] = ()) -> ImageSet:
    """Return images whose grey level is their class times 20, brighter on the left half."""
    count = 50 if classes is None else len(classes)
    level = torch.arange(count) if classes is None else classes * 20
    images = level.clamp(min=0).to(torch.uint8)[:, None, None, None].repeat(1, 1, 4, 4)
    images[..., :2] += 5
    return ImageSet("made", images, classes, names)


def batches(
    classes: torch.Tensor, *, rate: float = 0.0, batch_size: int = 16, seed: int = 0
) -> TrainingBatches:
    return TrainingBatches(
        image_set(classes),
        batch_size,
        seed=seed,
        random_flip=True,
        device="cpu",
        has_classes=True,
        null_class=NULL if rate else None,
        label_dropout=rate,
    )


def test_labels_follow_their_images_through_order_and_flips() -> None:
    made = batches(torch.arange(50) % 10)
    flipped = 0
    for step in range(12):  # several epochs, whose ends lie within batches
        x_0 = made.x_0(step, range(16))
        labels = made.class_labels(step, range(16))
        assert labels is not None
        levels = ((x_0 + 1) * 127.5).round()
        assert torch.equal(levels.amin(dim=(1, 2, 3)).long(), labels * 20)
        flipped += int((levels[:, 0, 0, 0] < levels[:, 0, 0, 3]).sum())
    assert 60 < flipped < 132


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_labels_are_the_same_on_any_number_of_processes(rate: float) -> None:
    made = batches(torch.arange(50) % 10, rate=rate)
    for step in (0, 3):
        whole = made.class_labels(step, range(16))
        parts = [made.class_labels(step, rows) for rows in (range(8), range(8, 12), range(12, 16))]
        assert whole is not None and torch.equal(whole, torch.cat(parts))  # type: ignore[arg-type]
        assert torch.equal(
            whole, batches(torch.arange(50) % 10, rate=rate).class_labels(step, range(16))
        )  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_labels_are_dropped_at_their_rate(rate: float) -> None:
    classes = torch.arange(64) % 10
    made = batches(classes, rate=rate, batch_size=64)
    kept = batches(classes, batch_size=64)
    dropped = 0
    for step in range(200):
        labels, true = (b.class_labels(step, range(64)) for b in (made, kept))
        assert labels is not None and true is not None
        dropped += int((labels == NULL).sum())
        assert torch.equal(labels[labels != NULL], true[labels != NULL])
    draws = 200 * 64
    assert abs(dropped - rate * draws) < 3 * (draws * rate * (1 - rate)) ** 0.5


def test_dropping_shifts_no_other_draw() -> None:
    classes = torch.arange(50) % 10
    for step in (0, 5):
        assert torch.equal(
            batches(classes, rate=0.5).x_0(step, range(16)), batches(classes).x_0(step, range(16))
        )


def test_a_network_without_classes_is_told_none() -> None:
    made = TrainingBatches(
        image_set(torch.arange(50) % 10), 16, seed=0, random_flip=False, device="cpu"
    )
    assert made.class_labels(0, range(16)) is None


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (None, "made has no labels"),
        (torch.tensor([0, -1, 3, -1]), "2 of 4 images of made have no label"),
        (torch.arange(9), "stands for 10 classes, and one label for no class; made has 9"),
        (torch.arange(11), "made has 11"),
    ],
    ids=str,
)
def test_labels_that_do_not_fit_are_refused(classes: torch.Tensor | None, said: str) -> None:
    with pytest.raises(InputError) as refused:
        check_labels(image_set(classes), CONDITIONAL)
    assert said in str(refused.value)
    check_labels(image_set(classes), make_config(changed()))  # who is told nothing asks for nothing


def test_a_class_without_images_counts() -> None:
    check_labels(image_set(torch.zeros(20).long(), tuple("0123456789")), CONDITIONAL)
