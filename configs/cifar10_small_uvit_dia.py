"""A small U-ViT with one shared DIA-LSTM on CIFAR-10: 25,000 steps, for minutes on one modern GPU.

    accelerate launch train.py --config configs/cifar10_small_uvit_dia.py
    python eval_fid.py --checkpoint runs/cifar10_small_uvit_dia --num_images 10000

Together with `cifar10_small_uvit.py` it shows what the unit does, at a scale that can be repeated
over seeds and batch sizes. Patch 4 makes 65 tokens of 256 channels: 6.1 million weights, and about
a thirtieth of U-ViT-S/2's work an image. Betas of (0.9, 0.99) and a higher learning rate than the
large recipe's suit the short run. The EMA's half-life is at most a twentieth of the images seen.
Not trained by us on a GPU yet: neither time nor result is claimed.
"""

from ml_collections import ConfigDict

from configs.cifar10_uvit_dia import get_config as get_large_config


def get_config() -> ConfigDict:
    """Return the complete config."""
    config = get_large_config()
    config.model.patch_size = 4
    config.model.embed_dim = 256
    config.model.depth = 6
    config.model.num_heads = 4
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 1000
    config.optimizer.betas = (0.9, 0.99)
    config.optimizer.weight_decay = 0.01
    config.optimizer.max_grad_norm = 1.0
    config.ema.decay = 0.999
    config.ema.rampup_ratio = 0.05
    config.train.num_steps = 25_000
    config.eval.num_images = 10_000
    return config
