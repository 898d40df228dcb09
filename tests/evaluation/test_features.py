"""Features of images, and the cache of those of real ones."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.features import fake_extractor, random_images
from uvit_dia.data.images import ImageSet
from uvit_dia.evaluation.cache import Cache, Features
from uvit_dia.evaluation.extractor_files import DIGITS_FILE, ExtractorSource, find_extractor
from uvit_dia.evaluation.extractors import Extractor
from uvit_dia.evaluation.features import Reference, extract, reference_features
from uvit_dia.system.errors import InputError

# --- extracting ----------------------------------------------------------------------------------


def test_features_keep_the_order_of_the_images() -> None:
    extractor = Extractor(find_extractor("digits"), "cpu")
    images = random_images(10, 8)
    whole = extract(extractor, [images])["features"]
    parts = extract(extractor, images.split(3))["features"]
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(whole[0], whole[1])


def test_images_must_be_uint8() -> None:
    extractor = Extractor(find_extractor("digits"), "cpu")
    with pytest.raises(TypeError, match="images must be uint8"):
        extract(extractor, [random_images(4, 8).float()])


def test_no_images_are_refused() -> None:
    with pytest.raises(InputError, match="no images"):
        extract(Extractor(find_extractor("digits"), "cpu"), iter([]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(value: float) -> None:
    extractor = fake_extractor(is_inception=False)
    extractor.features = lambda images: {"features": torch.full((len(images), 3), value)}
    with pytest.raises(InputError, match="fake gave non-finite features in layer features"):
        extract(extractor, [random_images(2, 8)])


# --- the cache of reference features -------------------------------------------------------------


class Cached:
    """A folder of cached features, with a count of extractions and the warnings that were given."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.extractor = Extractor(find_extractor("digits"), "cpu")
        self.warnings: list[str] = []
        self.calls = 0
        original = self.extractor.features

        def spy(images: Tensor) -> Features:
            self.calls += 1
            return original(images)

        monkeypatch.setattr(self.extractor, "features", spy)

    def read(self, images: Tensor, batch_size: int = 32) -> Reference:
        return reference_features(
            ImageSet("set", images),
            self.extractor,
            batch_size=batch_size,
            cache=Cache(self.folder, self.warnings.append),
        )

    def files(self) -> list[Path]:
        return sorted((self.folder / "features").iterdir())


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cached:
    return Cached(tmp_path, monkeypatch)


def test_reference_features_are_computed_once(cached: Cached) -> None:
    images = random_images(40, 8)
    first = cached.read(images)
    assert cached.calls == 2  # batches
    assert (first.name, first.fingerprint) == ("set", ImageSet("", images).fingerprint())
    assert len(first) == 40
    again = cached.read(images.clone())
    assert cached.calls == 2
    assert torch.equal(again.features["features"], first.features["features"])
    torch.testing.assert_close(
        first.features["features"], cached.extractor.features(images)["features"]
    )
    assert len(cached.files()) == 1
    assert cached.warnings == []


def other_images(images: Tensor) -> Iterator[Tensor]:
    changed = images.clone()
    changed[-1, 0, -1, -1] ^= 1
    yield changed
    yield images.flip(0)
    yield images[:-1]


@pytest.mark.reliability("G18", "stale or damaged caches: not believed")
def test_other_content_goes_to_another_file(
    cached: Cached, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = random_images(40, 8)
    cached.read(images)
    for count, other in enumerate(other_images(images), start=2):
        found = cached.read(other)
        assert len(cached.files()) == count
        assert torch.equal(
            found.features["features"], extract(cached.extractor, other.split(32))["features"]
        )
    cached.read(images, batch_size=20)
    assert len(cached.files()) == 5
    monkeypatch.setattr(
        cached.extractor, "source", ExtractorSource("digits", DIGITS_FILE, "0" * 64)
    )
    calls = cached.calls
    cached.read(images)
    assert cached.calls == calls + 2
    assert len(cached.files()) == 6
    assert cached.warnings == []


def flip_last_bit(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def flip_first_value(content: bytes) -> bytes:
    start = 8 + int.from_bytes(content[:8], "little")
    return content[:start] + bytes([content[start] ^ 1]) + content[start + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        flip_last_bit,
        flip_first_value,
        lambda content: content[: len(content) // 2],
        lambda content: content[:5],
        lambda content: b"",
        lambda content: content + b"\0",
        lambda content: content.replace(b"[40,64]", b"[64,40]"),
    ],
)
@pytest.mark.reliability("G18", "stale or damaged caches: not believed")
def test_damaged_cache_is_computed_again_with_a_warning(
    cached: Cached, damage: Callable[[bytes], bytes]
) -> None:
    images = random_images(40, 8)
    first = cached.read(images)
    (file,) = cached.files()
    whole = file.read_bytes()
    damaged = damage(whole)
    assert damaged != whole
    file.write_bytes(damaged)
    again = cached.read(images)
    assert cached.calls == 4
    assert torch.equal(again.features["features"], first.features["features"])
    assert len(cached.warnings) == 1
    assert str(file) in cached.warnings[0]
    assert "damaged" in cached.warnings[0]
    assert "\n" not in cached.warnings[0]
    cached.read(images)
    assert (cached.calls, len(cached.warnings)) == (4, 1)  # the file is whole again


def test_no_flipped_bit_of_a_cache_goes_unseen_or_crashes(cached: Cached) -> None:
    images = random_images(3, 8)
    first = cached.read(images).features["features"]
    (file,) = cached.files()
    whole = file.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for position in [*range(header), header, len(whole) // 2]:
        content = bytearray(whole)
        content[position] ^= 1 << (position % 8)
        file.write_bytes(content)
        assert torch.equal(cached.read(images).features["features"], first)


@pytest.mark.reliability("G18", "stale or damaged caches: not believed")
def test_cache_of_another_set_under_this_name_is_not_believed(cached: Cached) -> None:
    images, other = random_images(40, 8), random_images(40, 8, seed=1)
    expected = cached.read(images).features["features"]
    (file,) = cached.files()
    cached.read(other)
    (foreign,) = set(cached.files()) - {file}
    file.write_bytes(foreign.read_bytes())
    assert torch.equal(cached.read(images).features["features"], expected)
    assert len(cached.warnings) == 1


def test_pickle_in_the_caches_place_does_not_run(cached: Cached, tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Planted:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
            return open, (str(canary), "w")

    images = random_images(40, 8)
    expected = cached.read(images).features["features"]
    (file,) = cached.files()
    torch.save(Planted(), file)
    assert torch.equal(cached.read(images).features["features"], expected)
    file.write_bytes(pickle.dumps(Planted()))
    assert torch.equal(cached.read(images).features["features"], expected)
    assert len(cached.warnings) == 2
    assert not canary.exists()
