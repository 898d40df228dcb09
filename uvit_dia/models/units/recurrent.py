"""The recurrent unit: a cell that steps from block to block (Eq. 4 of arXiv:2210.16101)."""

import torch
from torch import Tensor

from uvit_dia.models.units.protocol import AttentionUnit, UnitState
from uvit_dia.models.units.recurrent_cells import UPPER_DROPOUT, RecurrentCell
from uvit_dia.rng import hash_uniform


class RecurrentUnit(AttentionUnit):
    """Pool the tokens, step the cell, gate the channels (Eq. 4; Fig. 7 for the place in a U-ViT).

    Args:
        cell: the recurrent cell, of width D.
        pool: see `AttentionUnit`.
        num_extra_tokens: how many tokens stand before the patches.
        gate_init: see `AttentionUnit`; "paper" starts at about 0.25 with a sigmoid.

    Raises:
        ValueError: for an unknown `pool` or `gate_init`, or for "identity" with ReLU, whose gradient would be zero.
    """

    def __init__(
        self, cell: RecurrentCell, *, pool: str, num_extra_tokens: int, gate_init: str
    ) -> None:
        super().__init__(pool=pool, num_extra_tokens=num_extra_tokens, gate_init=gate_init)
        if gate_init == "identity" and cell.activation == "relu":
            raise ValueError(
                "gate_init='identity' needs activation sigmoid or tanh: relu would start with a zero gradient"
            )
        self.cell = cell

    def initial_map(self) -> float:
        """Return the h of a cell whose gates are all zero before their nonlinearities."""
        return self.cell.initial_gate()

    def zero_map(self) -> None:
        """Zero the layers nearest to the gates of the top cell."""
        self.cell.zero_top_gates()

    def initial_state(self, y: Tensor, dropout_seeds: Tensor | None = None) -> UnitState:
        """Return h_0 = c_0 = 0 and the seeds; see `AttentionUnit.initial_state`."""
        h, c = self.cell.initial_state(y.shape[0], y.device)
        return UnitState(h, c, dropout_seeds if self.training else None)

    def full_gate(
        self, y: Tensor, state: UnitState, block_index: int, grid: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, UnitState]:
        """Step the cell once; its h gates the channels; see `AttentionUnit.full_gate`."""
        assert state.h is not None  # such a state comes from this class' initial_state
        assert state.c is not None
        s = y[:, self.first_pooled_token :].float().mean(dim=1)  # B D
        masks = self._dropout_masks(state, block_index)
        attention_map, (h, c) = self.cell(s, (state.h, state.c), masks)  # B D
        gate = self.gate(attention_map)[:, None]  # B 1 D
        return gate, attention_map, UnitState(h, c, state.dropout_seeds)

    def _dropout_masks(self, state: UnitState, block_index: int) -> Tensor | None:
        """Return (num_cells - 1, B, D) masks from the images' seeds, or None where the cell needs none of ours."""
        if state.dropout_seeds is None or self.cell.num_cells == 1:
            return None
        uppers = self.cell.num_cells - 1
        uniform = [
            hash_uniform(state.dropout_seeds, block_index * uppers + k, self.cell.channels)
            for k in range(uppers)
        ]
        return (torch.stack(uniform) >= UPPER_DROPOUT).float() / (1 - UPPER_DROPOUT)
