"""Sampling and measuring together, over all processes: images are streamed from the sampler into the extractor."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from uvit_dia.config.schema import Config
from uvit_dia.data.images import ImageSet
from uvit_dia.data.sources import load_test_images
from uvit_dia.evaluation.extractors import Extractor
from uvit_dia.evaluation.metrics import (
    Features,
    Reference,
    check_num_images,
    compute_metrics,
    extract,
    real_floor,
    reference_features,
)
from uvit_dia.sampling.sampler import ImageSampler, share_of_rank
from uvit_dia.system.errors import NonFiniteImagesError
from uvit_dia.system.files import cache_folder
from uvit_dia.system.processes import failing_together


def evaluate(
    sampler: ImageSampler,
    extractor: Extractor,
    reference: Reference,
    held_out: Features | None,
    *,
    num_images: int,
    names: tuple[str, ...],
    accelerator: Accelerator,
    show_progress: bool,
) -> dict[str, object]:
    """Sample images 0 .. num_images - 1 and measure them against the reference.

    Call it on all processes; each samples its share, and the main process computes the metrics.

    Args:
        sampler: draws the images.
        extractor: gives their features.
        reference: features of the real images.
        held_out: features of the test split, for the floor, or None.
        num_images: N.
        names: metrics, see `compute_metrics`.
        accelerator: the processes.
        show_progress: whether the main process draws a bar.

    Returns:
        On the main process the metrics, the real-against-real floor at the same N, N, NFE and seconds; elsewhere {}.

    Raises:
        InputError: if num_images is fewer than the metrics need.
        NonFiniteImagesError: on all processes, if the sampler ended in values that are not finite on one.
    """
    check_num_images(num_images, names)
    started = time.monotonic()
    rank, ranks = accelerator.process_index, accelerator.num_processes
    mine = share_of_rank(num_images, sampler.batch_size, rank, ranks)
    bar = tqdm(
        total=num_images,
        unit="image",
        desc="sampling",
        leave=False,
        disable=not (show_progress and accelerator.is_main_process),
    )

    def batches() -> Iterator[Tensor]:
        for indices, images in sampler.sample(mine):
            yield images
            bar.update(len(indices) * ranks)

    with failing_together(NonFiniteImagesError), closing(bar):
        features = extract(extractor, batches()) if mine else {}
    features = _gather(features, num_images, sampler.batch_size, extractor, accelerator)
    if not accelerator.is_main_process:
        return {}
    values: dict[str, object] = dict(compute_metrics(features, reference, extractor, names))
    values.update(real_floor(reference, held_out, extractor.feature_layer, num_images))
    values.update(
        num_images=num_images, nfe=sampler.nfe, seconds=round(time.monotonic() - started, 3)
    )
    return values


def _gather(
    features: Features,
    num_images: int,
    block: int,
    extractor: Extractor,
    accelerator: Accelerator,
) -> Features:
    """Bring the features of all processes together in the order of the images."""
    ranks = accelerator.num_processes
    if ranks == 1:
        return features
    shares = [share_of_rank(num_images, block, rank, ranks) for rank in range(ranks)]
    longest = max(len(share) for share in shares)
    widths = accelerator.gather(_widths(features, extractor, accelerator)[None])  # ranks, layers
    widths = widths.amax(dim=0)  # a rank without images knows none
    gathered: Features = {}
    for layer, width in zip(_layers(extractor), widths.tolist(), strict=True):
        mine = features.get(layer, torch.empty(0, int(width)))
        padded = torch.zeros(longest, int(width), device=accelerator.device)
        padded[: len(mine)] = mine.to(accelerator.device)
        parts = accelerator.gather(padded).cpu().split(longest)
        together = torch.empty(num_images, int(width))
        for share, part in zip(shares, parts, strict=True):
            together[share] = part[: len(share)]
        gathered[layer] = together
    return gathered


def _layers(extractor: Extractor) -> list[str]:
    return [extractor.feature_layer] + ([extractor.logits_layer] if extractor.logits_layer else [])


def _widths(features: Features, extractor: Extractor, accelerator: Accelerator) -> Tensor:
    found = [features[layer].shape[1] if layer in features else 0 for layer in _layers(extractor)]
    return torch.tensor(found, dtype=torch.float32, device=accelerator.device)


def make_references(
    config: Config,
    extractor: Extractor,
    images: ImageSet,
    accelerator: Accelerator,
    warn: Callable[[str], None],
) -> tuple[Reference, Features | None]:
    """Return features of the whole training set, and of the test split for the floor where there is one."""
    batch_size = config.eval.batch_size
    test = load_test_images(config, show_progress=accelerator.is_main_process)
    with accelerator.main_process_first():  # the first one fills the cache that the others read
        reference = reference_features(
            images, extractor, batch_size=batch_size, cache=cache_folder() / "features", warn=warn
        )
    held_out = None if test is None else extract(extractor, test.images.split(batch_size))
    return reference, held_out
