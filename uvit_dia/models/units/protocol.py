"""What every attention unit is: a module that multiplies the channels of tokens with an attention map.

All units follow one protocol, whatever they compute::

    state = unit.initial_state(y, dropout_seeds)
    gated_y, attention_map, state = unit(y, state, block_index)

with y and gated_y of shape (B, L, D). State travels as a value from block to block and never lives on the module:
there it would leak between batches and break gradient checkpointing.

Parameters, state and gates are computed in float32 whatever the autocast or parameter dtype: thirteen blocks of
recurrence in bfloat16 would round the state at each of them, and the unit is a few (B, D) vectors a block.
`RecurrentUnit` puts a recurrent cell to work (Eq. 4 of arXiv:2210.16101); `sams.py` holds units without state.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

GATE_INITS = ("paper", "identity")
POOLS = ("all", "patches")


class UnitState(NamedTuple):
    """What passes from block to block: h and c of the cell, and the seeds of its dropout; empty without recurrence.

    Attributes:
        h: (num_cells, B, D) float32, or None.
        c: (num_cells, B, D) float32, or None.
        dropout_seeds: (B,) int64, or None where nothing is dropped.
    """

    h: Tensor | None
    c: Tensor | None
    dropout_seeds: Tensor | None


class AttentionUnit(nn.Module, ABC):
    """The protocol of all units, and what they share: which tokens are pooled, and how the map becomes a gate.

    Args:
        pool: "all" extracts features from all L tokens; "patches" leaves the time and label tokens out.
        num_extra_tokens: how many tokens stand before the patches.
        gate_init: "paper" multiplies with the attention map itself. "identity", an extension of ours, multiplies
            with `1 + tanh(4 (map - map_start))`, where map_start is `initial_map()`, and zeroes the weights nearest
            to the map: the unit starts as the exact identity and may later raise or lower a channel, between 0.24
            and 2 for the sigmoid cells. It separates attention from the change of scale that a gate of 0.25 in
            front of every MLP also is.

    Raises:
        ValueError: for an unknown `pool` or `gate_init`.
    """

    def __init__(self, *, pool: str, num_extra_tokens: int, gate_init: str) -> None:
        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"pool must be one of {', '.join(POOLS)}, got {pool!r}")
        if gate_init not in GATE_INITS:
            raise ValueError(f"gate_init must be one of {', '.join(GATE_INITS)}, got {gate_init!r}")
        self.num_extra_tokens = num_extra_tokens
        self.first_pooled_token = num_extra_tokens if pool == "patches" else 0
        self.gate_init = gate_init

    @abstractmethod
    def initial_map(self) -> float:
        """Return the attention map, one number for all channels, that the unit gives after `zero_map`."""

    @abstractmethod
    def zero_map(self) -> None:
        """Zero the weights nearest to the map, so that it is `initial_map()` for any input; keep gradients alive."""

    @abstractmethod
    def full_gate(
        self, y: Tensor, state: UnitState, block_index: int, grid: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, UnitState]:
        """Compute all that multiplies one block's normalised tokens; arguments as those of `forward`.

        Returns:
            What y is multiplied with, (B, 1, D) or, where it differs from token to token, (B, L, D), float32; the
            attention map, (B, D) float32; the new state.
        """

    def forward(
        self, y: Tensor, state: UnitState, block_index: int, grid: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, UnitState]:
        """Gate the channels of one block's normalised tokens.

        Args:
            y: (B, L, D).
            state: the state that the block before returned.
            block_index: the block's place in the order of the data, from 0.
            grid: rows and columns of the patches, for the units that look at it; None for a square.

        Returns:
            The gated y, (B, L, D) in y's dtype; the attention map, (B, D) float32; the new state.
        """
        with torch.autocast(y.device.type, enabled=False):
            gate, attention_map, state = self.full_gate(y, state, block_index, grid)
            return y * gate.to(y.dtype), attention_map, state

    def reset_gate(self) -> None:
        """Apply `gate_init`; call it after the general initialisation of the weights."""
        if self.gate_init == "identity":
            self.zero_map()

    def gate(self, attention_map: Tensor) -> Tensor:
        """Return what multiplies the features, in the shape of the map."""
        if self.gate_init == "paper":
            return attention_map
        return 1 + torch.tanh(4 * (attention_map - self.initial_map()))

    def initial_state(self, y: Tensor, dropout_seeds: Tensor | None = None) -> UnitState:
        """Return the state before the first block.

        Args:
            y: (B, L, D), any tensor of the right batch size and device.
            dropout_seeds: (B,) int64, one seed an image; None lets torch's global generator drop.
        """
        return UnitState(None, None, None)
