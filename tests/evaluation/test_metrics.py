"""Metrics against formulas by hand and against torch-fidelity's own way from files; the cache of reference features."""

import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from uvit_dia.data.images import ImageSet
from uvit_dia.evaluation import metrics
from uvit_dia.evaluation.extractors import (
    DIGITS_FILE,
    INCEPTION,
    Extractor,
    ExtractorSource,
    find_extractor,
)
from uvit_dia.evaluation.metrics import (
    Features,
    Reference,
    check_num_images,
    compute_metrics,
    extract,
    frechet_distance,
    real_floor,
    reference_features,
)
from uvit_dia.rng import permutation
from uvit_dia.sampling.image_files import png_bytes
from uvit_dia.system.errors import InputError


def random_features(count: int, width: int, seed: int, shift: float = 0.0) -> Tensor:
    """Return correlated features that are not centred."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator) / width**0.5
    return torch.randn(count, width, generator=generator) @ mixing + 1 + shift


def random_images(count: int, side: int, channels: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, side, side)
    return torch.randint(0, 256, shape, generator=generator).to(torch.uint8)


def fake_extractor(*, is_inception: bool) -> Any:
    """Return what `compute_metrics` needs to know of an extractor."""
    return SimpleNamespace(
        source=SimpleNamespace(name="fake", is_inception=is_inception),
        feature_layer="2048" if is_inception else "features",
        logits_layer="logits_unbiased" if is_inception else None,
    )


def frechet_by_hand(features: Tensor, reference: Tensor) -> float:
    """Eq. 6 of Heusel et al. 2017 in float64, by symmetric eigenvalue problems only."""
    means, covariances = [], []
    for values in (features.double(), reference.double()):
        centred = values - values.mean(0)
        means.append(values.mean(0))
        covariances.append(centred.T @ centred / (len(values) - 1))
    values, vectors = torch.linalg.eigh(covariances[0])
    root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    product = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp(min=0).sqrt().sum()
    distance = (means[0] - means[1]).square().sum()
    return (distance + covariances[0].trace() + covariances[1].trace() - 2 * product).item()


# --- the Frechet distance ------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "other_count", "width"), [(500, 300, 16), (64, 2000, 64)])
def test_frechet_distance_is_the_formula(count: int, other_count: int, width: int) -> None:
    features = random_features(count, width, 0)
    reference = random_features(other_count, width, 1, shift=0.2)
    expected = frechet_by_hand(features, reference)
    assert expected > 0.1
    assert frechet_distance(features, reference) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(reference, features) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_known_gaussians() -> None:
    """Two lines of points with means 0 and 3 and variances 2 and 8: 9 + 2 + 8 - 2 * sqrt(16)."""
    first = torch.tensor([-1.0, 1.0])[:, None].repeat(1, 2)
    second = torch.tensor([1.0, 5.0])[:, None].repeat(1, 2)
    # both features are one and the same number, so the covariances are [[v, v], [v, v]] and everything doubles
    assert frechet_distance(first, second) == pytest.approx(2 * (9 + 2 + 8 - 8), rel=1e-6)


def test_frechet_distance_of_a_set_to_itself_is_zero() -> None:
    features = random_features(400, 32, 0)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(features, features.flip(0)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("count", "other_count"), [(1, 10), (10, 1), (0, 10)])
def test_frechet_distance_needs_two_images(count: int, other_count: int) -> None:
    with pytest.raises(InputError, match="at least 2 images"):
        frechet_distance(torch.ones(count, 4), torch.ones(other_count, 4))


# --- all metrics as torch-fidelity computes them from files --------------------------------------


@pytest.mark.parametrize("layer", ["192", pytest.param("2048", marks=pytest.mark.slow)])
def test_metrics_agree_with_torch_fidelity_from_png_files(
    tmp_path: Path, inception_weights: Path, monkeypatch: pytest.MonkeyPatch, layer: str
) -> None:
    """Layer 192 goes the same way as 2048, whose eigenvalues take a minute on a small CPU."""
    import torch_fidelity

    monkeypatch.setattr(metrics, "KID_SUBSETS", 7)
    monkeypatch.setattr(metrics, "KID_SUBSET_SIZE", 8)
    batch_size = 8
    real = random_images(16, 32, 3, seed=1)
    ours = torch.cat([real[:5], random_images(7, 32, 3, seed=2) // 3])
    for name, images in (("ours", ours), ("real", real)):
        (tmp_path / name).mkdir()
        for index, image in enumerate(images):
            (tmp_path / name / f"{index:06d}.png").write_bytes(png_bytes(image))
    expected = torch_fidelity.calculate_metrics(
        input1=str(tmp_path / "ours"),
        input2=str(tmp_path / "real"),
        cuda=False,
        batch_size=batch_size,
        fid=True,
        kid=True,
        isc=True,
        prc=True,
        feature_extractor=INCEPTION,
        feature_extractor_weights_path=str(inception_weights),
        feature_layer_fid=layer,
        feature_layer_kid=layer,
        feature_layer_prc=layer,
        kid_subsets=7,
        kid_subset_size=8,
        save_cpu_ram=True,
        cache=False,
        verbose=False,
    )
    extractor = Extractor(find_extractor(INCEPTION, str(inception_weights)), "cpu")
    extractor.feature_layer = layer
    extractor._network.features_list = [layer, "logits_unbiased"]
    reference = Reference("real", "0" * 64, extract(extractor, real.split(batch_size)))
    found = compute_metrics(
        extract(extractor, ours.split(batch_size)),
        reference,
        extractor,
        ("fid", "kid", "isc", "prc"),
    )
    names = {
        "fid": "frechet_inception_distance",
        "kid": "kernel_inception_distance_mean",
        "kid_std": "kernel_inception_distance_std",
        "isc": "inception_score_mean",
        "isc_std": "inception_score_std",
        "precision": "precision",
        "recall": "recall",
    }
    assert found.pop("kid_subset_size") == 8
    assert set(found) == set(names)
    for name, theirs in names.items():
        assert found[name] == pytest.approx(expected[theirs], rel=1e-6, abs=1e-9), name
    assert found["fid"] > 0.01
    assert found["isc"] > 1.001
    assert found["precision"] != found["recall"]  # so that the two cannot have been swapped


def test_metrics_go_by_their_names_with_inception_only() -> None:
    names = ("fid", "kid", "isc", "prc")
    features = {"2048": random_features(40, 8, 0), "logits_unbiased": random_features(40, 10, 1)}
    real = {"2048": random_features(50, 8, 2), "logits_unbiased": random_features(50, 10, 3)}
    found = compute_metrics(
        features, Reference("real", "", real), fake_extractor(is_inception=True), names
    )
    assert set(found) == {
        *("fid", "kid", "kid_std", "kid_subset_size", "isc", "isc_std", "precision", "recall")
    }
    other = compute_metrics(
        {"features": features["2048"]},
        Reference("real", "", {"features": real["2048"]}),
        fake_extractor(is_inception=False),
        names,
    )
    assert set(other) == {"fd", "kd", "kd_std", "kd_subset_size", "precision", "recall"}
    for ours, theirs in (("fd", "fid"), ("kd", "kid"), ("recall", "recall")):
        assert other[ours] == found[theirs]


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("fid", {"fd"}),
        ("kid", {"kd", "kd_std", "kd_subset_size"}),
        ("isc", set()),
        ("prc", {"precision", "recall"}),
    ],
)
def test_only_the_metrics_asked_for_are_computed(name: str, keys: set[str]) -> None:
    features = {"features": random_features(20, 4, 0)}
    reference = Reference("real", "", {"features": random_features(20, 4, 1)})
    extractor = fake_extractor(is_inception=False)
    assert set(compute_metrics(features, reference, extractor, (name,))) == keys


def test_precision_is_about_samples_and_recall_about_real_images() -> None:
    """Samples huddle inside one of two real clusters: all are plausible, half of the real images are not covered."""
    generator = torch.Generator().manual_seed(0)
    near, far = torch.randn(2, 20, 4, generator=generator)
    real = torch.cat([near, far + 100])
    ours = near + 1e-3
    found = compute_metrics(
        {"features": ours},
        Reference("real", "", {"features": real}),
        fake_extractor(is_inception=False),
        ("prc",),
    )
    assert found == {"precision": 1.0, "recall": 0.5}


def test_kid_subsets_are_as_large_as_the_smaller_set_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    extractor = fake_extractor(is_inception=False)
    reference = Reference("real", "", {"features": random_features(30, 4, 1)})
    sizes = []
    for count, limit in ((20, 1000), (50, 1000), (50, 10)):
        monkeypatch.setattr(metrics, "KID_SUBSET_SIZE", limit)
        features = {"features": random_features(count, 4, 0)}
        sizes.append(compute_metrics(features, reference, extractor, ("kid",))["kd_subset_size"])
    assert sizes == [20, 30, 10]


# --- how few images ------------------------------------------------------------------------------


@pytest.mark.parametrize(("names", "needed"), [(("fid",), 2), (("isc",), 2), (("fid", "prc"), 4)])
def test_fewest_images_are_enough_and_one_less_is_refused(
    names: tuple[str, ...], needed: int
) -> None:
    with pytest.raises(InputError, match=f"--num_images {needed - 1}: .* at least {needed}"):
        check_num_images(needed - 1, names)
    check_num_images(needed, names)
    features = {"2048": random_features(needed, 3, 0), "logits_unbiased": torch.ones(needed, 5)}
    reference = Reference("real", "", {"2048": random_features(10, 3, 1)})
    extractor = fake_extractor(is_inception=True)
    found = compute_metrics(features, reference, extractor, names)
    assert all(math.isfinite(value) for value in found.values())  # no NaN


def test_metrics_need_no_more_images_than_is_said() -> None:
    features = {"2048": random_features(4, 3, 0), "logits_unbiased": torch.ones(4, 5)}
    reference = Reference("real", "", {"2048": random_features(10, 3, 1)})
    names = ("fid", "kid", "isc", "prc")
    check_num_images(4, names)
    found = compute_metrics(features, reference, fake_extractor(is_inception=True), names)
    assert all(math.isfinite(value) for value in found.values())


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
            cache=self.folder,
            warn=self.warnings.append,
        )

    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cached:
    return Cached(tmp_path / "features", monkeypatch)


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


# --- the floor -----------------------------------------------------------------------------------


def test_floor_comes_from_the_test_split_where_it_is_large_enough() -> None:
    reference = Reference("real", "", {"features": random_features(200, 4, 0)})
    held_out = {"features": random_features(50, 4, 1)}
    for num_images in (10, 50):
        chosen = permutation(0, "real floor", 0, 50)[:num_images]
        assert len(set(chosen.tolist())) == num_images
        expected = frechet_distance(held_out["features"][chosen], reference.features["features"])
        assert real_floor(reference, held_out, "features", num_images) == {
            "floor": expected,
            "floor_num_images": num_images,
            "floor_split": "test",
        }


@pytest.mark.parametrize("held_out", [None, {"features": random_features(50, 4, 1)}])
def test_floor_comes_from_the_training_set_otherwise(held_out: Features | None) -> None:
    reference = Reference("real", "", {"features": random_features(200, 4, 0)})
    found = real_floor(reference, held_out, "features", 51)
    assert (found["floor_num_images"], found["floor_split"]) == (51, "train")
    assert found == real_floor(reference, held_out, "features", 51)
    assert isinstance(found["floor"], float)
    assert found["floor"] > 1e-3


@pytest.mark.parametrize("num_images", [200, 1000])
def test_floor_of_the_whole_training_set_is_zero(num_images: int) -> None:
    reference = Reference("real", "", {"features": random_features(200, 4, 0)})
    found = real_floor(reference, None, "features", num_images)
    assert found["floor_num_images"] == 200
    assert found["floor"] == pytest.approx(0, abs=1e-5)


def test_floor_shrinks_with_more_images() -> None:
    reference = Reference("real", "", {"features": random_features(2000, 8, 0)})
    floors = [real_floor(reference, None, "features", n)["floor"] for n in (20, 100, 1000)]
    assert floors == sorted(floors, reverse=True)
