"""U-ViT-M/4 with one shared DIA-LSTM on ImageNet, 64x64: `imagenet64_uvit_mid.py` with the unit.

    accelerate launch train.py --config configs/imagenet64_uvit_dia.py --config.data.path=IMAGES

Not trained by us: no result is claimed.
"""

from ml_collections import ConfigDict

from configs.imagenet64_uvit_mid import get_config as get_plain_config


def get_config() -> ConfigDict:
    """Return the complete config."""
    config = get_plain_config()
    config.model.attention = "dia_lstm"
    return config
