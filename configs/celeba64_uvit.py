"""U-ViT-S/4 without a unit on CelebA, 64x64, with the U-ViT authors' recipe.

    accelerate launch train.py --config configs/celeba64_uvit.py --config.data.path=IMAGES
    python sample.py --checkpoint celeba_uvit_small.pth --config celeba64_uvit --sampler dpm_solver

IMAGES is a folder of the aligned photographs. AdamW 2e-4, betas (0.99, 0.99), weight decay 0.03,
warm-up 5,000 steps, batch 128, 500,000 steps. Images are scaled and cut at their centre, where the
authors cut 140 pixels first. 44,292,228 weights. Not trained by us: no result is claimed.
"""

from ml_collections import ConfigDict

from configs.cifar10_uvit import get_config as get_cifar10_config


def get_config() -> ConfigDict:
    """Return the complete config."""
    config = get_cifar10_config()
    config.model.update(img_size=64, patch_size=4)
    config.data.update(name="folder", path="celeba", resize=True)
    config.optimizer.update(betas=(0.99, 0.99), warmup_steps=5000)
    config.sample.batch_size = 100
    return config
