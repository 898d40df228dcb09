"""Units without a state that gate the channels by their mean over the tokens.

arXiv:2210.16101 calls such modules SAMs (Eq. 1, Table III). Written for feature maps (B, C, H, W),
they read tokens (B, L, D) here: D takes the place of C, and the L tokens that of the positions.
Shared by all blocks (Eq. 2) or one a block (Eq. 1), the module is the same.

Legend of tensor names: B batch, L tokens, L' pooled tokens, D channels, r reduction.
"""

import math
from abc import abstractmethod
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uvit_dia.models.layers import linear_float32
from uvit_dia.models.units.protocol import (
    AttentionUnit,
    UnitOptions,
    UnitState,
    check_divides,
)


class ChannelUnit(AttentionUnit):
    """A unit whose map comes from the pooled tokens of its own block, and is the same for all.

    Derive a unit of your own from this class: `channel_map` is all that it needs. Its Linear layers
    start as `AttentionUnit.initialise` says, all else as its constructor made it.
    """

    @abstractmethod
    def channel_map(self, tokens: Tensor, block_index: int) -> Tensor:
        """Return the attention map, (B, D) float32.

        Args:
            tokens: (B, L', D) float32, those that are pooled.
            block_index: the block that asks.
        """

    def full_gate(
        self, y: Tensor, state: UnitState, block_index: int, grid: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, UnitState]:
        """Gate the channels; see `AttentionUnit.full_gate`."""
        attention_map = self.channel_map(self.pooled(y).float(), block_index)  # B D
        return self.gate(attention_map)[:, None], attention_map, state


class BottleneckUnit(AttentionUnit):
    """A unit with SE's two layers: `reduce`, to D/r, a ReLU, and `expand`, to D."""

    reduce: nn.Linear
    expand: nn.Linear

    def add_bottleneck(
        self, reduction: int, *, in_channels: int | None = None, bias: bool = True
    ) -> None:
        """Make the layers.

        Args:
            reduction: r.
            in_channels: what `reduce` reads; None for D.
            bias: whether the layers have biases.

        Raises:
            ValueError: if r does not divide D.
        """
        check_divides("reduction", reduction, self.channels)
        width = self.channels // reduction
        self.reduce = nn.Linear(in_channels or self.channels, width, bias=bias)
        self.expand = nn.Linear(width, self.channels, bias=bias)

    def excite(self, s: Tensor) -> Tensor:
        """Map s, (B, in_channels), to (B, D)."""
        return linear_float32(self.expand, torch.relu(linear_float32(self.reduce, s)))

    def zero_map(self) -> None:
        """Zero the expanding layer."""
        for parameter in self.expand.parameters():
            nn.init.zeros_(parameter)


class SE(BottleneckUnit, ChannelUnit):
    """Squeeze-and-Excitation (Hu et al., CVPR 2018, arXiv:1709.01507, Eqs. 2-4).

    Mean over the tokens, Linear D -> D/r, ReLU, Linear D/r -> D, sigmoid: 2D²/r weights.

    Args:
        channels: D.
        reduction: r; divides D.
        **options: see `AttentionUnit`.

    Raises:
        ValueError: if r does not divide D.
    """

    def __init__(self, channels: int, reduction: int = 16, **options: Unpack[UnitOptions]) -> None:
        super().__init__(channels, map_start=0.5, **options)
        self.add_bottleneck(reduction)

    def channel_map(self, tokens: Tensor, block_index: int) -> Tensor:
        """Return the map of the channels, (B, D)."""
        return torch.sigmoid(self.excite(tokens.mean(dim=1)))


class ECA(ChannelUnit):
    """Efficient Channel Attention (Wang et al., CVPR 2020, arXiv:1910.03151, Eqs. 9 and 12).

    Mean over the tokens, a convolution of k neighbouring channels, sigmoid: k weights, where k is
    the odd number at `log2(D) / 2 + 1 / 2`, rounded down to a whole number and then up to an odd
    one, as in the authors' code.

    Args:
        channels: D.
        **options: see `AttentionUnit`.
    """

    def __init__(self, channels: int, **options: Unpack[UnitOptions]) -> None:
        super().__init__(channels, map_start=0.5, **options)
        self.conv = _make_eca_conv(channels)

    def zero_map(self) -> None:
        """Zero the convolution."""
        nn.init.zeros_(self.conv.weight)

    def channel_map(self, tokens: Tensor, block_index: int) -> Tensor:
        """Return the map of the channels, (B, D)."""
        return torch.sigmoid(_across_channels(self.conv, tokens.mean(dim=1)))


def eca_kernel_size(channels: int) -> int:
    """Return k of ECA for a number of channels (Eq. 12 with gamma = 2 and b = 1)."""
    k = int(abs((math.log2(channels) + 1) / 2))
    return k if k % 2 else k + 1


def _make_eca_conv(channels: int) -> nn.Conv1d:
    kernel = eca_kernel_size(channels)
    return nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)


def _across_channels(conv: nn.Conv1d, s: Tensor) -> Tensor:
    """Convolve neighbouring channels of s, (B, D), in float32."""
    padding = conv.kernel_size[0] // 2
    return F.conv1d(s[:, None], conv.weight.float(), padding=padding)[:, 0]


class SEM(BottleneckUnit, ChannelUnit):
    """Switchable self-attention Module (Zhong et al., 2022, arXiv:2209.05680).

    As in the authors' released code: of the tokens' mean s, three excitations, that of SE, that of
    ECA, and an affine map w ⊗ s + b; a Linear D -> 3 with a sigmoid weighs each; the map is the
    product of their sigmoids. 2D²/r + 5D + k weights, k as in `ECA`; w starts at 0 and b at -1.

    Args:
        channels: D.
        reduction: r of the SE part; divides D.
        **options: see `AttentionUnit`.

    Raises:
        ValueError: if r does not divide D.
    """

    def __init__(self, channels: int, reduction: int = 16, **options: Unpack[UnitOptions]) -> None:
        super().__init__(channels, map_start=0.125, **options)
        self.switch = nn.Linear(channels, 3)
        self.add_bottleneck(reduction)
        self.conv = _make_eca_conv(channels)
        self.scale = nn.Parameter(torch.zeros(channels))
        self.shift = nn.Parameter(torch.full((channels,), -1.0))

    def zero_map(self) -> None:
        """Zero the last step of each excitation, so that the map is σ(0)³."""
        super().zero_map()
        for parameter in (self.conv.weight, self.scale, self.shift):
            nn.init.zeros_(parameter)

    def channel_map(self, tokens: Tensor, block_index: int) -> Tensor:
        """Return the map of the channels, (B, D)."""
        s = tokens.mean(dim=1)  # B D
        weights = torch.sigmoid(linear_float32(self.switch, s))  # B 3
        affine = s * self.scale.float() + self.shift.float()
        excitations = torch.stack(
            [self.excite(s), _across_channels(self.conv, s), affine], dim=1
        )  # B 3 D
        return torch.sigmoid(excitations * weights[:, :, None]).prod(dim=1)


class Constant(ChannelUnit):
    """A fixed gate, the same for all images and channels: a control without any attention.

    Beside a unit that starts with a gate of 0.25, it shows what that change of scale does alone.

    Args:
        channels: D.
        constant: the gate, above 0.
        **options: see `AttentionUnit`; with a `gate_init` other than "paper" the gate is 1.

    Raises:
        ValueError: if `constant` is not above 0.
    """

    def __init__(
        self, channels: int, constant: float = 0.25, **options: Unpack[UnitOptions]
    ) -> None:
        if not constant > 0:
            raise ValueError(f"constant must be above 0, got {constant}")
        super().__init__(channels, map_start=constant, **options)
        self.constant = constant

    def zero_map(self) -> None:
        """Do nothing: there are no weights."""

    def channel_map(self, tokens: Tensor, block_index: int) -> Tensor:
        """Return the constant, (B, D)."""
        return tokens.new_full((tokens.shape[0], self.channels), self.constant)
