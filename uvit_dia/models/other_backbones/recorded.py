"""States kept for gradient checkpointing, which runs a target again long after its pass."""

from typing import NamedTuple

import torch
from torch import Tensor

from uvit_dia.models.units.protocol import UnitState

# Between a pass and its recomputation; other images differ by far more.
SAME_IMAGES_RTOL = 1e-3
SAME_IMAGES_ATOL = 1e-4


class _Recorded(NamedTuple):
    """What a recomputation of one target needs: the state before it, and its input's mean."""

    state: UnitState
    pooled: Tensor  # (B, C) float32


class RecordedStates:
    """The states before each target in the latest pass with gradients."""

    def __init__(self) -> None:
        self._of_target: dict[int, _Recorded] = {}

    def keep(self, tokens: Tensor, state: UnitState, index: int) -> None:
        """Keep the state before a target whose output is tokens, (B, L, C)."""
        if index == 0:
            self._of_target = {}
        # A recomputation must save what the pass saved, so that the copy asks for gradients where
        # the state did; dropout seeds never ask.
        leaves = (None if x is None else x.detach().requires_grad_(x.requires_grad) for x in state)
        self._of_target[index] = _Recorded(UnitState(*leaves), _pooled(tokens))

    def find(self, tokens: Tensor, index: int, name: str) -> UnitState:
        """Return the state that was kept for a target.

        Raises:
            RuntimeError: if it is that of other images, or none.
        """
        recorded, pooled = self._of_target.get(index), _pooled(tokens)
        if (
            recorded is None
            or recorded.pooled.shape != pooled.shape
            or not torch.allclose(
                recorded.pooled, pooled, rtol=SAME_IMAGES_RTOL, atol=SAME_IMAGES_ATOL
            )
        ):
            raise RuntimeError(
                f"{name} was recomputed for another forward pass than the latest: call backward"
                " before the next forward pass, and use checkpointing with use_reentrant=False"
            )
        return recorded.state


def _pooled(tokens: Tensor) -> Tensor:
    return tokens.detach().float().mean(dim=1)  # B C
