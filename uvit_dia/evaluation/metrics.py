"""Distances between sampled and real images, through torch-fidelity, from images in memory.

Features are extracted block by block while images are sampled, so no image waits for another and none touches the
disk. Numbers go by their names only with the Inception extractor: FID, KID and Inception score; with any other they
are a Frechet distance (fd) and a kernel distance (kd), and always stand beside the extractor's hash.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from uvit_dia.data.images import ImageSet
from uvit_dia.evaluation.extractors import Extractor
from uvit_dia.rng import permutation
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import write_atomically

Features = dict[str, Tensor]  # layer -> (N, D) float32 on the CPU
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


def extract(extractor: Extractor, batches: Iterable[Tensor]) -> Features:
    """Extract features of (B, C, H, W) uint8 batches, in their order.

    Raises:
        InputError: if there are no images, or features that are not finite.
    """
    parts: list[Features] = [extractor.features(batch) for batch in batches]
    if not parts:
        raise InputError("no images to extract features from")
    features = {layer: torch.cat([part[layer] for part in parts]) for layer in parts[0]}
    for layer, values in features.items():
        if not torch.isfinite(values).all():
            raise InputError(
                f"the extractor {extractor.source.name} gave non-finite features in layer {layer}"
            )
    return features


@dataclass(frozen=True)
class Reference:
    """Features of real images, and whose they are.

    Attributes:
        name: of the image set.
        fingerprint: SHA-256 of its images.
        features: of all its images, unaugmented.
    """

    name: str
    fingerprint: str
    features: Features

    def __len__(self) -> int:
        return len(next(iter(self.features.values())))


def reference_features(
    image_set: ImageSet,
    extractor: Extractor,
    *,
    batch_size: int,
    cache: Path,
    warn: Callable[[str], None],
) -> Reference:
    """Return the features of a whole image set, computed once and cached under a name made of content hashes.

    Args:
        image_set: real images, unaugmented.
        extractor: whose features.
        batch_size: images at a time; part of the name, since kernels may round differently.
        cache: folder of cached features.
        warn: called with one line when a cached file is damaged and computed again.
    """
    fingerprint = image_set.fingerprint()
    key = f"{fingerprint}/{extractor.source.sha256}/{batch_size}/{extractor.device.type}"
    name = f"{image_set.name}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
    path = cache / name
    features = _read_cached(path, key, warn)
    if features is None:
        features = extract(extractor, image_set.images.split(batch_size))
        content = save(features, metadata={"key": key, "sha256": _hash_features(features)})
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    return Reference(image_set.name, fingerprint, features)


def _hash_features(features: Features) -> str:
    digest = hashlib.sha256()
    for layer in sorted(features):
        values = features[layer]
        digest.update(f"{layer} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.contiguous().numpy().data)
    return digest.hexdigest()


def _read_cached(path: Path, key: str, warn: Callable[[str], None]) -> Features | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            features = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts.get("key") == key and facts.get("sha256") == _hash_features(features):
            return features
        reason = "its content is not what it says"
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:80]
    warn(f"{path} is damaged ({reason}); its features are computed again")
    return None


def frechet_distance(features: Tensor, reference: Tensor) -> float:
    """Return the Frechet distance of two sets of features as torch-fidelity computes it (Heusel et al. 2017, Eq. 6).

    Args:
        features: (N, D) float32.
        reference: (M, D) float32.

    Raises:
        InputError: if a set has fewer than 2 images.
    """
    from torch_fidelity.metric_fid import (
        KEY_METRIC_FID,
        fid_features_to_statistics,
        fid_statistics_to_metric,
    )

    if min(len(features), len(reference)) < 2:
        raise InputError(
            f"a Frechet distance needs at least 2 images, got {len(features)} and {len(reference)}"
        )
    statistics = [fid_features_to_statistics(f) for f in (features, reference)]
    return fid_statistics_to_metric(*statistics, False)[KEY_METRIC_FID]


def real_floor(
    reference: Reference, held_out: Features | None, layer: str, num_images: int
) -> dict[str, object]:
    """Measure real images against the reference at the same N: what a perfect sampler could be expected to reach.

    The images come from the test split where it has enough; otherwise from the reference itself, without
    repeats, which flatters the floor, increasingly so as N nears the size of the set, where it becomes 0.

    Args:
        reference: the real images that samples are compared with.
        held_out: features of the test split, if there is one.
        layer: the layer to compare.
        num_images: N.

    Returns:
        floor, floor_num_images and floor_split.
    """
    pool, split = reference.features[layer], "train"
    if held_out is not None and len(held_out[layer]) >= num_images:
        pool, split = held_out[layer], "test"
    count = min(num_images, len(pool))
    chosen = permutation(0, "real floor", 0, len(pool))[:count]
    return {
        "floor": frechet_distance(pool[chosen], reference.features[layer]),
        "floor_num_images": count,
        "floor_split": split,
    }


def compute_metrics(
    features: Features, reference: Reference, extractor: Extractor, names: Iterable[str]
) -> dict[str, float]:
    """Compute the named metrics of sampled against real features.

    Args:
        features: of the sampled images.
        reference: the real ones.
        extractor: which extractor both come from.
        names: any of "fid", "kid", "isc", "prc"; without Inception "isc" is left out, it has no meaning there.

    Returns:
        `fid`, `kid`, `kid_std`, `isc`, `isc_std` with Inception, else `fd`, `kd`, `kd_std`; `precision`, `recall`.
    """
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    layer, logits = extractor.feature_layer, extractor.logits_layer
    ours, real = features[layer], reference.features[layer]
    frechet, kernel = ("fid", "kid") if extractor.source.is_inception else ("fd", "kd")
    values: dict[str, float] = {}
    for name in names:
        if name == "fid":
            values[frechet] = frechet_distance(ours, real)
        elif name == "kid":
            size = min(KID_SUBSET_SIZE, len(ours), len(real))
            result = kid_features_to_metric(
                ours,
                real,
                kid_subsets=KID_SUBSETS,
                kid_subset_size=size,
                rng_seed=KID_SEED,
                verbose=False,
            )
            values[kernel] = result["kernel_inception_distance_mean"]
            values[f"{kernel}_std"] = result["kernel_inception_distance_std"]
            values[f"{kernel}_subset_size"] = size
        elif name == "isc" and logits is not None:
            result = isc_features_to_metric(features[logits], splits=min(10, len(ours)))
            values["isc"] = result["inception_score_mean"]
            values["isc_std"] = result["inception_score_std"]
        elif name == "prc":
            result = prc_features_to_metric(ours, real, save_cpu_ram=True, verbose=False)
            values["precision"], values["recall"] = result["precision"], result["recall"]
    return values
