r"""U-ViT-L/2 with one shared DIA-LSTM on latents of ImageNet, 256x256, told its 1,000 classes.

    uvit-dia encode IMAGES --vae stabilityai/sd-vae-ft-ema --output imagenet256_latents \
        --img_size 256 --mirrored --memory_map
    accelerate launch train.py --config configs/imagenet256_latents_uvit_dia.py

IMAGES is a folder with a sub-folder a class. The autoencoder makes latents of 32x32 with 4
channels; training draws them from its posterior. The schedule of the betas is Stable Diffusion's,
as U-ViT has it for latents (Bao et al. 2023, arXiv:2209.12152); sizes and optimizer follow its
L/2, with the label dropped for one image in ten, for guidance. Not trained by us: no result is
claimed.
"""

from ml_collections import ConfigDict

from configs.cifar10_uvit_dia import get_config as get_cifar10_config


def get_config() -> ConfigDict:
    """Return the complete config."""
    config = get_cifar10_config()
    config.model.update(
        img_size=32, patch_size=2, in_chans=4, embed_dim=1024, depth=20, num_heads=16
    )
    config.model.num_classes = 1001
    config.diffusion.update(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    config.data.update(
        name="latents",
        path="imagenet256_latents",
        vae="stabilityai/sd-vae-ft-ema",
        random_flip=False,
        on_device=False,
    )
    config.optimizer.update(learning_rate=2e-4, betas=(0.99, 0.99), warmup_steps=5000)
    config.train.update(
        batch_size=1024, num_steps=300_000, label_dropout=0.1, gradient_checkpointing=True
    )
    config.sample.update(clip_sample=False, batch_size=100, guidance_scale=1.4)
    return config
