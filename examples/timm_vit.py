"""A timm ViT with one DIA unit for all blocks, on digits or CIFAR-10.

    python examples/timm_vit.py

The unit stands between Norm and MLP of each block, as in Table IX of arXiv:2210.16101. Needs timm:
`pip install -e '.[examples]'`.
"""

import timm
from quick_comparison import compare, read_input
from torch import nn

from uvit_dia import share_attention

TARGETS = "blocks.*.norm2"


def make_vit(img_size: int, in_chans: int) -> nn.Module:
    """Make a small ViT: 16 patches of 2 x 2 pixels for digits, 64 of 4 x 4 for CIFAR-10."""
    return timm.create_model(
        "vit_tiny_patch16_224",
        img_size=img_size,
        patch_size=max(2, img_size // 8),
        in_chans=in_chans,
        num_classes=10,
        embed_dim=64,
        depth=6,
        num_heads=4,
    )


def main() -> None:
    """Train with and without the unit, and print both accuracies."""
    arguments, classes = read_input(__doc__ or "", num_epochs=15)
    compare(
        "ViT of 6 blocks",
        classes,
        lambda: make_vit(classes.img_size, classes.in_chans),
        lambda model: share_attention(
            model, TARGETS, arguments.unit, shared=not arguments.unshared, num_extra_tokens=1
        ),
        arguments,
    )


if __name__ == "__main__":
    main()
