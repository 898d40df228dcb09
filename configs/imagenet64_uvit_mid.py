r"""U-ViT-M/4 without a unit on ImageNet, 64x64, told its 1,000 classes, with the authors' recipe.

    accelerate launch train.py --config configs/imagenet64_uvit_mid.py --config.data.path=IMAGES
    python sample.py --checkpoint imagenet64_uvit_mid.pth --config imagenet64_uvit_mid \
        --sampler dpm_solver --class_labels 207,360

IMAGES is a folder with a sub-folder a class. AdamW 3e-4, betas (0.99, 0.99), weight decay 0.03,
warm-up 5,000 steps, batch 1,024, 300,000 steps. No label is dropped, so there is no guidance. Not
trained by us: no result is claimed.
"""

from ml_collections import ConfigDict

from configs.cifar10_uvit import get_config as get_cifar10_config


def get_config() -> ConfigDict:
    """Return the complete config."""
    config = get_cifar10_config()
    config.model.update(
        img_size=64, patch_size=4, embed_dim=768, depth=16, num_heads=12, num_classes=1000
    )
    config.data.update(name="folder", path="imagenet64", resize=True, on_device=False)
    config.optimizer.update(learning_rate=3e-4, betas=(0.99, 0.99), warmup_steps=5000)
    config.train.update(batch_size=1024, num_steps=300_000, gradient_checkpointing=True)
    config.sample.batch_size = 100
    return config
