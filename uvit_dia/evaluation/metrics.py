"""Distances between sampled and real images, from their features, through torch-fidelity.

Numbers go by their names only with the Inception extractor: FID, KID and Inception score. With any
other they are a Frechet distance (fd) and a kernel distance (kd), beside the extractor's hash.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from uvit_dia.evaluation.cache import Features
from uvit_dia.evaluation.extractors import Extractor
from uvit_dia.evaluation.statistics import Statistics
from uvit_dia.system.errors import InputError

KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000
KID_SEED = 2020  # torch-fidelity's default
MIN_IMAGES = {"fid": 2, "kid": 2, "isc": 1, "prc": 4}  # prc: an image and its three neighbours
COMPARABLE_IMAGES = 10_000  # below it a FID is biased so much that it says little beside others


def check_num_images(num_images: int, names: Iterable[str]) -> None:
    """Refuse fewer images than the floor and the named metrics need.

    Raises:
        InputError: naming how many are needed.
    """
    needed = max(2, *(MIN_IMAGES[name] for name in names))
    if num_images < needed:
        raise InputError(f"--num_images {num_images}: these metrics need at least {needed}")


def statistics_of(features: Tensor | Statistics) -> dict[str, Any]:
    """Return mean and covariance of features, (N, D), in the form of torch-fidelity."""
    from torch_fidelity.metric_fid import fid_features_to_statistics

    if isinstance(features, Statistics):
        return {"mu": features.mu, "sigma": features.sigma}
    return fid_features_to_statistics(features)


def frechet_distance(features: Tensor, reference: Tensor | Statistics) -> float:
    """Return the Frechet distance of two sets of features as torch-fidelity computes it.

    |mu_1 - mu_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)) (Heusel et al. 2017, Eq. 6).

    Args:
        features: (N, D) float32.
        reference: (M, D) float32, or their mean and covariance.

    Raises:
        InputError: if a set has fewer than 2 images.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    few = len(reference) < 2 and not isinstance(reference, Statistics)
    if len(features) < 2 or few:
        raise InputError(
            f"a Frechet distance needs at least 2 images, got {len(features)} and {len(reference)}"
        )
    statistics = [statistics_of(f) for f in (features, reference)]
    return fid_statistics_to_metric(*statistics, False)[KEY_METRIC_FID]


def compute_metrics(
    features: Features,
    real: Mapping[str, Tensor | Statistics],
    extractor: Extractor,
    names: Iterable[str],
) -> dict[str, float | None]:
    """Compute the named metrics of sampled against real features.

    Args:
        features: of the sampled images.
        real: of the real ones, or their mean and covariance, which "fid" and "isc" do with.
        extractor: which extractor both come from.
        names: any of "fid", "kid", "isc", "prc"; "isc" means nothing without Inception, and is
            left out there.

    Returns:
        `fid`, `kid`, `kid_std`, `kid_subset_size`, `isc`, `isc_std` with Inception, else `fd`, `kd`
        and so on; `precision`, `recall`. A standard deviation over subsets is None where a subset
        takes all the samples.
    """
    layer, logits = extractor.feature_layer, extractor.logits_layer
    is_inception = extractor.source.is_inception
    values: dict[str, float | None] = {}
    reference = real[layer]
    for name in names:
        if name == "fid":
            distance = frechet_distance(features[layer], reference)
            values["fid" if is_inception else "fd"] = distance
        elif name == "isc":
            values.update({} if logits is None else _inception_score(features[logits]))
        elif isinstance(reference, Statistics):
            raise InputError(f"{name} needs the images of the reference, not their statistics")
        elif name == "kid":
            kernel = "kid" if is_inception else "kd"
            values.update(_kernel_distance(features[layer], reference, kernel))
        elif name == "prc":
            values.update(_precision_and_recall(features[layer], reference))
    return values


def _kernel_distance(features: Tensor, real: Tensor, name: str) -> dict[str, float | None]:
    from torch_fidelity.metric_kid import kid_features_to_metric

    size = min(KID_SUBSET_SIZE, len(features), len(real))
    result = kid_features_to_metric(
        features,
        real,
        kid_subsets=KID_SUBSETS,
        kid_subset_size=size,
        rng_seed=KID_SEED,
        verbose=False,
    )
    spread = result["kernel_inception_distance_std"] if size < len(features) else None
    return {
        name: result["kernel_inception_distance_mean"],
        f"{name}_std": spread,
        f"{name}_subset_size": size,
    }


def _inception_score(logits: Tensor) -> dict[str, float | None]:
    from torch_fidelity.metric_isc import isc_features_to_metric

    result = isc_features_to_metric(logits, splits=min(10, len(logits)))
    return {"isc": result["inception_score_mean"], "isc_std": result["inception_score_std"]}


def _precision_and_recall(features: Tensor, real: Tensor) -> dict[str, float | None]:
    from torch_fidelity.metric_prc import prc_features_to_metric

    result = prc_features_to_metric(features, real, save_cpu_ram=True, verbose=False)
    return {"precision": result["precision"], "recall": result["recall"]}
