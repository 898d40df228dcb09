"""What a config of latents must not ask for, since x_0 is no image then."""

from uvit_dia.config.sampling import SampleConfig
from uvit_dia.config.schema import Config
from uvit_dia.system.errors import InputError

DTYPES = ("float16", "float32")  # of their values in a file


def check_latents(config: Config) -> None:
    """Check the keys that concern pixels; nothing for a config of images but that it has no VAE.

    Raises:
        InputError: naming the key, and where the same is asked for when latents are encoded.
    """
    data = config.data
    if not config.is_latent:
        if data.vae:
            raise InputError(
                f"data.vae = {data.vae[:60]!r}: only data.name = 'latents' has an autoencoder"
            )
        return
    if data.random_flip:
        raise InputError(
            "data.random_flip = True: the mirrored latent is not that of the mirrored image; "
            "allowed is False, and `uvit-dia encode --mirrored` adds mirrored images"
        )
    if data.held_out_images:
        raise InputError(
            f"data.held_out_images = {data.held_out_images}: images are held out when they are "
            "encoded, by `uvit-dia encode --held_out_images`; allowed is 0"
        )
    check_clipping(config.sample)


def check_clipping(settings: SampleConfig) -> None:
    """Check that a sampler of latents does not clip x_0 to the range of pixels.

    Raises:
        InputError: if it does.
    """
    if settings.clip_sample:
        raise InputError(
            "sample.clip_sample = True would clip latents to [-1, 1], the range of pixels; allowed "
            "with data.name = 'latents' is False"
        )
