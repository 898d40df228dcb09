"""Image sets in memory, and the only conversion between what they hold and model range."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from uvit_dia.data.summary import summary_line


@dataclass(frozen=True)
class ImageSet:
    """Images with their labels.

    Attributes:
        name: what the set is called in results.
        images: (N, C, H, W) uint8 in [0, 255]; of latents what `to_model_range` takes.
        labels: (N,) int64, -1 for an image without label; None where no image has one.
        class_names: names of the classes, in the order of the labels.
        source: what was read, such as "folder IMAGES, train"; "" for the name.
        notes: what else is worth knowing of how it was read, such as what was left out.
        known_sha256: its fingerprint, where a memory map was built with it; else "".
    """

    name: str
    images: Tensor
    labels: Tensor | None = None
    class_names: tuple[str, ...] = ()
    source: str = ""
    notes: tuple[str, ...] = ()
    known_sha256: str = ""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (C, H, W) of an image."""
        channels, height, width = self.images.shape[-3:]
        return channels, height, width

    def subset(self, rows: Tensor, *, note: str) -> "ImageSet":
        """Return some of the images, in the order of the set.

        Args:
            rows: (n,) int64, which, each once.
            note: what is worth knowing of the choice.
        """
        rows = rows.sort().values
        labels = None if self.labels is None else self.labels[rows]
        notes = (*self.notes, note)
        return replace(self, images=self.images[rows], labels=labels, notes=notes, known_sha256="")

    def fingerprint(self) -> str:
        """Return the SHA-256 of the images and their shape, as hex digits; computed once."""
        return self.known_sha256 or self._images_sha256

    def labels_fingerprint(self) -> str | None:
        """Return the SHA-256 of the labels, as hex digits; None where there are none."""
        return None if self.labels is None else sha256_of(self.labels)

    @cached_property
    def _images_sha256(self) -> str:
        return sha256_of(self.images)

    def summary(self) -> str:
        """Return in one line what was read: images, classes, size, what was left out and why."""
        return "data: " + summary_line(
            self.source or self.name, (len(self), *self.shape), self._class_counts(), self.notes
        )

    def _class_counts(self) -> dict[str, int] | None:
        if self.labels is None:
            return None
        labels, counts = self.labels.unique(return_counts=True)
        names = {-1: "no label", **dict(enumerate(self.class_names))}
        found = dict(zip(labels.tolist(), counts.tolist(), strict=True))
        return {names.get(label, str(label)): count for label, count in found.items()}


def to_model_range(images: Tensor, eps: Tensor | None = None) -> Tensor:
    """Map what an image set holds to x_0, (B, C, H, W) float32.

    Args:
        images: (B, C, H, W) uint8 in [0, 255], which become [-1, 1]; or (B, C, H, W) floating,
            which is x_0 already; or (B, 2, C, H, W) floating, mean and standard deviation of x_0.
        eps: (B, C, H, W) standard normal, for x_0 = mean + std * eps; None for the mean.
    """
    if not images.is_floating_point():
        return images.float() / 127.5 - 1
    if images.ndim == 4:
        return images.float()
    mean, std = images.float().unbind(1)
    return mean if eps is None else mean + std * eps


def to_uint8(x_0: Tensor) -> Tensor:
    """Map x_0 in [-1, 1] to uint8 images in [0, 255], clipped and rounded to nearest.

    Values must be finite: NaN would silently become black.
    """
    return (x_0.float().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)


def images_of(array: np.ndarray) -> Tensor:
    """Return an array of images, (N, H, W, C), as a tensor, (N, C, H, W)."""
    return in_order(torch.from_numpy(array).permute(0, 3, 1, 2))


def in_order(images: Tensor) -> Tensor:
    """Return a copy whose memory is laid out as its shape says, which decides about the last bits.

    `contiguous` may leave a tensor of one channel with the strides of channels_last.
    """
    return images.clone(memory_format=torch.contiguous_format)


def sha256_of(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's shape and bytes, as hex digits."""
    digest = hashlib.sha256(str(tuple(tensor.shape)).encode())
    digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()
