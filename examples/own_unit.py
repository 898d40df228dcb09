"""A unit of your own: how strong the strongest token of a channel is decides its gate.

python train.py --config configs/digits_uvit_dia.py \
        --config.model.attention=examples.own_unit:Strongest
python sample.py --checkpoint runs/digits_uvit_dia --import examples.own_unit
"""

import torch
from torch import Tensor, nn

from uvit_dia import ChannelUnit


class Strongest(ChannelUnit):
    """σ(w ⊗ max + b) over the tokens; w and b start at 0, where the map is 0.5."""

    def __init__(self, channels: int, **options: object) -> None:
        super().__init__(channels, map_start=0.5, **options)
        self.scale = nn.Parameter(torch.zeros(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def channel_map(self, tokens: Tensor, block_index: int) -> Tensor:
        """Map tokens, (B, L, D), to the attention map, (B, D)."""
        return torch.sigmoid(self.scale.float() * tokens.amax(dim=1) + self.shift.float())

    def zero_map(self) -> None:
        """Make the map 0.5 for any input, as gate_init="identity" needs it."""
        nn.init.zeros_(self.scale)
        nn.init.zeros_(self.shift)
