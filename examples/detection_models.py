"""torchvision's detectors with a shared attention unit in each stage of the backbone (Table X).

The unit gates what the last normalisation of each residual branch gives, frozen or not, before the
sum (Eq. 4 of arXiv:2210.16101).
"""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from examples.unit_options import put_unit
from uvit_dia.models.other_backbones.hooks import SharedAttention
from uvit_dia.system.errors import InputError
from uvit_dia.system.messages import clip

DETECTORS = ("faster_rcnn", "retinanet")
LAST_NORM = {"resnet18": "bn2", "resnet34": "bn2", "resnet50": "bn3", "resnet101": "bn3"}
BACKBONES = tuple(LAST_NORM)
RATIOS = (0.5, 1.0, 2.0)  # heights over widths of anchors, of both detectors


def make_detector(
    name: str,
    backbone: str,
    num_categories: int,
    *,
    img_size: tuple[int, int] = (800, 1333),
    smallest_anchor: int = 32,
    weights: Path | None = None,
    trainable_layers: int = 5,
    num_proposals: int = 512,
) -> nn.Module:
    """Make a detector with a feature pyramid over a ResNet, without units.

    Args:
        name: one of `DETECTORS`.
        backbone: one of `BACKBONES`.
        num_categories: without the background.
        img_size: least side and greatest side, in pixels, to which images are scaled.
        smallest_anchor: side of the anchors of the finest level, in pixels; each next one's are
            twice as large.
        weights: of torchvision's ResNet, a .pth; its normalisations are frozen then, as in
            torchvision. None starts from nothing.
        trainable_layers: how many of the last parts of the ResNet are trained, 0 to 5.
        num_proposals: boxes an image on which Faster R-CNN's second part is trained; fewer save
            time on small images. The other numbers of boxes follow it.

    Raises:
        InputError: if the weights are not those of this ResNet.
    """
    import torchvision
    from torchvision.models.detection import FasterRCNN, RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7
    from torchvision.ops.misc import FrozenBatchNorm2d

    norm = nn.BatchNorm2d if weights is None else FrozenBatchNorm2d
    resnet = getattr(torchvision.models, backbone)(weights=None, norm_layer=norm)
    if weights is not None:
        _load(resnet, weights)
    sizes = [smallest_anchor * 2**level for level in range(5)]
    options: dict[str, Any] = {"min_size": img_size[0], "max_size": img_size[1]}
    if name == "faster_rcnn":
        features = _resnet_fpn_extractor(resnet, trainable_layers)
        anchors = AnchorGenerator(tuple((size,) for size in sizes), (RATIOS,) * 5)
        return FasterRCNN(features, num_categories + 1, rpn_anchor_generator=anchors, **options)
    # three sizes an octave, as its authors have (arXiv:1708.02002, Sec. 4)
    octaves = tuple(tuple(int(size * 2 ** (i / 3)) for i in range(3)) for size in sizes)
    features = _resnet_fpn_extractor(
        resnet,
        trainable_layers,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    anchors = AnchorGenerator(octaves, (RATIOS,) * 5)
    return RetinaNet(features, num_categories + 1, anchor_generator=anchors, **options)


def _load(resnet: nn.Module, path: Path) -> None:
    try:
        resnet.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, UnpicklingError) as error:
        reason = clip(" ".join(str(error).split()), 80)
        raise InputError(
            f"--weights {path}: no weights of torchvision's ResNet: {reason}"
        ) from error


def add_unit(
    detector: nn.Module,
    backbone: str,
    unit: str,
    *,
    shared: bool,
    options: Mapping[str, Any],
) -> SharedAttention:
    """Put a unit into each stage of a detector's backbone that is trained.

    Args:
        detector: as `make_detector` makes it; changed in place.
        backbone: its name.
        unit: its name, see `share_attention`.
        shared: one a stage (Eq. 2), or one a block (Eq. 1).
        options: of the unit.

    Raises:
        InputError: if all stages are frozen, or unit or options are not ones that there are.
    """
    body = detector.backbone.body  # type: ignore[union-attr]
    trained = [
        f"layer{stage}"
        for stage in (1, 2, 3, 4)
        if any(p.requires_grad for p in getattr(body, f"layer{stage}").parameters())
    ]
    if not trained:
        raise InputError(
            "--trainable_layers 0 freezes all stages; a unit needs one that is trained"
        )
    targets = {stage: f"backbone.body.{stage}.*.{LAST_NORM[backbone]}" for stage in trained}
    return put_unit(detector, targets, unit, shared=shared, **options)
