"""A tiny autoencoder with random weights, and sets that it encodes."""

import functools
from pathlib import Path

import torch

from uvit_dia.data.encode import main


@functools.cache
def _network(channels: int, latent_channels: int, seed: int) -> object:
    from diffusers import AutoencoderKL

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoencoderKL(
            in_channels=channels,
            out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            norm_num_groups=4,
            latent_channels=latent_channels,
            scaling_factor=0.5,
            shift_factor=0.1,
            mid_block_add_attention=False,
        )


def write_autoencoder(
    folder: Path, *, channels: int = 1, latent_channels: int = 2, seed: int = 0
) -> Path:
    """Write an autoencoder that halves sides; scale 0.5, shift 0.1."""
    _network(channels, latent_channels, seed).save_pretrained(folder)  # type: ignore[attr-defined]
    return folder


def encode(output: Path, vae: Path, *flags: str, path: str = "digits") -> Path:
    """Encode a set, the digits if no other, with `uvit-dia encode`."""
    name = ["--name=digits", "--img_size=8", "--in_chans=1"] if path == "digits" else []
    main(["encode", path, *name, f"--vae={vae}", f"--output={output}", *flags])
    return output
