"""U-ViT-S/2 with a shared DIA-LSTM on CIFAR-10, told the classes: guidance can choose among ten.

    accelerate launch train.py --config configs/cifar10_uvit_dia_cond.py
    python sample.py --checkpoint runs/cifar10_uvit_dia_cond --class_labels cat,dog \
        --guidance_scale 1.5

One label in ten is replaced by the label 10 for "no class". It equals `cifar10_uvit_dia.py` in
everything else. Not trained by us: no result is claimed.
"""

from ml_collections import ConfigDict

from configs.cifar10_uvit_dia import get_config as get_unconditional_config


def get_config() -> ConfigDict:
    """Return the complete config."""
    config = get_unconditional_config()
    config.model.num_classes = 11
    config.train.label_dropout = 0.1
    return config
