"""The floor against draws by hand and the known values of digits.

The Gaussian mark; both kept in the cache.
"""

import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.features import random_features, random_images
from uvit_dia.data.images import ImageSet
from uvit_dia.data.sources import load_image_set
from uvit_dia.evaluation import floor as floor_module
from uvit_dia.evaluation.cache import Cache
from uvit_dia.evaluation.extractor_files import find_extractor
from uvit_dia.evaluation.extractors import Extractor
from uvit_dia.evaluation.floor import Floor, num_draws, real_floor
from uvit_dia.evaluation.gaussian_mark import gaussian_images, pixel_moments
from uvit_dia.evaluation.metrics import frechet_distance
from uvit_dia.evaluation.real_images import RealImages
from uvit_dia.rng import permutation


def spy(calls: list[tuple[Tensor, Tensor]]) -> Callable[[Tensor, Tensor], float]:
    """Return a distance that notes what it is asked for."""

    def distance(features: Tensor, reference: Tensor) -> float:
        calls.append((features, reference))
        return float(len(calls))

    return distance


def rows(features: Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in features}


# --- which images are compared -------------------------------------------------------------------


def test_images_of_the_test_split_are_measured_against_the_whole_training_set() -> None:
    train, test = random_features(200, 4, 0), random_features(50, 4, 1)
    calls: list[tuple[Tensor, Tensor]] = []
    found = real_floor(train, test, 20, spy(calls))
    assert (found.split, found.num_images, found.draws) == ("test", 20, 20)
    assert "20 of 50 test images against 200 training images" in found.rule
    assert len(calls) == 20
    for draw, (features, reference) in enumerate(calls):
        assert torch.equal(features, test[permutation(0, "real floor", draw, 50)[:20]])
        assert reference is train
    assert found.value == pytest.approx(10.5)
    assert found.spread == pytest.approx(statistics.stdev(range(1, 21)))


@pytest.mark.parametrize("test", [None, random_features(50, 4, 1)])
@pytest.mark.parametrize("num_images", [60, 100])
def test_training_images_are_never_measured_against_themselves(
    test: Tensor | None, num_images: int
) -> None:
    train = random_features(200, 4, 0)
    calls: list[tuple[Tensor, Tensor]] = []
    found = real_floor(train, test, num_images, spy(calls))
    assert (found.split, found.num_images, found.draws) == ("train", num_images, 20)
    for features, reference in calls:
        assert len(features) == num_images
        assert len(reference) == 200 - num_images
        assert rows(features) | rows(reference) == rows(train)
        assert not rows(features) & rows(reference)
    assert len({frozenset(rows(features)) for features, _ in calls}) == 20


@pytest.mark.parametrize("test", [None, random_features(50, 4, 1)])
@pytest.mark.parametrize("num_images", [101, 200, 1000])
def test_there_is_no_floor_where_no_images_are_left_to_compare_with(
    test: Tensor | None, num_images: int
) -> None:
    found = real_floor(random_features(200, 4, 0), test, num_images, spy([]))
    assert (found.value, found.spread, found.draws, found.num_images) == (None, None, 0, None)
    assert f"no floor: 200 training images and {'50' if test is not None else 'no'} test" in (
        found.rule
    )
    assert str(num_images) in found.rule


def test_a_spread_needs_draws_that_share_less_than_half_of_their_images() -> None:
    train, test = random_features(300, 4, 0), random_features(50, 4, 1)
    for num_images, draws in ((25, 20), (26, 1), (50, 1)):
        found = real_floor(train, test, num_images, frechet_distance)
        assert (found.split, found.draws) == ("test", draws)
        assert (found.spread is None) == (draws == 1)


@pytest.mark.parametrize(
    ("num_features", "draws"), [(1, 20), (64, 20), (256, 20), (512, 16), (768, 4), (2048, 4)]
)
def test_large_features_get_fewer_draws(num_features: int, draws: int) -> None:
    assert num_draws(num_features) == draws


def test_floor_shrinks_with_more_images() -> None:
    train = random_features(2000, 8, 0)
    found = [real_floor(train, None, n, frechet_distance).value for n in (20, 100, 1000)]
    assert found == sorted(found, reverse=True)


# --- digits: what is known -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return Extractor(find_extractor("digits"), "cpu")


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    found = load_image_set("digits", "", "train", img_size=8, in_chans=1)
    assert found is not None
    return found


def real_images(
    extractor: Extractor, images: ImageSet, folder: Path, test: ImageSet | None = None
) -> RealImages:
    return RealImages(
        extractor,
        lambda: images,
        lambda: test,
        batch_size=500,
        cache=Cache(folder, warn=pytest.fail),
        show_progress=False,
    )


def test_floor_of_500_digits_is_that_of_500_against_the_other_1297(
    extractor: Extractor, digits: ImageSet, tmp_path: Path
) -> None:
    """Measured by others: 1.65 +- 0.43; within the reference it would be 0.86 +- 0.23."""
    found = real_images(extractor, digits, tmp_path).floor(500)
    assert (found.draws, found.split) == (20, "train")
    assert found.value == pytest.approx(1.65, abs=0.43)
    assert found.value is not None and found.value > 0.86 + 2 * 0.23  # not of the reference itself
    assert found.spread == pytest.approx(0.43, rel=0.4)


def test_gaussian_mark_of_digits_is_far_above_their_floor(
    extractor: Extractor, digits: ImageSet, tmp_path: Path
) -> None:
    found = real_images(extractor, digits, tmp_path).gaussian_mark(500)
    assert 16 < found["gaussian_mark"] < 18.5
    assert found["gaussian_mark_num_images"] == 500


# --- a Gaussian in pixels ------------------------------------------------------------------------


def test_gaussian_has_the_moments_of_the_images() -> None:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(4000, 2, 2, 2, generator=generator)
    normal[:, 1] += normal[:, 0]  # so that pixels depend on each other
    images = (normal * 20 + 120).round().to(torch.uint8)
    mean, covariance = pixel_moments(images)
    flat = images.flatten(1).double()
    torch.testing.assert_close(mean, flat.mean(0))
    torch.testing.assert_close(covariance, torch.cov(flat.T))
    samples = gaussian_images(images, 4000)
    assert samples.shape == images.shape and samples.dtype == torch.uint8
    found_mean, found = pixel_moments(samples)
    torch.testing.assert_close(found_mean, mean, rtol=0, atol=2)
    torch.testing.assert_close(found, covariance, rtol=0, atol=60)
    assert covariance.max() > 700
    assert torch.equal(samples[:10], gaussian_images(images, 4000)[:10])


def test_gaussian_of_constant_pixels_keeps_them() -> None:
    images = random_images(50, 4)
    images[:, :, 0] = 0
    images[:, :, 3] = 255
    samples = gaussian_images(images, 20)
    assert (samples[:, :, 0] == 0).all()
    assert (samples[:, :, 3] == 255).all()
    assert samples[:, :, 1].float().std() > 10


def test_gaussian_mark_is_left_out_for_large_images(extractor: Extractor, tmp_path: Path) -> None:
    images = ImageSet("large", random_images(4, 65))
    found = real_images(extractor, images, tmp_path).gaussian_mark(500)
    assert found["gaussian_mark"] is None
    assert "4225 values an image; the limit is 4096" in str(found["gaussian_mark_rule"])


# --- each is computed once -----------------------------------------------------------------------


def test_floor_and_mark_are_found_in_the_cache(
    extractor: Extractor, digits: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = real_images(extractor, digits, tmp_path)
    floor, mark = first.floor(100), first.gaussian_mark(100)
    assert isinstance(floor, Floor)

    def fail(*args: object) -> None:
        raise AssertionError("computed again")

    for name in ("real_floor", "gaussian_images"):
        monkeypatch.setattr(f"uvit_dia.evaluation.real_images.{name}", fail)
    again = real_images(extractor, digits, tmp_path)
    assert again.floor(100) == floor
    assert again.gaussian_mark(100) == mark
    for other in (
        lambda: again.floor(101),
        lambda: again.gaussian_mark(101),
        lambda: real_images(extractor, ImageSet("x", digits.images[1:]), tmp_path).floor(100),
        lambda: real_images(extractor, digits, tmp_path, ImageSet("y", digits.images)).floor(100),
    ):
        with pytest.raises(AssertionError, match="computed again"):
            other()
    monkeypatch.setattr(floor_module, "MAX_DRAWS", 19)
    with pytest.raises(AssertionError, match="computed again"):
        again.floor(100)
    assert len(list((tmp_path / "floors").iterdir())) == 2


def test_a_smaller_floor_is_that_of_the_test_split_or_of_half_the_training_set(
    extractor: Extractor, digits: ImageSet, tmp_path: Path
) -> None:
    test = ImageSet("test", random_images(60, 8))
    real = real_images(extractor, digits, tmp_path, test)
    assert real.floor(1797).value is None
    smaller = real.smaller_floor(1797)
    assert smaller is not None
    assert (smaller.num_images, smaller.split) == (60, "test")
    assert smaller.value is not None and smaller.value > 5  # noise, not digits
    without = real_images(extractor, digits, tmp_path).smaller_floor(1797)
    assert without is not None
    assert (without.num_images, without.split) == (898, "train")
    assert real.smaller_floor(60) is None
