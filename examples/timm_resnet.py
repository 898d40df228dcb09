"""A timm ResNet with one DIA unit a stage, on digits or CIFAR-10: `python examples/timm_resnet.py`.

The unit gates what the last normalisation of each residual branch gives, before the sum (Eq. 4,
arXiv:2210.16101). Needs timm: `pip install -e '.[examples]'`.
"""

import timm
from quick_comparison import compare, read_input
from torch import nn

from uvit_dia import share_attention

STAGES = (1, 2, 3, 4)
TARGETS = {f"layer{i}": f"layer{i}.*.bn3" for i in STAGES}


def make_resnet(in_chans: int) -> nn.Module:
    """Make a narrow ResNet-26 for small images: a 3x3 stem, and no pooling after it."""
    model = timm.create_model(
        "resnet26", in_chans=in_chans, num_classes=10, channels=(16, 32, 64, 128)
    )
    model.conv1 = nn.Conv2d(in_chans, model.conv1.out_channels, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def main() -> None:
    """Train with and without the unit, and print both accuracies."""
    arguments, classes = read_input(__doc__ or "", num_epochs=8)
    compare(
        "ResNet-26",
        classes,
        lambda: make_resnet(classes.in_chans),
        lambda model: share_attention(
            model, TARGETS, arguments.unit, shared=not arguments.unshared
        ),
        arguments,
    )


if __name__ == "__main__":
    main()
