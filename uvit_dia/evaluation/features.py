"""Features of images, and those of the real images that samples are compared with.

Features are extracted batch by batch while images are sampled: no image waits for another, and none
touches the disk. Those of real images are computed once and cached.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from uvit_dia.data.images import ImageSet
from uvit_dia.evaluation.cache import Cache, Features
from uvit_dia.evaluation.extractors import Extractor
from uvit_dia.system.errors import InputError
from uvit_dia.system.progress import progress_bar

SECONDS_WITHOUT_BAR = 5.0


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
        key: all that the features depend on.
    """

    name: str
    fingerprint: str
    features: Features
    key: str = ""

    def __len__(self) -> int:
        return len(next(iter(self.features.values())))


def reference_features(
    image_set: ImageSet,
    extractor: Extractor,
    *,
    batch_size: int,
    cache: Cache,
    show_progress: bool = False,
) -> Reference:
    """Return the features of a whole image set, from the cache or computed.

    Args:
        image_set: real images, unaugmented.
        extractor: whose features.
        batch_size: images at a time; part of the key, since kernels may round differently.
        cache: where they are looked for, and kept.
        show_progress: whether a bar is drawn if it takes long.
    """
    fingerprint = image_set.fingerprint()
    key = f"{fingerprint}/{extractor.source.sha256}/{batch_size}/{extractor.device.type}"

    def compute() -> Features:
        batches = progress_bar(
            image_set.images.split(batch_size),
            desc=f"features of {len(image_set)} real images",
            unit="batch",
            leave=False,
            delay=SECONDS_WITHOUT_BAR,
            disable=not show_progress,
        )
        return extract(extractor, batches)

    return Reference(image_set.name, fingerprint, cache.features(image_set.name, key, compute), key)
