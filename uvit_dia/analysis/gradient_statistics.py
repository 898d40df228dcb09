"""Gradients of images' losses at the outputs of blocks, put into numbers, for any network."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.backends import cudnn
from torch.nn.attention import SDPBackend, sdpa_kernel

from uvit_dia.plots.parts import QUANTILES, quantiles
from uvit_dia.rng import permutation

MAX_ENTRIES = 1024  # an image and block, of the quantiles; moments are over all entries


@dataclass(frozen=True)
class BlockGradients:
    """Gradients at the outputs of n blocks, over all images.

    Attributes:
        mean: (n,) of the entries.
        std: (n,) of the entries.
        mean_absolute: (n,) of the entries' absolute values.
        absolute_quantiles: (n, 5) of the absolute values of a sample of the entries.
        image_norms: (n, N) 2-norm of each image's gradient.
    """

    mean: np.ndarray
    std: np.ndarray
    mean_absolute: np.ndarray
    absolute_quantiles: np.ndarray
    image_norms: np.ndarray

    @property
    def root_mean_square(self) -> np.ndarray:
        """Return the root mean square of the entries, (n,)."""
        return np.sqrt(self.mean**2 + self.std**2)

    def as_dict(self) -> dict[str, object]:
        """Return the numbers of a result."""
        return {
            "mean": self.mean,
            "std": self.std,
            "mean_absolute": self.mean_absolute,
            "root_mean_square": self.root_mean_square,
            "quantile_levels": list(QUANTILES),
            "absolute_quantiles": self.absolute_quantiles,
            "image_norm_quantiles": [quantiles(norms) for norms in self.image_norms],
        }


def gradient_statistics(batches: Iterable[Sequence[Tensor]], seed: int) -> BlockGradients:
    """Put the gradients of n blocks into numbers.

    Args:
        batches: of each batch of b images the n gradients (b, ...) of each image's own loss;
            blocks may differ in shape, batches in b.
        seed: of the entries whose quantiles are taken.
    """
    sums, parts, norms = [], [], []
    for batch in batches:
        gradients = [gradient.flatten(1) for gradient in batch]  # each b entries
        sums.append(torch.stack([_moments(gradient) for gradient in gradients]))  # n 4
        parts.append([_chosen(gradient, seed).abs().cpu().flatten() for gradient in gradients])
        norms.append(torch.stack([gradient.norm(dim=1).cpu() for gradient in gradients]))
    count, total, square, absolute = torch.stack(sums).sum(dim=0).numpy().T  # each n
    mean = total / count
    return BlockGradients(
        mean=mean,
        std=np.sqrt(np.maximum(square / count - mean**2, 0.0)),
        mean_absolute=absolute / count,
        absolute_quantiles=np.array(
            [quantiles(torch.cat(block).numpy()) for block in zip(*parts, strict=True)]
        ),
        image_norms=torch.cat(norms, dim=1).double().numpy(),
    )


@contextmanager
def one_order_of_sums(device: torch.device) -> Iterator[None]:
    """On CUDA, choose kernels that give the same bits each time; on CPU all of ours do."""
    if device.type != "cuda":
        yield
        return
    with sdpa_kernel(SDPBackend.MATH), cudnn.flags(enabled=True, deterministic=True):
        yield


def _chosen(gradient: Tensor, seed: int) -> Tensor:
    """Return the entries of a gradient (b, entries) whose quantiles are taken, the same of all."""
    chosen = permutation(seed, "gradient entries", 0, gradient.shape[1])[:MAX_ENTRIES]
    return gradient[:, chosen.to(gradient.device)]


def _moments(gradient: Tensor) -> Tensor:
    """Return count, sum, sum of squares and of absolute values of the entries, (4,) float64."""
    values = gradient.double()
    count = torch.full_like(values[0, 0], values.numel())
    return torch.stack([count, values.sum(), values.square().sum(), values.abs().sum()]).cpu()
