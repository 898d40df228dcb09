"""The small CIFAR-10 U-ViT without a unit: the baseline of `cifar10_small_uvit_dia.py`.

    accelerate launch train.py --config configs/cifar10_small_uvit.py
    python eval_fid.py --checkpoint runs/cifar10_small_uvit --num_images 10000

It equals `cifar10_small_uvit_dia.py` in everything else.
Not trained by us on a GPU yet: neither time nor result is claimed.
"""

from ml_collections import ConfigDict

from configs.cifar10_small_uvit_dia import get_config as get_dia_config


def get_config() -> ConfigDict:
    """Return the complete config."""
    config = get_dia_config()
    config.model.attention = "none"
    return config
