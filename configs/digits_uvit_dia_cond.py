"""The quickstart with classes: ten digits to choose from, with classifier-free guidance.

    python train.py --config configs/digits_uvit_dia_cond.py --workdir runs/digits_cond
    python sample.py --checkpoint runs/digits_cond --num_images 100 --guidance_scale 1.5

The network is told one of ten classes or, for one image in ten, the label 10 for "no class". A grid
has a row a digit. The learning rate is the best of results/digits_question for the identity start.
It equals `digits_uvit_dia.py` in everything else.
"""

from ml_collections import ConfigDict

from configs.digits_uvit_dia import get_config as get_unconditional_config


def get_config() -> ConfigDict:
    """Return the complete config."""
    config = get_unconditional_config()
    config.model.num_classes = 11
    config.train.label_dropout = 0.1
    config.optimizer.learning_rate = 8e-3
    config.sample.grid_images = 80
    return config
