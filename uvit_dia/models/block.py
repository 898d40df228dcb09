"""A transformer block of the U-ViT, and where its attention unit stands."""

import torch
from torch import Tensor, nn

from uvit_dia.models.layers import MLP, Attention
from uvit_dia.models.units.protocol import UnitState


class Block(nn.Module):
    """`x + Attn(Norm1(x))`, then `x + MLP(unit(Norm2(x)))`; a skip comes in first, if any.

    Args:
        dim: D, the width of the tokens.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLP over D.
        qkv_bias: whether the q, k, v projections have biases.
        skip: whether the output of the mirror block joins the tokens.
        residual: whether attention and MLP add to the tokens, or take their place.
        layer_norm: whether there are LayerNorms.
        place: of the unit: "mlp_input" as above (Fig. 7 of arXiv:2210.16101), or "mlp_output":
            `x + unit(MLP(Norm2(x)))`, which is Eq. 4 as it is written, with MLP(Norm2(x)) for a_t.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        qkv_bias: bool,
        skip: bool,
        *,
        residual: bool = True,
        layer_norm: bool = True,
        place: str = "mlp_input",
    ) -> None:
        super().__init__()
        self.residual = residual
        self.place = place
        self.skip_linear = nn.Linear(2 * dim, dim) if skip else None
        self.norm1 = nn.LayerNorm(dim) if layer_norm else nn.Identity()
        self.attn = Attention(dim, num_heads, qkv_bias)
        self.norm2 = nn.LayerNorm(dim) if layer_norm else nn.Identity()
        self.mlp = MLP(dim, int(dim * mlp_ratio))

    def forward(
        self,
        x: Tensor,
        skip: Tensor | None,
        unit: nn.Module | None,
        state: UnitState | None,
        block_index: int,
    ) -> tuple[Tensor, UnitState | None]:
        """Run the block.

        Args:
            x: (B, L, D).
            skip: (B, L, D), output of the mirror block in the first half; None for blocks without a
                long skip.
            unit: the attention unit of this block, or None.
            state: the unit's state after the block before.
            block_index: place of this block in the order of the data, from 0.

        Returns:
            The new tokens, (B, L, D), and the unit's new state.
        """
        if self.skip_linear is not None:
            assert skip is not None  # such blocks stand in the second half
            x = self.skip_linear(torch.cat([x, skip], dim=-1))  # B L D
        x = self._add(x, self.attn(self.norm1(x)))  # B L D
        y = self.norm2(x)  # B L D
        if unit is not None and self.place == "mlp_input":
            y, _, state = unit(y, state, block_index)  # B L D
        y = self.mlp(y)  # B L D
        if unit is not None and self.place == "mlp_output":
            y, _, state = unit(y, state, block_index)  # B L D
        return self._add(x, y), state

    def _add(self, x: Tensor, change: Tensor) -> Tensor:
        return x + change if self.residual else change
