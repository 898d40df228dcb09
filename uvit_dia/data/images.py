"""Image sets in memory, and the only conversion between uint8 and model range."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageSet:
    """Images with their labels.

    Attributes:
        name: what the set is called in results.
        images: (N, C, H, W) uint8 in [0, 255].
        labels: (N,) int64, or None where there are none.
        class_names: names of the classes, in the order of the labels.
    """

    name: str
    images: Tensor
    labels: Tensor | None = None
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the images and their shape, as hex digits."""
        digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
        digest.update(self.images.cpu().contiguous().numpy().data)
        return digest.hexdigest()


def to_model_range(images: Tensor) -> Tensor:
    """Map uint8 images in [0, 255] to float32 x_0 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(x_0: Tensor) -> Tensor:
    """Map x_0 in [-1, 1] to uint8 images in [0, 255]: values outside are clipped, all are rounded to nearest.

    They must be finite: NaN would become black without a word.
    """
    return (x_0.float().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
