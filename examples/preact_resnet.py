"""A pre-activation bottleneck ResNet for small images; with 18 blocks a stage it is the paper's ResNet164.

He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016, arXiv:1603.05027: `x + f(x)` with
`f = conv(relu(bn(.)))` three times, 1x1, 3x3, 1x1. The residual branch ends with `conv3`, so `stageN.*.conv3` are the
targets for an attention unit.
"""

import torch.nn.functional as F
from torch import Tensor, nn

EXPANSION = 4  # of a bottleneck: it gives out four times the channels that its 3x3 convolution has


class Bottleneck(nn.Module):
    """One residual block; the first of a stage also changes width and, from stage 2 on, size."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = EXPANSION * width
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            if stride != 1 or in_channels != out_channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, 4 * width, H / stride, W / stride)."""
        y = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        y = self.conv1(y)
        y = self.conv2(F.relu(self.bn2(y)))
        y = self.conv3(F.relu(self.bn3(y)))
        return shortcut + y


class PreActResNet(nn.Module):
    """Three stages of bottlenecks, of 64, 128 and 256 channels with the default width.

    Args:
        blocks_per_stage: 18 makes ResNet164, since 9 * 18 + 2 = 164 layers.
        num_classes: classes.
        in_chans: channels of the images.
        width: of the first stage's 3x3 convolutions; the second has twice, the third four times as many.
    """

    def __init__(
        self, blocks_per_stage: int = 18, num_classes: int = 10, in_chans: int = 3, width: int = 16
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_chans, width, 3, padding=1, bias=False)
        self.stage1 = _make_stage(width, width, blocks_per_stage, stride=1)
        self.stage2 = _make_stage(EXPANSION * width, 2 * width, blocks_per_stage, stride=2)
        self.stage3 = _make_stage(EXPANSION * 2 * width, 4 * width, blocks_per_stage, stride=2)
        self.norm = nn.BatchNorm2d(EXPANSION * 4 * width)
        self.head = nn.Linear(EXPANSION * 4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, num_classes)."""
        x = self.stage3(self.stage2(self.stage1(self.stem(x))))
        x = F.relu(self.norm(x)).mean(dim=(2, 3))
        return self.head(x)


def _make_stage(in_channels: int, width: int, num_blocks: int, stride: int) -> nn.Sequential:
    blocks = [Bottleneck(in_channels, width, stride)]
    blocks += [Bottleneck(EXPANSION * width, width, 1) for _ in range(num_blocks - 1)]
    return nn.Sequential(*blocks)
