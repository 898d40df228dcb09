"""Features of all processes, brought together in the order of the images."""

import torch
from accelerate import Accelerator
from torch import Tensor

from uvit_dia.evaluation.cache import Features
from uvit_dia.sampling.sampler import share_of_rank


def gather_features(
    features: Features,
    layers: list[str],
    num_images: int,
    block: int,
    accelerator: Accelerator,
) -> Features:
    """Bring the features of all processes together; call it on all of them.

    Args:
        features: of the images of this process, see `share_of_rank`; {} where it has none.
        layers: of the extractor.
        num_images: N, on all processes together.
        block: images of a block that one process samples.
        accelerator: the processes.

    Returns:
        (N, D) float32 by layer, on the CPU.
    """
    ranks = accelerator.num_processes
    if ranks == 1:
        return features
    shares = [share_of_rank(num_images, block, rank, ranks) for rank in range(ranks)]
    longest = max(len(share) for share in shares)
    gathered: Features = {}
    for layer, width in zip(layers, _widths(features, layers, accelerator), strict=True):
        mine = features.get(layer, torch.empty(0, width))
        padded = torch.zeros(longest, width, device=accelerator.device)
        padded[: len(mine)] = mine.to(accelerator.device)
        parts = accelerator.gather(padded).cpu().split(longest)
        together = torch.empty(num_images, width)
        for share, part in zip(shares, parts, strict=True):
            together[share] = part[: len(share)]
        gathered[layer] = together
    return gathered


def _widths(features: Features, layers: list[str], accelerator: Accelerator) -> list[int]:
    """Return D of each layer; a process without images learns it from the others."""
    mine = [features[layer].shape[1] if layer in features else 0 for layer in layers]
    widths: Tensor = accelerator.gather(torch.tensor([mine], device=accelerator.device))
    return widths.amax(dim=0).tolist()
