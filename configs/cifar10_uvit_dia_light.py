"""U-ViT-S/2 with one shared DIA-LSTM (Light) on CIFAR-10; otherwise equal to `cifar10_uvit_dia.py`.

    accelerate launch train.py --config configs/cifar10_uvit_dia_light.py
    python eval_fid.py --checkpoint runs/cifar10_uvit_dia_light --num_images 50000

44,394,848 weights. Not trained by us to the end yet: no result is claimed.
"""

from ml_collections import ConfigDict

from configs.cifar10_uvit_dia import get_config as get_dia_config


def get_config() -> ConfigDict:
    """Return the complete config."""
    config = get_dia_config()
    config.model.attention = "dia_lstm_light"
    return config
