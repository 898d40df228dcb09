"""U-ViT-S/2 without a unit on CIFAR-10: the baseline of `cifar10_uvit_dia.py`.

    accelerate launch train.py --config configs/cifar10_uvit.py
    python eval_fid.py --checkpoint runs/cifar10_uvit --num_images 50000

It equals `cifar10_uvit_dia.py` in everything else. 44,255,328 weights. The U-ViT authors report FID
3.11 for their continuous-time training of this network. Ours is discrete, so that number is a
landmark and no baseline. Not trained by us to the end yet: no result is claimed.
"""

from ml_collections import ConfigDict

from configs.cifar10_uvit_dia import get_config as get_dia_config


def get_config() -> ConfigDict:
    """Return the complete config."""
    config = get_dia_config()
    config.model.attention = "none"
    return config
