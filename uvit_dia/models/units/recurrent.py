"""The recurrent unit: a cell that steps from block to block (Eq. 4 of arXiv:2210.16101)."""

from typing import Unpack

import torch
from torch import Tensor, nn

from uvit_dia.models.layers import linear_float32
from uvit_dia.models.units.protocol import (
    AttentionUnit,
    UnitOptions,
    UnitState,
    without_autocast,
)
from uvit_dia.models.units.recurrent_cells import UPPER_DROPOUT, RecurrentCell
from uvit_dia.rng import hash_uniform


class RecurrentUnit(AttentionUnit):
    """Pool the tokens, step the cell, gate the channels (Eq. 4; Fig. 7 for the place in a U-ViT).

    Args:
        cell: the recurrent cell, of width D.
        time_first_state: an extension of ours: (h_0, c_0) are not 0 as in Eq. 4 but a Linear
            D -> 2D (2 D num_cells, if cells are stacked) of the time token, the last of the extra
            tokens, that starts at 0. It adds 2D² weights a cell.
        forget_bias: what is added to the biases of the forget gates when the unit starts; with 0
            they start as all others do.
        **options: see `AttentionUnit`; gate_init="paper" starts at about 0.25 with a sigmoid.

    Raises:
        ValueError: for options that `AttentionUnit` refuses; for gate_init="identity" with ReLU,
            whose gradient would be zero; for `time_first_state` without extra tokens.
    """

    def __init__(
        self,
        cell: RecurrentCell,
        *,
        time_first_state: bool = False,
        forget_bias: float = 0.0,
        **options: Unpack[UnitOptions],
    ) -> None:
        super().__init__(cell.channels, map_start=cell.initial_gate(), **options)
        if self.gate.gate_init == "identity" and cell.activation == "relu":
            raise ValueError(
                "gate_init='identity' needs activation sigmoid or tanh: relu would start with a"
                " zero gradient"
            )
        self.cell = cell
        self.forget_bias = forget_bias
        self.first_state: nn.Linear | None = None
        if time_first_state:
            if self.num_extra_tokens < 1:
                raise ValueError("time_first_state needs a time token before the patches")
            self.first_state = nn.Linear(cell.channels, 2 * cell.num_cells * cell.channels)

    def zero_map(self) -> None:
        """Zero the layers nearest to the gates of the top cell."""
        self.cell.zero_top_gates()

    def reset_gate(self) -> None:
        """Apply `gate_init`, `forget_bias`, and the zero start of the first state."""
        super().reset_gate()
        self.cell.add_to_forget_biases(self.forget_bias)
        if self.first_state is not None:
            nn.init.zeros_(self.first_state.weight)
            nn.init.zeros_(self.first_state.bias)

    def initial_state(self, y: Tensor, dropout_seeds: Tensor | None = None) -> UnitState:
        """Return h_0, c_0 and the seeds; see `AttentionUnit.initial_state`."""
        seeds = dropout_seeds if self.training else None
        if self.first_state is None:
            h, c = self.cell.initial_state(y.shape[0], y.device)
            return UnitState(h, c, seeds)
        with without_autocast(y.device.type):
            time = y[:, self.num_extra_tokens - 1].float()  # B D
            both = linear_float32(self.first_state, time)  # B 2*cells*D
        h, c = both.unflatten(1, (2, self.cell.num_cells, -1)).permute(1, 2, 0, 3)
        return UnitState(h, c, seeds)

    def full_gate(
        self, y: Tensor, state: UnitState, block_index: int, grid: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, UnitState]:
        """Step the cell once; its h gates the channels; see `AttentionUnit.full_gate`."""
        assert state.h is not None  # such a state comes from this class' initial_state
        assert state.c is not None
        s = self.pooled(y).float().mean(dim=1)  # B D
        masks = self._dropout_masks(state, block_index)
        attention_map, (h, c) = self.cell(s, (state.h, state.c), masks)  # B D
        gate = self.gate(attention_map)[:, None]  # B 1 D
        return gate, attention_map, UnitState(h, c, state.dropout_seeds)

    def _dropout_masks(self, state: UnitState, block_index: int) -> Tensor | None:
        """Return (num_cells - 1, B, D) masks from the images' seeds, or None if none are needed."""
        if state.dropout_seeds is None or self.cell.num_cells == 1:
            return None
        uppers = self.cell.num_cells - 1
        uniform = [
            hash_uniform(state.dropout_seeds, block_index * uppers + k, self.cell.channels)
            for k in range(uppers)
        ]
        return (torch.stack(uniform) >= UPPER_DROPOUT).float() / (1 - UPPER_DROPOUT)
