"""Units without a state that gate the channels by more than their mean over the tokens.

Legend of tensor names: B batch, L' pooled tokens, D channels.
"""

import math
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from uvit_dia.config.units import VARIANCES
from uvit_dia.models.layers import INITIAL_STD
from uvit_dia.models.units.batch_norms import BatchNorms
from uvit_dia.models.units.channel import ChannelUnit
from uvit_dia.models.units.protocol import UnitOptions

STD_EPS = 1e-5


class SRM(ChannelUnit):
    """Style-based Recalibration Module (Lee et al., ICCV 2019, arXiv:1903.10829, Eqs. 1-6).

    Style pooling: mean and standard deviation over the tokens. Style integration: a weighted sum of
    the two a channel, batch normalisation, sigmoid. 2D weights; D more, and D biases, in each
    normalisation. The style's weights start at 0 as in the authors' code, so that every gate
    starts at exactly 0.5. `BatchNorms` says what the normalisation means for training.

    Args:
        channels: D.
        block_indices: the blocks that it serves.
        variance: "unbiased" divides by L' - 1, as the authors' code does; "biased" by L'.
        normalisation: "default" and "block" give each block a normalisation of its own; "shared"
            has one, with which training collapses (Fig. 15 of arXiv:2210.16101).
        **options: see `AttentionUnit`.

    Raises:
        ValueError: for an unknown `variance` or `normalisation`.
    """

    starts_constant = True
    normalises_over_images = True
    has_running_averages = True

    def __init__(
        self,
        channels: int,
        block_indices: Sequence[int],
        *,
        variance: str = "unbiased",
        normalisation: str = "default",
        **options: Unpack[UnitOptions],
    ) -> None:
        super().__init__(channels, map_start=0.5, **options)
        if variance not in VARIANCES:
            raise ValueError(f"variance must be one of {', '.join(VARIANCES)}, got {variance!r}")
        self.is_unbiased = variance == "unbiased"
        self.style = nn.Parameter(torch.zeros(channels, 2))
        self.norms = BatchNorms(lambda: nn.BatchNorm1d(channels), block_indices, normalisation)

    def zero_map(self) -> None:
        """Zero the scales of the normalisations, and draw the style's weights.

        Were both 0, no gradient would reach either.
        """
        nn.init.trunc_normal_(self.style, std=INITIAL_STD)
        for norm in self.norms.children():
            assert isinstance(norm, nn.BatchNorm1d)  # which ModuleDict's type hides
            nn.init.zeros_(norm.weight)

    def channel_map(self, tokens: Tensor, block_index: int) -> Tensor:
        """Return the map of the channels, (B, D).

        Raises:
            ValueError: in training mode with a single image.
        """
        # The variance of a single token is 0, also where it would be divided by 0 tokens.
        is_unbiased = self.is_unbiased and tokens.shape[1] > 1
        variance = tokens.var(dim=1, unbiased=is_unbiased)
        style = torch.stack([tokens.mean(dim=1), (variance + STD_EPS).sqrt()], dim=-1)  # B D 2
        styled = (style * self.style.float()).sum(dim=-1)  # B D
        return torch.sigmoid(self.norms(styled, block_index))


class SPEM(ChannelUnit):
    """Self-adaptive Pooling Enhanced attention Module (Zhong et al., 2022, arXiv:2208.10322).

    As in the authors' released code: the maximum and the minimum over the tokens, each times w2
    plus b2 a channel; their mixture, with weights p that are learned and shared by all channels,
    times w1 plus b1; the map is `σ(maximum + minimum) · σ(mixture)`. 4D + 2 weights (b1 and b2
    counted, as in Eq. 5 of arXiv:2210.16101). They start at w = 0 and b = -1, where the map is
    0.032 everywhere.

    Args:
        channels: D.
        mixture_penalty: what `p_1² + p_2²` of each block is multiplied with in the training loss:
            0.1 in the authors' code. 0 leaves the loss that variants are compared by alone.
        **options: see `AttentionUnit`.

    Raises:
        ValueError: if `mixture_penalty` is negative.
    """

    starts_constant = True

    def __init__(
        self, channels: int, *, mixture_penalty: float = 0.0, **options: Unpack[UnitOptions]
    ) -> None:
        start = 1 / ((1 + math.exp(2)) * (1 + math.exp(1)))  # σ(-2) · σ(-1)
        super().__init__(channels, map_start=start, **options)
        if not mixture_penalty >= 0:
            raise ValueError(f"mixture_penalty must be 0 or more, got {mixture_penalty}")
        self.mixture_penalty = mixture_penalty
        self.mixture = nn.Parameter(torch.full((2,), 0.5))
        self.pooled_scale = nn.Parameter(torch.zeros(channels))
        self.pooled_shift = nn.Parameter(torch.full((channels,), -1.0))
        self.mixed_scale = nn.Parameter(torch.zeros(channels))
        self.mixed_shift = nn.Parameter(torch.full((channels,), -1.0))

    def zero_map(self) -> None:
        """Do nothing: the unit starts so."""

    def channel_map(self, tokens: Tensor, block_index: int) -> Tensor:
        """Return the map of the channels, (B, D)."""
        scale, shift = self.pooled_scale.float(), self.pooled_shift.float()
        highest, lowest = (s * scale + shift for s in (tokens.amax(dim=1), tokens.amin(dim=1)))
        shares = self.mixture.float().square()
        shares = shares / shares.sum()
        mixed = shares[0] * highest + shares[1] * lowest
        mixed = mixed * self.mixed_scale.float() + self.mixed_shift.float()
        return torch.sigmoid(highest + lowest) * torch.sigmoid(mixed)

    def penalty(self) -> Tensor | None:
        """Return `mixture_penalty * (p_1² + p_2²)`, (), or None where it is 0."""
        if self.mixture_penalty == 0:
            return None
        return self.mixture_penalty * self.mixture.float().square().sum()
