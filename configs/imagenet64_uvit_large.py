r"""U-ViT-L/4 without a unit on ImageNet, 64x64: `imagenet64_uvit_mid.py`, wider and deeper.

    accelerate launch train.py --config configs/imagenet64_uvit_large.py --config.data.path=IMAGES
    python sample.py --checkpoint imagenet64_uvit_large.pth --config imagenet64_uvit_large \
        --sampler dpm_solver --class_labels 207,360

Not trained by us: no result is claimed.
"""

from ml_collections import ConfigDict

from configs.imagenet64_uvit_mid import get_config as get_mid_config


def get_config() -> ConfigDict:
    """Return the complete config."""
    config = get_mid_config()
    config.model.update(embed_dim=1024, depth=20, num_heads=16)
    return config
