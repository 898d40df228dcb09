"""The ResNets of the paper's CIFAR experiments, without units: `share_attention` adds them.

Each stage has one width, and so one unit: `share_attention(model, model.targets)`. The unit stands
after the last normalisation of each residual branch, before the sum (Eq. 4, arXiv:2210.16101).
Legend of tensor names: B batch, C channels, H rows, W columns, K classes.
"""

import torch.nn.functional as F
from torch import Tensor, nn

EXPANSION = 4  # of a bottleneck: it gives out four times the channels that its 3x3 convolution has
STEM_CHANNELS = 16
STAGES = (1, 2, 3)


class Bottleneck(nn.Module):
    """A post-activation bottleneck (He et al., CVPR 2016, arXiv:1512.03385, Fig. 5).

    `relu(x + f(x))` with `f = bn(conv(.))` three times, 1x1, 3x3, 1x1, and a relu between them.

    Args:
        in_channels: of x.
        out_channels: of the sum, four times those of the 3x3 convolution.
        stride: of the 3x3 convolution; the first block of a stage may have 2.
    """

    last_norm = "bn3"

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        width = out_channels // EXPANSION
        self.conv1, self.bn1 = conv(in_channels, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, out_channels, 1), nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.shortcut(x) + self.bn3(self.conv3(y)))


class PreActBottleneck(nn.Module):
    """A pre-activation bottleneck (He et al., ECCV 2016, arXiv:1603.05027) with one more norm.

    `x + bn(f(x))` with `f = conv(relu(bn(.)))` three times. The last normalisation is not theirs:
    the DIA authors' code has it, so that the unit reads normalised features here, too.

    Args:
        in_channels: of x.
        out_channels: of the sum, four times those of the 3x3 convolution.
        stride: of the 3x3 convolution.
    """

    last_norm = "bn4"

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        width = out_channels // EXPANSION
        self.bn1, self.conv1 = nn.BatchNorm2d(in_channels), conv(in_channels, width, 1)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 3, stride)
        self.bn3, self.conv3 = nn.BatchNorm2d(width), conv(width, out_channels, 1)
        self.bn4 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = conv(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H / stride, W / stride)."""
        y = self.conv1(F.relu(self.bn1(x)))
        y = self.conv2(F.relu(self.bn2(y)))
        y = self.conv3(F.relu(self.bn3(y)))
        return self.shortcut(x) + self.bn4(y)


class WideBlock(nn.Module):
    """A block of a WRN (Zagoruyko and Komodakis, BMVC 2016, arXiv:1605.07146) with one more norm.

    `x + bn(f(x))` with `f = conv(relu(bn(.)))` twice, 3x3; the last normalisation is the DIA
    authors', as in `PreActBottleneck`. Where the width changes, the shortcut reads relu(bn(x)).

    Args:
        in_channels: of x.
        out_channels: of the sum.
        stride: of the first convolution.
    """

    last_norm = "bn3"

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv(in_channels, out_channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv(out_channels, out_channels, 3)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module | None = None
        if in_channels != out_channels:
            self.shortcut = conv(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H / stride, W / stride)."""
        activated = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return (x if self.shortcut is None else self.shortcut(activated)) + self.bn3(y)


class ResNet(nn.Module):
    """A 3x3 convolution, three stages of blocks, the mean over positions, and a Linear layer.

    Args:
        block: class of the blocks.
        blocks_per_stage: how many.
        widths: N of each stage.
        num_classes: K.
        in_chans: channels of the images.
    """

    def __init__(
        self,
        block: type[Bottleneck] | type[PreActBottleneck] | type[WideBlock],
        blocks_per_stage: int,
        *,
        widths: tuple[int, int, int] = (64, 128, 256),
        num_classes: int = 10,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        is_pre_activation = block is not Bottleneck
        self.stem = conv(in_chans, STEM_CHANNELS, 3)
        self.stem_norm = nn.Identity() if is_pre_activation else _norm_relu(STEM_CHANNELS)
        before = STEM_CHANNELS
        for stage, width in zip(STAGES, widths, strict=True):
            blocks = [block(before, width, 1 if stage == 1 else 2)]
            blocks += [block(width, width, 1) for _ in range(blocks_per_stage - 1)]
            self.add_module(f"stage{stage}", nn.Sequential(*blocks))
            before = width
        self.norm = _norm_relu(before) if is_pre_activation else nn.Identity()
        self.head = nn.Linear(before, num_classes)
        # of each stage, for `share_attention`
        self.targets = {f"stage{stage}": f"stage{stage}.*.{block.last_norm}" for stage in STAGES}

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, K)."""
        x = self.stem_norm(self.stem(x))
        for stage in STAGES:
            x = getattr(self, f"stage{stage}")(x)
        return self.head(self.norm(x).mean(dim=(2, 3)))


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Make a convolution without bias, whose weights start as in He et al. 2015."""
    made = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made


def _norm_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())


def resnet164(num_classes: int = 10) -> ResNet:
    """Make the paper's ResNet164, of 9 * 18 + 2 layers."""
    return ResNet(Bottleneck, 18, num_classes=num_classes)


def preact_resnet164(num_classes: int = 10) -> ResNet:
    """Make the pre-activation ResNet164 of the DIA authors' code."""
    return ResNet(PreActBottleneck, 18, num_classes=num_classes)


def wrn52_4(num_classes: int = 10) -> ResNet:
    """Make the WRN52-4 of the DIA authors' code, of 6 * 8 + 4 layers, 4 times as wide."""
    return ResNet(WideBlock, 8, num_classes=num_classes)
