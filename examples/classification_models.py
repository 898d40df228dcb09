"""The classifiers of the paper by name, and where `share_attention` puts its units.

resnet              post-activation, on small images: 20, 32, 44 or 56 layers of basic blocks of
                    16, 32, 64 channels; 83 layers and more of bottlenecks (the paper's 164)
preact_resnet164    pre-activation, with the DIA authors' normalisation before the unit
wrn52_4             wide, likewise
resnext101_8x32     N = 128, 256, 512
torchvision's       resnet18, resnet34, resnet50, resnet101, for ImageNet, as tv_resnet50
vit_tiny, vit_small, vit_base   timm's, patch 16 on ImageNet, an eighth of a small image
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from examples.resnet import (
    BasicBlock,
    BlockForm,
    Bottleneck,
    PreActBottleneck,
    ResNet,
    ResNeXtBottleneck,
    WideBlock,
)
from examples.unit_options import put_unit
from uvit_dia.models.other_backbones.hooks import SharedAttention
from uvit_dia.system.errors import InputError

BASIC_WIDTHS = (16, 32, 64)
LEAST_BOTTLENECK_DEPTH = 83
LARGE_SIDE = 128  # from here on a ViT has patches of 16 pixels
TORCHVISION = ("tv_resnet18", "tv_resnet34", "tv_resnet50", "tv_resnet101")
VITS = {"vit_tiny": 3, "vit_small": 6, "vit_base": 12}  # heads, of 64 channels each


@dataclass(frozen=True)
class Images:
    """What a classifier is built for.

    Attributes:
        in_chans: channels of an image.
        img_size: its side in pixels.
        num_classes: K.
    """

    in_chans: int
    img_size: int
    num_classes: int


@dataclass(frozen=True)
class Classifier:
    """A network and the places of its units.

    Attributes:
        model: maps images to logits (B, K).
        targets: stage -> names of modules, see `share_attention`.
        num_extra_tokens: class tokens before the patches.
    """

    model: nn.Module
    targets: Mapping[str, str]
    num_extra_tokens: int = 0


def _resnet(depth: int, images: Images, form: BlockForm) -> Classifier:
    """Make a post-activation ResNet of so many layers."""
    is_deep = depth >= LEAST_BOTTLENECK_DEPTH
    per_block = 9 if is_deep else 6  # layers of a block of each of the three stages
    if depth < 8 or (depth - 2) % per_block:
        raise InputError(
            f"--depth {depth}: allowed is 6 n + 2 below {LEAST_BOTTLENECK_DEPTH}, such as 20, and "
            "9 n + 2 from there on, such as 164"
        )
    model = ResNet(
        Bottleneck if is_deep else BasicBlock,
        (depth - 2) // per_block,
        widths=(64, 128, 256) if is_deep else BASIC_WIDTHS,
        num_classes=images.num_classes,
        in_chans=images.in_chans,
        form=form,
    )
    return Classifier(model, model.targets)


def _of_blocks(
    block: type[PreActBottleneck | WideBlock | ResNeXtBottleneck],
    blocks_per_stage: int,
    widths: tuple[int, int, int],
) -> Callable[[int, Images, BlockForm], Classifier]:
    def make(depth: int, images: Images, form: BlockForm) -> Classifier:
        model = ResNet(
            block,
            blocks_per_stage,
            widths=widths,
            num_classes=images.num_classes,
            in_chans=images.in_chans,
            form=form,
        )
        return Classifier(model, model.targets)

    return make


def _torchvision(name: str, images: Images) -> Classifier:
    import torchvision

    if images.in_chans != 3:
        raise InputError(f"--model {name}: takes images of 3 channels, not {images.in_chans}")
    maker = getattr(torchvision.models, name.removeprefix("tv_"))
    last_norm = "bn2" if name in TORCHVISION[:2] else "bn3"
    targets = {f"layer{i}": f"layer{i}.*.{last_norm}" for i in (1, 2, 3, 4)}
    return Classifier(maker(weights=None, num_classes=images.num_classes), targets)


def _vit(name: str, images: Images) -> Classifier:
    import timm

    is_large = images.img_size >= LARGE_SIDE
    model = timm.create_model(
        f"{name}_patch16_224",
        img_size=images.img_size,
        patch_size=16 if is_large else max(1, images.img_size // 8),
        in_chans=images.in_chans,
        num_classes=images.num_classes,
    )
    return Classifier(model, {"blocks": "blocks.*.norm2"}, num_extra_tokens=1)


OF_BLOCKS = {
    "resnet": _resnet,
    "preact_resnet164": _of_blocks(PreActBottleneck, 18, (64, 128, 256)),
    "wrn52_4": _of_blocks(WideBlock, 8, (64, 128, 256)),
    "resnext101_8x32": _of_blocks(ResNeXtBottleneck, 11, (128, 256, 512)),
}
MODEL_NAMES = (*OF_BLOCKS, *TORCHVISION, *VITS)


def make_classifier(
    name: str,
    images: Images,
    *,
    depth: int = 20,
    has_norm: bool = True,
    has_skip: bool = True,
) -> Classifier:
    """Make a classifier without units.

    Args:
        name: one of `MODEL_NAMES`.
        images: what it is built for.
        depth: layers of "resnet".
        has_norm: whether blocks have batch normalisation (Table XVI).
        has_skip: whether blocks have skip connections (Figs. 13, 14).

    Raises:
        InputError: if a network is not offered in this form.
    """
    if name in OF_BLOCKS:
        return OF_BLOCKS[name](depth, images, BlockForm(has_norm, has_skip))
    if not (has_norm and has_skip):
        flag = "--no_skip" if has_norm else "--no_norm"
        raise InputError(f"{flag}: not with --model {name}; allowed is {', '.join(OF_BLOCKS)}")
    return _vit(name, images) if name in VITS else _torchvision(name, images)


def add_unit(
    classifier: Classifier, images: Images, unit: str, *, shared: bool, options: Mapping
) -> SharedAttention:
    """Put units into a classifier, one a stage, or one a block.

    Args:
        classifier: without units; changed in place.
        images: what it was built for.
        unit: its name, see `share_attention`.
        shared: one a stage (Eq. 2), or one a block (Eq. 1).
        options: of the unit.

    Raises:
        InputError: if unit or options are not ones that there are.
    """
    return put_unit(
        classifier.model,
        dict(classifier.targets),
        unit,
        shared=shared,
        example_input=torch.zeros(2, images.in_chans, images.img_size, images.img_size),
        num_extra_tokens=classifier.num_extra_tokens,
        **options,
    )
