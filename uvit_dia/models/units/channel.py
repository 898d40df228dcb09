"""Channel-attention modules without a state, adapted to tokens; arXiv:2210.16101 calls them SAMs (Eq. 1, Table III).

Written for feature maps (B, C, H, W), they read tokens (B, L, D) here: D takes the place of C, and the L tokens that
of the positions. Global pooling runs over all tokens, or over the patches alone (`pool`). CBAM's spatial part and
SPA's pyramid see the patches as the grid that they are; the time and label tokens stand outside it. Each extracts
features, processes them, and multiplies the channels of every token with the result. Shared by all blocks (Eq. 2) or
one a block (Eq. 1), the module is the same; only what SRM normalises with is never shared.

Legend of tensor names: B batch, L tokens, D channels, P patches.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uvit_dia.models.layers import batch_norm_float32, linear_float32
from uvit_dia.models.units.protocol import AttentionUnit, UnitState

SPATIAL_KERNEL = 7  # of CBAM's spatial part
PYRAMID = (1, 2, 4)  # sides of SPA's pooled grids
STD_EPS = 1e-5


def _check_reduction(channels: int, reduction: int) -> None:
    if reduction < 1 or channels % reduction:
        raise ValueError(
            f"reduction must be at least 1 and divide the {channels} channels, got {reduction}"
        )


class ChannelUnit(AttentionUnit):
    """A unit whose map comes from the tokens of its own block alone; siblings differ in `attention`."""

    @abstractmethod
    def attention(
        self, tokens: Tensor, block_index: int, grid: tuple[int, int] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Compute what the unit attends to.

        Args:
            tokens: (B, L, D) float32.
            block_index: the block that asks.
            grid: rows and columns of the patches; None for a square.

        Returns:
            The map of the channels, (B, D) or, where it differs from token to token, (B, L, D); and the map of the
            patches, (B, P, 1), for a unit that attends to them apart from the channels, or None.
        """

    def full_gate(
        self, y: Tensor, state: UnitState, block_index: int, grid: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, UnitState]:
        """Gate the channels, and the patches where there is a map of them; see `AttentionUnit.full_gate`.

        A map that differs from token to token is returned as its mean over the tokens.
        """
        channel_map, patch_map = self.attention(y.float(), block_index, grid)
        is_by_token = channel_map.dim() == 3
        gate = self.gate(channel_map if is_by_token else channel_map[:, None])  # B 1|L D
        if patch_map is not None:
            patch_gate = F.pad(self.gate(patch_map), (0, 0, self.num_extra_tokens, 0), value=1.0)
            gate = gate * patch_gate  # B L D; tokens outside the grid keep the channels' gate
        return gate, channel_map.mean(dim=1) if is_by_token else channel_map, state

    def pooled(self, tokens: Tensor) -> Tensor:
        """Return the tokens that are pooled, (B, L', D)."""
        return tokens[:, self.first_pooled_token :]

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


class SE(ChannelUnit):
    """Squeeze-and-Excitation (Hu et al., CVPR 2018, arXiv:1709.01507, Eqs. 2-4).

    Mean over the tokens, Linear D -> D/r, ReLU, Linear D/r -> D, sigmoid: 2D²/r weights.

    Args:
        channels: D.
        reduction: r; divides D.
        **common: see `AttentionUnit`.

    Raises:
        ValueError: if r does not divide D.
    """

    def __init__(self, channels: int, reduction: int = 4, **common: object) -> None:
        super().__init__(**common)  # type: ignore[arg-type]
        _check_reduction(channels, reduction)
        self.reduce = nn.Linear(channels, channels // reduction)
        self.expand = nn.Linear(channels // reduction, channels)

    def initial_map(self) -> float:
        """Return σ(0)."""
        return 0.5

    def zero_map(self) -> None:
        """Zero the expanding layer."""
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)

    def attention(
        self, tokens: Tensor, block_index: int, grid: tuple[int, int] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the map of the channels."""
        s = self.pooled(tokens).mean(dim=1)  # B D
        hidden = torch.relu(linear_float32(self.reduce, s))  # B D/r
        return torch.sigmoid(linear_float32(self.expand, hidden)), None


class ECA(ChannelUnit):
    """Efficient Channel Attention (Wang et al., CVPR 2020, arXiv:1910.03151, Eqs. 9 and 12).

    Mean over the tokens, a convolution of k neighbouring channels, sigmoid: k weights, where k is the odd number at
    `log2(D) / 2 + 1 / 2`, rounded down to a whole number and then up to an odd one, as in the authors' code.

    Args:
        channels: D.
        **common: see `AttentionUnit`.
    """

    def __init__(self, channels: int, **common: object) -> None:
        super().__init__(**common)  # type: ignore[arg-type]
        kernel = eca_kernel_size(channels)
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def initial_map(self) -> float:
        """Return σ(0)."""
        return 0.5

    def zero_map(self) -> None:
        """Zero the convolution."""
        nn.init.zeros_(self.conv.weight)

    def attention(
        self, tokens: Tensor, block_index: int, grid: tuple[int, int] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the map of the channels."""
        return torch.sigmoid(_across_channels(self.conv, self.pooled(tokens).mean(dim=1))), None


def eca_kernel_size(channels: int) -> int:
    """Return k of ECA for a number of channels (Eq. 12 with gamma = 2 and b = 1)."""
    k = int(abs((math.log2(channels) + 1) / 2))
    return k if k % 2 else k + 1


def _across_channels(conv: nn.Conv1d, s: Tensor) -> Tensor:
    """Convolve neighbouring channels of s, (B, D), in float32."""
    padding = conv.kernel_size[0] // 2
    return F.conv1d(s[:, None], conv.weight.float(), padding=padding)[:, 0]


class CBAM(ChannelUnit):
    """Convolutional Block Attention Module (Woo et al., ECCV 2018, arXiv:1807.06521, Eqs. 2 and 3).

    Channels: one MLP (Linear D -> D/r, ReLU, Linear D/r -> D) of the tokens' mean and of their maximum, summed,
    sigmoid. Patches, after the channels' gate: mean and maximum over the channels, a 7 x 7 convolution on the grid,
    sigmoid. 2D²/r + 98 weights. As in Eq. 3 no normalisation follows that convolution; the authors' code has one.
    The time and label tokens have no place in the grid and are gated by the channels' map alone.

    Args:
        channels: D.
        reduction: r; divides D.
        **common: see `AttentionUnit`.

    Raises:
        ValueError: if r does not divide D.
    """

    def __init__(self, channels: int, reduction: int = 4, **common: object) -> None:
        super().__init__(**common)  # type: ignore[arg-type]
        _check_reduction(channels, reduction)
        self.reduce = nn.Linear(channels, channels // reduction)
        self.expand = nn.Linear(channels // reduction, channels)
        self.spatial = nn.Conv2d(2, 1, SPATIAL_KERNEL, padding=SPATIAL_KERNEL // 2, bias=False)

    def initial_map(self) -> float:
        """Return σ(0), of either part."""
        return 0.5

    def zero_map(self) -> None:
        """Zero the expanding layer and the convolution."""
        for parameter in (*self.expand.parameters(), self.spatial.weight):
            nn.init.zeros_(parameter)

    def attention(
        self, tokens: Tensor, block_index: int, grid: tuple[int, int] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the map of the channels and that of the patches."""
        pooled = self.pooled(tokens)
        channel_map = torch.sigmoid(self._mlp(pooled.mean(dim=1)) + self._mlp(pooled.amax(dim=1)))
        x = self.patches(tokens * self.gate(channel_map)[:, None], grid)  # B D rows columns
        described = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        padding = SPATIAL_KERNEL // 2
        patch_map = torch.sigmoid(F.conv2d(described, self.spatial.weight.float(), padding=padding))
        return channel_map, patch_map.flatten(1)[:, :, None]

    def _mlp(self, s: Tensor) -> Tensor:
        return linear_float32(self.expand, torch.relu(linear_float32(self.reduce, s)))


class SRM(ChannelUnit):
    """Style-based Recalibration Module (Lee et al., ICCV 2019, arXiv:1903.10829, Eqs. 1-6).

    Style pooling: mean and standard deviation over the tokens. Style integration: a weighted sum of the two a
    channel, batch normalisation, sigmoid. 2D weights; D more, and D biases, in each block's normalisation, which is not
    shared: shared, training collapses (Fig. 15 and Sec. VI-B2 of arXiv:2210.16101).

    While training, an image's map depends on the other images of its device's batch, as batch normalisation has it:
    of all units only this one gives other numbers on another number of processes or accumulation steps. With gradient
    checkpointing the running averages would move twice a step: a config with both is refused.

    Args:
        channels: D.
        block_indices: the blocks that it serves.
        **common: see `AttentionUnit`.
    """

    def __init__(self, channels: int, block_indices: Sequence[int], **common: object) -> None:
        super().__init__(**common)  # type: ignore[arg-type]
        self.style = nn.Parameter(torch.empty(channels, 2))
        nn.init.trunc_normal_(self.style, std=0.02)
        self.norms = nn.ModuleDict({str(i): nn.BatchNorm1d(channels) for i in block_indices})

    def initial_map(self) -> float:
        """Return σ(0)."""
        return 0.5

    def zero_map(self) -> None:
        """Zero the scales of the normalisations: the style's own weights would leave it nothing to normalise."""
        for norm in self.norms.children():
            assert isinstance(norm, nn.BatchNorm1d)  # which ModuleDict's type hides
            nn.init.zeros_(norm.weight)

    def attention(
        self, tokens: Tensor, block_index: int, grid: tuple[int, int] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the map of the channels.

        Raises:
            ValueError: in training mode with a single image, which cannot be normalised over the batch.
        """
        if self.training and tokens.shape[0] == 1:
            raise ValueError(
                "srm normalises over the batch: training needs at least 2 images a process and accumulation step"
            )
        pooled = self.pooled(tokens)
        mean = pooled.mean(dim=1)
        std = (pooled.var(dim=1, unbiased=False) + STD_EPS).sqrt()
        styled = (torch.stack([mean, std], dim=-1) * self.style.float()).sum(dim=-1)  # B D
        return torch.sigmoid(batch_norm_float32(self.norms[str(block_index)], styled)), None


class SPA(ChannelUnit):
    """Spatial Pyramid Attention (Guo et al., ICME 2020, "SPANet").

    The grid of patches is averaged to 1 x 1, 2 x 2 and 4 x 4; the 21D numbers pass Linear 21D -> D/r, ReLU,
    Linear D/r -> D, sigmoid: 22D²/r weights, no biases, as in the authors' first design, which concatenates.

    Args:
        channels: D.
        reduction: r; divides D.
        **common: see `AttentionUnit`; `pool` makes no difference, since only patches have a place in the grid.

    Raises:
        ValueError: if r does not divide D.
    """

    def __init__(self, channels: int, reduction: int = 4, **common: object) -> None:
        super().__init__(**common)  # type: ignore[arg-type]
        _check_reduction(channels, reduction)
        pooled = channels * sum(side * side for side in PYRAMID)
        self.reduce = nn.Linear(pooled, channels // reduction, bias=False)
        self.expand = nn.Linear(channels // reduction, channels, bias=False)

    def initial_map(self) -> float:
        """Return σ(0)."""
        return 0.5

    def zero_map(self) -> None:
        """Zero the expanding layer."""
        nn.init.zeros_(self.expand.weight)

    def attention(
        self, tokens: Tensor, block_index: int, grid: tuple[int, int] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the map of the channels."""
        x = self.patches(tokens, grid)  # B D rows columns
        pooled = torch.cat([F.adaptive_avg_pool2d(x, side).flatten(1) for side in PYRAMID], dim=1)
        hidden = torch.relu(linear_float32(self.reduce, pooled))  # B D/r
        return torch.sigmoid(linear_float32(self.expand, hidden)), None


class SGE(ChannelUnit):
    """Spatial Group-wise Enhance (Li et al., 2019, arXiv:1905.09646, Eqs. 1-6).

    The channels are cut into G groups. In each, a token's likeness to the mean token (their inner product) is
    normalised over the tokens, scaled, shifted and passed through a sigmoid: 2G weights, starting at 0 and 1, so that
    every token is first gated by σ(1) = 0.73. No grid is needed, so all tokens are gated. A single pooled token has
    nothing to be compared with: its normalised likeness, and that of all others, is 0.

    Args:
        channels: D.
        groups: G; divides D.
        **common: see `AttentionUnit`.

    Raises:
        ValueError: if G does not divide D.
    """

    def __init__(self, channels: int, groups: int = 8, **common: object) -> None:
        super().__init__(**common)  # type: ignore[arg-type]
        if groups < 1 or channels % groups:
            raise ValueError(
                f"groups must be at least 1 and divide the {channels} channels, got {groups}"
            )
        self.groups = groups
        self.scale = nn.Parameter(torch.zeros(groups))
        self.shift = nn.Parameter(torch.ones(groups))

    def initial_map(self) -> float:
        """Return σ(1)."""
        return 1 / (1 + math.exp(-1))

    def zero_map(self) -> None:
        """Do nothing: the unit starts so."""

    def attention(
        self, tokens: Tensor, block_index: int, grid: tuple[int, int] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the map of the channels by token."""
        x = tokens.unflatten(2, (self.groups, -1))  # B L G D/G
        mean = self.pooled(tokens).mean(dim=1).unflatten(1, (self.groups, -1))  # B G D/G
        likeness = (x * mean[:, None]).sum(dim=-1)  # B L G
        pooled = self.pooled(likeness)
        if pooled.shape[1] == 1:  # whose standard deviation is not defined
            normalised = torch.zeros_like(likeness)
        else:
            spread = pooled.std(dim=1, keepdim=True) + STD_EPS
            normalised = (likeness - pooled.mean(dim=1, keepdim=True)) / spread
        by_group = torch.sigmoid(normalised * self.scale.float() + self.shift.float())  # B L G
        return by_group.repeat_interleave(tokens.shape[2] // self.groups, dim=2), None


class SPEM(ChannelUnit):
    """Self-adaptive Pooling Enhanced attention Module (Zhong et al., 2022, arXiv:2208.10322).

    As in the authors' released code: the maximum and the minimum over the tokens, each times w2 plus b2 a channel;
    their mixture, with weights that are learned and shared by all channels, times w1 plus b1; the map is
    `σ(maximum + minimum) · σ(mixture)`. 4D + 2 weights (b1 and b2 counted, as in Eq. 5 of arXiv:2210.16101). They
    start at w = 0 and b = -1, where the map is 0.032 everywhere. The authors add a penalty on the mixture's weights
    to the loss; it is left out here, since it would change the loss that variants are compared by.

    Args:
        channels: D.
        **common: see `AttentionUnit`.
    """

    def __init__(self, channels: int, **common: object) -> None:
        super().__init__(**common)  # type: ignore[arg-type]
        self.mixture = nn.Parameter(torch.full((2,), 0.5))
        self.pooled_scale = nn.Parameter(torch.zeros(channels))
        self.pooled_shift = nn.Parameter(torch.full((channels,), -1.0))
        self.mixed_scale = nn.Parameter(torch.zeros(channels))
        self.mixed_shift = nn.Parameter(torch.full((channels,), -1.0))

    def initial_map(self) -> float:
        """Return σ(-2) · σ(-1)."""
        return 1 / ((1 + math.exp(2)) * (1 + math.exp(1)))

    def zero_map(self) -> None:
        """Do nothing: the unit starts so."""

    def attention(
        self, tokens: Tensor, block_index: int, grid: tuple[int, int] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the map of the channels."""
        pooled = self.pooled(tokens)
        scale, shift = self.pooled_scale.float(), self.pooled_shift.float()
        highest, lowest = (s * scale + shift for s in (pooled.amax(dim=1), pooled.amin(dim=1)))
        shares = self.mixture.float().square()
        shares = shares / shares.sum()
        mixed = shares[0] * highest + shares[1] * lowest
        mixed = mixed * self.mixed_scale.float() + self.mixed_shift.float()
        return torch.sigmoid(highest + lowest) * torch.sigmoid(mixed), None


class SEM(ChannelUnit):
    """Switchable self-attention Module (Zhong et al., 2022, arXiv:2209.05680).

    As in the authors' released code: of the tokens' mean s, three excitations, that of SE, that of ECA, and an affine
    map w ⊗ s + b; a Linear D -> 3 with a sigmoid weighs each; the map is the product of their sigmoids.
    2D²/r + 5D + k weights, k as in `ECA`; w starts at 0 and b at -1.

    Args:
        channels: D.
        reduction: r of the SE part; divides D.
        **common: see `AttentionUnit`.

    Raises:
        ValueError: if r does not divide D.
    """

    def __init__(self, channels: int, reduction: int = 4, **common: object) -> None:
        super().__init__(**common)  # type: ignore[arg-type]
        _check_reduction(channels, reduction)
        self.switch = nn.Linear(channels, 3)
        self.reduce = nn.Linear(channels, channels // reduction)
        self.expand = nn.Linear(channels // reduction, channels)
        kernel = eca_kernel_size(channels)
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)
        self.scale = nn.Parameter(torch.zeros(channels))
        self.shift = nn.Parameter(torch.full((channels,), -1.0))

    def initial_map(self) -> float:
        """Return σ(0)³."""
        return 0.125

    def zero_map(self) -> None:
        """Zero the last step of each excitation."""
        for parameter in (*self.expand.parameters(), self.conv.weight, self.scale, self.shift):
            nn.init.zeros_(parameter)

    def attention(
        self, tokens: Tensor, block_index: int, grid: tuple[int, int] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the map of the channels."""
        s = self.pooled(tokens).mean(dim=1)  # B D
        weights = torch.sigmoid(linear_float32(self.switch, s))  # B 3
        hidden = torch.relu(linear_float32(self.reduce, s))
        excitations = torch.stack(
            [
                linear_float32(self.expand, hidden),
                _across_channels(self.conv, s),
                s * self.scale.float() + self.shift.float(),
            ],
            dim=1,
        )  # B 3 D
        return torch.sigmoid(excitations * weights[:, :, None]).prod(dim=1), None
