"""The ResNets of the paper's CIFAR experiments, without units: `share_attention` adds them.

Each can be built without normalisation (Table XVI) and without skip connections (Figs. 13, 14).

Each stage has one width, and so one unit: `share_attention(model, model.targets)`. The unit stands
after the last normalisation of each residual branch, before the sum (Eq. 4, arXiv:2210.16101).
Legend of tensor names: B batch, C channels, H rows, W columns, K classes.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class BlockForm:
    """What a block is built with.

    Attributes:
        has_norm: whether it has batch normalisation.
        has_skip: whether its input is added to its branch.
    """

    has_norm: bool = True
    has_skip: bool = True

    def norm(self, channels: int) -> nn.Module:
        """Make a normalisation, or what stands for it: a module that changes nothing."""
        return nn.BatchNorm2d(channels) if self.has_norm else nn.Identity()

    def shortcut(
        self, in_channels: int, out_channels: int, stride: int, *, normalises: bool
    ) -> nn.Module | None:
        """Make what brings x to the sum; None where nothing is added."""
        if not self.has_skip:
            return None
        if stride == 1 and in_channels == out_channels:
            return nn.Identity()
        projection = conv(in_channels, out_channels, 1, stride)
        return nn.Sequential(projection, self.norm(out_channels)) if normalises else projection


PLAIN = BlockForm()
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
        form: what the block is built with.
    """

    last_norm = "bn3"
    groups = 1

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, form: BlockForm = PLAIN
    ) -> None:
        super().__init__()
        width = self.inner_width(out_channels)
        self.conv1, self.bn1 = conv(in_channels, width, 1), form.norm(width)
        self.conv2 = conv(width, width, 3, stride, self.groups)
        self.bn2 = form.norm(width)
        self.conv3, self.bn3 = conv(width, out_channels, 1), form.norm(out_channels)
        self.shortcut = form.shortcut(in_channels, out_channels, stride, normalises=True)

    @staticmethod
    def inner_width(out_channels: int) -> int:
        """Return the channels of the 3x3 convolution."""
        return out_channels // EXPANSION

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y if self.shortcut is None else self.shortcut(x) + y)


class ResNeXtBottleneck(Bottleneck):
    """A bottleneck whose 3x3 convolution has 8 groups (Xie et al., CVPR 2017, arXiv:1611.05431).

    It is twice as wide as the block's output, as in the ResNeXt101,8x32 of the DIA authors' code:
    8 groups of 32 channels where the output has N = 128.
    """

    groups = 8

    @staticmethod
    def inner_width(out_channels: int) -> int:
        """Return the channels of the 3x3 convolution."""
        return 2 * out_channels


class BasicBlock(nn.Module):
    """A post-activation block of two 3x3 convolutions (arXiv:1512.03385), as ResNet20 has it.

    Args:
        in_channels: of x.
        out_channels: of the sum.
        stride: of the first convolution.
        form: what the block is built with.
    """

    last_norm = "bn2"

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, form: BlockForm = PLAIN
    ) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, out_channels, 3, stride)
        self.bn1 = form.norm(out_channels)
        self.conv2, self.bn2 = conv(out_channels, out_channels, 3), form.norm(out_channels)
        self.shortcut = form.shortcut(in_channels, out_channels, stride, normalises=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H / stride, W / stride)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y if self.shortcut is None else self.shortcut(x) + y)


class PreActBottleneck(nn.Module):
    """A pre-activation bottleneck (He et al., ECCV 2016, arXiv:1603.05027) with one more norm.

    `x + bn(f(x))` with `f = conv(relu(bn(.)))` three times. The last normalisation is not theirs:
    the DIA authors' code has it, so that the unit reads normalised features here, too.

    Args:
        in_channels: of x.
        out_channels: of the sum, four times those of the 3x3 convolution.
        stride: of the 3x3 convolution.
        form: what the block is built with.
    """

    last_norm = "bn4"

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, form: BlockForm = PLAIN
    ) -> None:
        super().__init__()
        width = out_channels // EXPANSION
        self.bn1, self.conv1 = form.norm(in_channels), conv(in_channels, width, 1)
        self.bn2, self.conv2 = form.norm(width), conv(width, width, 3, stride)
        self.bn3, self.conv3 = form.norm(width), conv(width, out_channels, 1)
        self.bn4 = form.norm(out_channels)
        self.shortcut = form.shortcut(in_channels, out_channels, stride, normalises=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H / stride, W / stride)."""
        y = self.conv1(F.relu(self.bn1(x)))
        y = self.conv2(F.relu(self.bn2(y)))
        y = self.conv3(F.relu(self.bn3(y)))
        y = self.bn4(y)
        return y if self.shortcut is None else self.shortcut(x) + y


class WideBlock(nn.Module):
    """A block of a WRN (Zagoruyko and Komodakis, BMVC 2016, arXiv:1605.07146) with one more norm.

    `x + bn(f(x))` with `f = conv(relu(bn(.)))` twice, 3x3; the last normalisation is the DIA
    authors', as in `PreActBottleneck`. Where the width changes, the shortcut reads relu(bn(x)).

    Args:
        in_channels: of x.
        out_channels: of the sum.
        stride: of the first convolution.
        form: what the block is built with.
    """

    last_norm = "bn3"

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, form: BlockForm = PLAIN
    ) -> None:
        super().__init__()
        self.bn1, self.conv1 = form.norm(in_channels), conv(in_channels, out_channels, 3, stride)
        self.bn2, self.conv2 = form.norm(out_channels), conv(out_channels, out_channels, 3)
        self.bn3 = form.norm(out_channels)
        self.changes_width = in_channels != out_channels
        self.shortcut = form.shortcut(in_channels, out_channels, stride, normalises=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H / stride, W / stride)."""
        activated = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        y = self.bn3(y)
        if self.shortcut is None:
            return y
        return self.shortcut(activated if self.changes_width else x) + y


Block = BasicBlock | Bottleneck | PreActBottleneck | WideBlock


class ResNet(nn.Module):
    """A 3x3 convolution, three stages of blocks, the mean over positions, and a Linear layer.

    Args:
        block: class of the blocks.
        blocks_per_stage: how many.
        widths: N of each stage.
        num_classes: K.
        in_chans: channels of the images.
        form: what the blocks are built with.
    """

    def __init__(
        self,
        block: type[Block],
        blocks_per_stage: int,
        *,
        widths: tuple[int, int, int] = (64, 128, 256),
        num_classes: int = 10,
        in_chans: int = 3,
        form: BlockForm = PLAIN,
    ) -> None:
        super().__init__()
        is_pre_activation = block in (PreActBottleneck, WideBlock)
        self.stem = conv(in_chans, STEM_CHANNELS, 3)
        self.stem_norm = nn.Identity() if is_pre_activation else _norm_relu(STEM_CHANNELS, form)
        before = STEM_CHANNELS
        for stage, width in zip(STAGES, widths, strict=True):
            blocks = [block(before, width, 1 if stage == 1 else 2, form)]
            blocks += [block(width, width, 1, form) for _ in range(blocks_per_stage - 1)]
            self.add_module(f"stage{stage}", nn.Sequential(*blocks))
            before = width
        self.norm = _norm_relu(before, form) if is_pre_activation else nn.Identity()
        self.head = nn.Linear(before, num_classes)
        # of each stage, for `share_attention`
        self.targets = {f"stage{stage}": f"stage{stage}.*.{block.last_norm}" for stage in STAGES}

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, K)."""
        x = self.stem_norm(self.stem(x))
        for stage in STAGES:
            x = getattr(self, f"stage{stage}")(x)
        return self.head(self.norm(x).mean(dim=(2, 3)))


def conv(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """Make a convolution without bias, whose weights start as in He et al. 2015."""
    padding = kernel // 2
    made = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made


def _norm_relu(channels: int, form: BlockForm) -> nn.Sequential:
    return nn.Sequential(form.norm(channels), nn.ReLU())


def resnet164(num_classes: int = 10) -> ResNet:
    """Make the paper's ResNet164, of 9 * 18 + 2 layers."""
    return ResNet(Bottleneck, 18, num_classes=num_classes)


def preact_resnet164(num_classes: int = 10) -> ResNet:
    """Make the pre-activation ResNet164 of the DIA authors' code."""
    return ResNet(PreActBottleneck, 18, num_classes=num_classes)


def wrn52_4(num_classes: int = 10) -> ResNet:
    """Make the WRN52-4 of the DIA authors' code, of 6 * 8 + 4 layers, 4 times as wide."""
    return ResNet(WideBlock, 8, num_classes=num_classes)
