"""Batch normalisations within attention units: one a block, or one for all blocks."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from uvit_dia.config.units import NORMALISATIONS


class BatchNorms(nn.ModuleDict):
    """The batch normalisations of one unit.

    They make an image's map depend, while training, on the other images of its device's batch; and
    gradient checkpointing would move their running averages twice a step.

    Args:
        make: makes one normalisation.
        block_indices: the blocks that the unit serves.
        normalisation: "default" or "block": one a block. "shared": one for all blocks; in SRM,
            training collapses with it (Fig. 15 and Sec. VI-B2 of arXiv:2210.16101).

    Raises:
        ValueError: for an unknown `normalisation`.
    """

    def __init__(
        self, make: Callable[[], nn.Module], block_indices: Iterable[int], normalisation: str
    ) -> None:
        if normalisation not in NORMALISATIONS:
            known = ", ".join(NORMALISATIONS)
            raise ValueError(f"normalisation must be one of {known}, got {normalisation!r}")
        is_shared = normalisation == "shared"
        names = ["shared"] if is_shared else [str(index) for index in block_indices]
        super().__init__({name: make() for name in names})

    def forward(self, x: Tensor, block_index: int) -> Tensor:
        """Normalise x, (B, C, ...), in float32 with the normalisation of a block.

        Raises:
            ValueError: in training mode if there is one number a channel to normalise over.
        """
        if self.training and x.numel() == x.shape[1]:
            raise ValueError(
                "the unit normalises over the batch: training needs at least 2 images a process and"
                " accumulation step"
            )
        return batch_norm_float32(self["shared" if "shared" in self else str(block_index)], x)


def batch_norm_float32(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply a batch normalisation in float32 even where it is stored in a shorter type.

    Its running averages are rounded to the type in which they are stored.
    """
    if all(tensor.dtype == torch.float32 for tensor in norm.parameters()):
        return norm(x)
    stored = {**dict(norm.named_parameters()), **dict(norm.named_buffers())}
    whole = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in stored.items()
    }
    normalised = functional_call(norm, whole, (x,))
    for name, buffer in norm.named_buffers():
        buffer.copy_(whole[name])
    return normalised
