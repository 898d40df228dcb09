"""Units without a state that see where tokens lie, or gate each token by itself.

CBAM's spatial part and SPA's pyramid see the patches as the grid that they are; the time and label
tokens stand outside it. SGE needs no grid.

Legend of tensor names: B batch, L tokens, L' pooled tokens, P patches, D channels, G groups.
"""

import math
from collections.abc import Sequence
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uvit_dia.models.units.batch_norms import BatchNorms
from uvit_dia.models.units.channel import BottleneckUnit
from uvit_dia.models.units.gate import Gate
from uvit_dia.models.units.protocol import (
    AttentionUnit,
    UnitOptions,
    UnitState,
    check_divides,
)

SPATIAL_KERNEL = 7  # of CBAM's spatial part
NORM_MOMENTUM = 0.01  # of CBAM's normalisation, in the authors' code
PYRAMID = (1, 2, 4)  # sides of SPA's pooled grids
SPREAD_EPS = 1e-5


class GridUnit(BottleneckUnit):
    """A bottleneck unit that looks at the grid of patches."""

    def patches(self, tokens: Tensor, grid: tuple[int, int] | None) -> Tensor:
        """Return the patches as a feature map, (B, D, rows, columns).

        Raises:
            ValueError: if the tokens do not fill the grid, or no square where none is given.
        """
        patches = tokens[:, self.num_extra_tokens :]
        side = math.isqrt(patches.shape[1])
        rows, columns = (side, side) if grid is None else grid
        if rows * columns != patches.shape[1]:
            shape = "a square grid" if grid is None else f"a grid of {rows} x {columns}"
            raise ValueError(
                f"{type(self).__name__} needs {shape} of patches, got {patches.shape[1]} after "
                f"{self.num_extra_tokens} extra tokens; give grid=(rows, columns)"
            )
        return patches.transpose(1, 2).unflatten(2, (rows, columns))


class CBAM(GridUnit):
    """Convolutional Block Attention Module (Woo et al., ECCV 2018, arXiv:1807.06521, Eqs. 2 and 3).

    Channels: one MLP (Linear D -> D/r, ReLU, Linear D/r -> D) of the tokens' mean and of their
    maximum, summed, sigmoid. Patches, after the channels' gate: mean and maximum over the channels,
    a 7 x 7 convolution on the grid, sigmoid. 2D²/r + 98 weights. The time and label tokens have no
    place in the grid and are gated by the channels' map alone.

    Args:
        channels: D.
        reduction: r; divides D.
        block_indices: the blocks that it serves.
        normalisation: "default" has none, as Eq. 3. The authors' code normalises what the
            convolution gives, with a scale that starts at 0, so that every patch starts with a gate
            of exactly 0.5: "block" does so with a normalisation a block, "shared" with one.
        **options: see `AttentionUnit`.

    Raises:
        ValueError: if r does not divide D.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        *,
        block_indices: Sequence[int] = (0,),
        normalisation: str = "default",
        **options: Unpack[UnitOptions],
    ) -> None:
        super().__init__(channels, map_start=0.5, **options)
        self.add_bottleneck(reduction)
        self.spatial = nn.Conv2d(2, 1, SPATIAL_KERNEL, padding=SPATIAL_KERNEL // 2, bias=False)
        self.patch_gate = Gate(1, 0.5, self.gate.gate_init, self.gate.gate_form)
        self.norms: BatchNorms | None = None
        if normalisation != "default":
            if self.gate.gate_form == "residual":
                raise ValueError("gate_form='residual' needs normalisation='default' in CBAM")
            self.norms = BatchNorms(_make_spatial_norm, block_indices, normalisation)

    def zero_map(self) -> None:
        """Zero the expanding layer and the last step of the spatial part."""
        super().zero_map()
        if self.norms is None:  # else the scales of the normalisations, which start at 0
            nn.init.zeros_(self.spatial.weight)

    def full_gate(
        self, y: Tensor, state: UnitState, block_index: int, grid: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, UnitState]:
        """Gate the channels of all tokens, and the patches; see `AttentionUnit.full_gate`."""
        tokens = y.float()
        seen = self.pooled(tokens)
        channel_map = torch.sigmoid(self.excite(seen.mean(dim=1)) + self.excite(seen.amax(dim=1)))
        gate = self.gate(channel_map)[:, None]  # B 1 D
        x = self.patches(tokens * gate, grid)  # B D rows columns
        described = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        weight, padding = self.spatial.weight.float(), SPATIAL_KERNEL // 2
        z = F.conv2d(described, weight, padding=padding)  # B 1 rows columns
        if self.norms is not None:
            z = self.norms(z, block_index)
        patch_gate = self.patch_gate(torch.sigmoid(z).flatten(1))  # B P
        # tokens outside the grid keep the channels' gate
        patch_gate = F.pad(patch_gate, (self.num_extra_tokens, 0), value=1.0)  # B L
        return gate * patch_gate[:, :, None], channel_map, state


def _make_spatial_norm() -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(1, momentum=NORM_MOMENTUM)
    nn.init.zeros_(norm.weight)
    return norm


class SPA(GridUnit):
    """Spatial Pyramid Attention (Guo et al., ICME 2020, "SPANet").

    The grid of patches is averaged to 1 x 1, 2 x 2 and 4 x 4; the 21D numbers pass
    Linear 21D -> D/r, ReLU, Linear D/r -> D, sigmoid: 22D²/r weights, no biases, as in the authors'
    first design, which concatenates.

    Args:
        channels: D.
        reduction: r; divides D.
        **options: see `AttentionUnit`; `pool` makes no difference, since only patches have a place
            in the grid.

    Raises:
        ValueError: if r does not divide D.
    """

    def __init__(self, channels: int, reduction: int = 16, **options: Unpack[UnitOptions]) -> None:
        super().__init__(channels, map_start=0.5, **options)
        cells = sum(side * side for side in PYRAMID)
        self.add_bottleneck(reduction, in_channels=channels * cells, bias=False)

    def full_gate(
        self, y: Tensor, state: UnitState, block_index: int, grid: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, UnitState]:
        """Gate the channels; see `AttentionUnit.full_gate`."""
        x = self.patches(y.float(), grid)  # B D rows columns
        pyramid = torch.cat([F.adaptive_avg_pool2d(x, side).flatten(1) for side in PYRAMID], dim=1)
        attention_map = torch.sigmoid(self.excite(pyramid))  # B D
        return self.gate(attention_map)[:, None], attention_map, state


class SGE(AttentionUnit):
    """Spatial Group-wise Enhance (Li et al., 2019, arXiv:1905.09646, Eqs. 1-6).

    The channels are cut into G groups. In each, a token's likeness to the mean token (their inner
    product) is normalised over the tokens, scaled, shifted and passed through a sigmoid: 2G
    weights, starting at 0 and 1, so that every token is first gated by σ(1) = 0.73. No grid is
    needed, so all tokens are gated. A single pooled token has nothing to be compared with: its
    normalised likeness, and that of all others, is 0.

    Args:
        channels: D.
        groups: G; divides D.
        **options: see `AttentionUnit`.

    Raises:
        ValueError: if G does not divide D.
    """

    starts_constant = True

    def __init__(self, channels: int, groups: int = 64, **options: Unpack[UnitOptions]) -> None:
        super().__init__(channels, map_start=1 / (1 + math.exp(-1)), **options)  # σ(1)
        check_divides("groups", groups, channels)
        self.groups = groups
        self.scale = nn.Parameter(torch.zeros(groups))
        self.shift = nn.Parameter(torch.ones(groups))

    def zero_map(self) -> None:
        """Do nothing: the unit starts so."""

    def full_gate(
        self, y: Tensor, state: UnitState, block_index: int, grid: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, UnitState]:
        """Gate the channels of each token; the map that is returned is the mean over the tokens."""
        tokens = y.float()
        x = tokens.unflatten(2, (self.groups, -1))  # B L G D/G
        mean = self.pooled(tokens).mean(dim=1).unflatten(1, (self.groups, -1))  # B G D/G
        likeness = (x * mean[:, None]).sum(dim=-1)  # B L G
        seen = self.pooled(likeness)  # B L' G
        if seen.shape[1] == 1:  # whose standard deviation is not defined
            normalised = torch.zeros_like(likeness)
        else:
            spread = seen.std(dim=1, keepdim=True) + SPREAD_EPS
            normalised = (likeness - seen.mean(dim=1, keepdim=True)) / spread
        by_group = torch.sigmoid(normalised * self.scale.float() + self.shift.float())  # B L G
        by_channel = by_group.repeat_interleave(self.channels // self.groups, dim=2)  # B L D
        return self.gate(by_channel), by_channel.mean(dim=1), state
