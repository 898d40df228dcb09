"""The training images of each step: which ones, mirrored or not, in the range of the model.

A set is one uint8 tensor, and a batch is index-select, flip, normalise. Order and flips are
functions of the seed and the step, so there is no loader, no worker and no state to save.
"""

import torch
from torch import Tensor

from uvit_dia.data.images import ImageSet, to_model_range
from uvit_dia.rng import integer_rows, normal_rows, permutation
from uvit_dia.system.errors import InputError

_FRACTIONS = 2**31  # values that the draw of a dropped label can have


class BatchOrder:
    """Which images make up the batch of a step.

    Each epoch has a new permutation of the set, and the batches cut the epochs' permutations, put
    end to end, into pieces of B. So every image is used once an epoch, and a batch that reaches
    over the end of an epoch is a whole batch.

    Args:
        num_images: size of the set.
        batch_size: global batch size B.
        seed: the run's seed.

    Raises:
        InputError: if the set is smaller than a batch.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int) -> None:
        if num_images < batch_size:
            raise InputError(
                f"train.batch_size = {batch_size} is larger than the data set, "
                f"which has {num_images} images"
            )
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self._cached: tuple[int, Tensor] | None = None  # epoch and permutation last used

    def _permutation(self, epoch: int) -> Tensor:
        if self._cached is None or self._cached[0] != epoch:
            self._cached = (epoch, permutation(self.seed, "batch order", epoch, self.num_images))
        return self._cached[1]

    def indices(self, step: int, rows: range) -> Tensor:
        """Return the images at positions `rows` of the batch of a step, (len(rows),) int64, CPU."""
        parts = (images for _, images in self.by_epoch(step, rows))
        return torch.cat([torch.empty(0, dtype=torch.int64), *parts])

    def by_epoch(self, step: int, rows: range) -> list[tuple[int, Tensor]]:
        """Return what `indices` does in pieces, each with its epoch."""
        first = step * self.batch_size  # position of the batch in all epochs, put end to end
        parts, position, stop = [], first + rows.start, first + rows.stop
        while position < stop:
            epoch, offset = divmod(position, self.num_images)
            taken = min(stop - position, self.num_images - offset)
            parts.append((epoch, self._permutation(epoch)[offset : offset + taken]))
            position += taken
        return parts


class TrainingBatches:
    """The training images of each step, ready for the network.

    Args:
        image_set: the training set; its images may already lie on the accelerator.
        batch_size: global batch size B.
        seed: the run's seed.
        random_flip: whether each image is mirrored left to right with probability 1/2.
        device: where x_0 is wanted.
        has_classes: whether the network is told the classes of the images.
        null_class: the label for no class; None if no label is dropped.
        label_dropout: the probability that a label is replaced by that.

    Raises:
        InputError: if the set is smaller than a batch.
    """

    def __init__(
        self,
        image_set: ImageSet,
        batch_size: int,
        *,
        seed: int,
        random_flip: bool,
        device: torch.device | str,
        has_classes: bool = False,
        null_class: int | None = None,
        label_dropout: float = 0.0,
    ) -> None:
        self.order = BatchOrder(len(image_set), batch_size, seed)
        self.images = image_set.images
        self.labels = image_set.labels if has_classes else None
        self.random_flip = random_flip
        self.null_class = null_class
        self.label_dropout = label_dropout
        self.device = torch.device(device)

    def x_0(self, step: int, rows: range) -> Tensor:
        """Return part of a step's batch, (len(rows), C, H, W) float32 on the device.

        Images are in [-1, 1]. Latents with a standard deviation are drawn anew at each use, from
        the posterior of the autoencoder, by their position in the global batch.
        """
        order, images = self.order, self._taken("images", step, rows)
        if self.random_flip:
            flips = integer_rows(order.seed, "flip", step, rows, order.batch_size, 2)
            flips = flips.to(self.device, non_blocking=True).bool()
            images = torch.where(flips[:, None, None, None], images.flip(-1), images)
        if images.ndim == 4:
            return to_model_range(images)
        place, shape = (step, rows, order.batch_size), tuple(images.shape[2:])
        return to_model_range(
            images, normal_rows(order.seed, "posterior", *place, shape, self.device)
        )

    def class_labels(self, step: int, rows: range) -> Tensor | None:
        """Return what the network is told of the images of `x_0`: their classes, or "no class".

        Labels are dropped with the given probability (Ho and Salimans 2022, arXiv:2207.12598).

        Returns:
            (len(rows),) int64 on the device; None for a network that is told nothing.
        """
        if self.labels is None:
            return None
        order, labels = self.order, self._taken("labels", step, rows)
        if self.null_class is None:
            return labels
        draws = integer_rows(order.seed, "label dropout", step, rows, order.batch_size, _FRACTIONS)
        is_dropped = draws < self.label_dropout * _FRACTIONS
        return labels.where(~is_dropped.to(self.device, non_blocking=True), self.null_class)

    def _taken(self, kind: str, step: int, rows: range) -> Tensor:
        """Return "images" or "labels" of part of a batch as the set holds them, on the device."""
        held: Tensor = getattr(self, kind)
        indices = self.order.indices(step, rows).to(held.device, non_blocking=True)
        return held[indices].to(self.device, non_blocking=True)
