"""The order of batches, flips, and the conversion between bytes and model range."""

import pytest
import torch

from uvit_dia.data.batches import BatchOrder, TrainingBatches
from uvit_dia.data.images import ImageSet, to_model_range, to_uint8
from uvit_dia.system.errors import InputError


def image_set(num_images: int, side: int = 4) -> ImageSet:
    """Make images that differ from each other, and each from its mirror."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (num_images, 3, side, side), generator=generator)
    return ImageSet("noise", pixels.to(torch.uint8))


# ---------------------------------------------------------------- bytes and model range


def test_every_byte_survives_the_round_trip() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    x_0 = to_model_range(images)
    assert x_0.dtype == torch.float32
    torch.testing.assert_close(to_uint8(x_0), images, rtol=0, atol=0)


def test_model_range_ends_at_one_and_is_linear() -> None:
    x_0 = to_model_range(torch.tensor([0, 51, 255], dtype=torch.uint8))
    torch.testing.assert_close(x_0, torch.tensor([-1.0, -0.6, 1.0]), rtol=0, atol=1e-7)


def test_bytes_are_rounded_to_the_nearest_and_clipped() -> None:
    """Truncation, as `.to(uint8)` alone does, would darken every image by half a level."""
    levels = torch.tensor([10.4, 10.6, 254.6, 0.4, 300.0, -50.0])
    images = to_uint8((levels - 127.5) / 127.5)
    assert images.dtype == torch.uint8
    assert images.tolist() == [10, 11, 255, 0, 255, 0]


def test_bytes_are_computed_in_float32() -> None:
    x_0 = torch.linspace(-1, 1, 10_001).to(torch.bfloat16)
    expected = (x_0.double() * 127.5 + 127.5).round().to(torch.uint8)
    torch.testing.assert_close(to_uint8(x_0), expected, rtol=0, atol=0)


# ---------------------------------------------------------------- order


@pytest.mark.parametrize(("num_images", "batch_size"), [(12, 4), (10, 4), (7, 7), (23, 5)])
def test_each_epoch_sees_each_image_once(num_images: int, batch_size: int) -> None:
    """Also where epochs end inside of batches: nothing is dropped or repeated there."""
    order = BatchOrder(num_images, batch_size, seed=1)
    num_epochs = 6
    num_steps = -(-num_epochs * num_images // batch_size)
    stream = torch.cat([order.indices(step, range(batch_size)) for step in range(num_steps)])
    for epoch in stream[: num_epochs * num_images].reshape(num_epochs, num_images):
        assert epoch.sort().values.tolist() == list(range(num_images))


def test_epochs_and_seeds_differ() -> None:
    orders = [
        BatchOrder(100, 100, seed).indices(step, range(100)) for seed in (0, 1) for step in (0, 1)
    ]
    assert len(torch.stack(orders).unique(dim=0)) == 4


@pytest.mark.parametrize("num_ranks", [2, 3, 6])
def test_ranks_together_read_the_whole_batch(num_ranks: int) -> None:
    order = BatchOrder(20, 12, seed=2)
    share = 12 // num_ranks
    for step in range(7):
        whole = order.indices(step, range(12))
        ranks = [
            BatchOrder(20, 12, seed=2).indices(step, range(r * share, (r + 1) * share))
            for r in range(num_ranks)
        ]
        torch.testing.assert_close(torch.cat(ranks), whole, rtol=0, atol=0)


def test_no_rows_are_no_images() -> None:
    assert BatchOrder(20, 8, seed=0).indices(3, range(8, 8)).tolist() == []


def test_an_order_that_starts_at_any_step_is_the_same() -> None:
    order = BatchOrder(11, 4, seed=3)
    stream = [order.indices(step, range(4)) for step in range(30)]
    for step in (0, 1, 2, 5, 17, 29):
        fresh = BatchOrder(11, 4, seed=3).indices(step, range(4))
        torch.testing.assert_close(fresh, stream[step], rtol=0, atol=0)
    backwards = [order.indices(step, range(4)) for step in reversed(range(30))]
    torch.testing.assert_close(torch.stack(backwards[::-1]), torch.stack(stream), rtol=0, atol=0)


def test_a_set_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(InputError, match=r"train\.batch_size = 128.*10 images"):
        BatchOrder(10, 128, seed=0)
    with pytest.raises(InputError, match=r"train\.batch_size = 128.*10 images"):
        TrainingBatches(image_set(10), 128, seed=0, random_flip=False, device="cpu")


# ---------------------------------------------------------------- batches


def batches(*, random_flip: bool, num_images: int = 50, batch_size: int = 20) -> TrainingBatches:
    return TrainingBatches(
        image_set(num_images), batch_size, seed=5, random_flip=random_flip, device="cpu"
    )


def test_without_flips_a_batch_is_its_images() -> None:
    made = batches(random_flip=False)
    for step in range(4):
        x_0 = made.x_0(step, range(20))
        expected = made.images[made.order.indices(step, range(20))]
        torch.testing.assert_close(to_uint8(x_0), expected, rtol=0, atol=0)


def test_flips_mirror_about_half_of_the_images_left_to_right() -> None:
    made = batches(random_flip=True)
    num_steps, flipped = 100, 0
    for step in range(num_steps):
        images = to_uint8(made.x_0(step, range(20)))
        plain = made.images[made.order.indices(step, range(20))]
        is_plain = (images == plain).flatten(1).all(dim=1)
        is_mirror = (images == plain.flip(-1)).flatten(1).all(dim=1)
        assert (is_plain ^ is_mirror).all()
        flipped += int(is_mirror.sum())
    count = num_steps * 20
    assert abs(flipped - count / 2) < 5 * (count / 4) ** 0.5


def test_an_image_is_not_flipped_the_same_way_in_every_epoch() -> None:
    made = batches(random_flip=True, num_images=20, batch_size=20)
    seen = torch.stack(
        [
            to_uint8(made.x_0(step, range(20)))[made.order.indices(step, range(20)).argsort()]
            for step in range(30)
        ]
    )
    assert all(len(seen[:, image].unique(dim=0)) == 2 for image in range(20))


def test_flips_are_a_function_of_the_step_and_of_the_place_in_the_batch() -> None:
    made, again = batches(random_flip=True), batches(random_flip=True)
    whole = [made.x_0(step, range(20)) for step in range(5)]
    for step in (
        4,
        2,
        0,
    ):  # as a resumed run would, in slices as two ranks and a part of a batch do
        parts = [again.x_0(step, rows) for rows in (range(3), range(3, 10), range(10, 20))]
        torch.testing.assert_close(torch.cat(parts), whole[step], rtol=0, atol=0)


# ---------------------------------------------------------------- image sets


def test_fingerprint_tells_pixels_and_shapes_apart() -> None:
    images = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)
    changed = images.clone()
    changed[0, 0, 7, 7] += 1
    sets = [images, changed, images.reshape(1, 4, 4, 4), images.reshape(4, 1, 4, 4)]
    prints = {ImageSet("x", pixels).fingerprint() for pixels in sets}
    assert len(prints) == 4
    assert ImageSet("y", images.clone()).fingerprint() in prints
    transposed = images.transpose(2, 3)  # the same storage, other pixels
    assert ImageSet("x", transposed).fingerprint() not in prints
    assert len(ImageSet("x", sets[3])) == 4
