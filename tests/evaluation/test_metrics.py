"""Metrics against formulas by hand and against torch-fidelity's own way from files."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.features import fake_extractor, random_features, random_images
from uvit_dia.data.image_grid import png_bytes
from uvit_dia.evaluation import metrics
from uvit_dia.evaluation.extractor_files import INCEPTION, find_extractor
from uvit_dia.evaluation.extractors import Extractor
from uvit_dia.evaluation.features import extract
from uvit_dia.evaluation.metrics import check_num_images, compute_metrics, frechet_distance
from uvit_dia.system.errors import InputError


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
    # both features are one and the same number, so the covariances are [[v, v], [v, v]] and
    # everything doubles
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
    reference = extract(extractor, real.split(batch_size))
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
    found = compute_metrics(features, real, fake_extractor(is_inception=True), names)
    assert set(found) == {
        *("fid", "kid", "kid_std", "kid_subset_size", "isc", "isc_std", "precision", "recall")
    }
    other = compute_metrics(
        {"features": features["2048"]},
        {"features": real["2048"]},
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
    reference = {"features": random_features(20, 4, 1)}
    extractor = fake_extractor(is_inception=False)
    assert set(compute_metrics(features, reference, extractor, (name,))) == keys


def test_precision_is_about_samples_and_recall_about_real_images() -> None:
    """Samples huddle inside one of two real clusters.

    All are plausible, half of the real images are not covered.
    """
    generator = torch.Generator().manual_seed(0)
    near, far = torch.randn(2, 20, 4, generator=generator)
    real = torch.cat([near, far + 100])
    ours = near + 1e-3
    found = compute_metrics(
        {"features": ours},
        {"features": real},
        fake_extractor(is_inception=False),
        ("prc",),
    )
    assert found == {"precision": 1.0, "recall": 0.5}


def test_kid_has_no_spread_where_a_subset_holds_all_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics, "KID_SUBSET_SIZE", 20)
    extractor = fake_extractor(is_inception=False)
    real = {"features": random_features(300, 4, 1)}
    for count in (19, 20, 21):
        features = {"features": random_features(count, 4, 0)}
        found = compute_metrics(features, real, extractor, ("kid",))
        assert found["kd"] is not None
        if count <= 20:
            assert found["kd_std"] is None
        else:
            assert found["kd_std"] > 0


def test_kid_subsets_are_as_large_as_the_smaller_set_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    extractor = fake_extractor(is_inception=False)
    reference = {"features": random_features(30, 4, 1)}
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
    reference = {"2048": random_features(10, 3, 1)}
    extractor = fake_extractor(is_inception=True)
    found = compute_metrics(features, reference, extractor, names)
    assert all(math.isfinite(value) for value in found.values())  # no NaN


def test_metrics_need_no_more_images_than_is_said() -> None:
    features = {"2048": random_features(4, 3, 0), "logits_unbiased": torch.ones(4, 5)}
    reference = {"2048": random_features(10, 3, 1)}
    names = ("fid", "kid", "isc", "prc")
    check_num_images(4, names)
    found = compute_metrics(features, reference, fake_extractor(is_inception=True), names)
    assert found.pop("kid_std") is None  # all subsets hold all four
    assert all(math.isfinite(value) for value in found.values())
