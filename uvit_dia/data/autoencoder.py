"""A diffusers `AutoencoderKL`: images to latents that a network is trained on, and back.

x_0 is the latent as latent diffusion scales it (Rombach et al. 2022, arXiv:2112.10752, appendix G):
`(z - shift) * scale` with the numbers of the autoencoder's own config, so that x_0 has a spread
near 1.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uvit_dia.data.images import to_model_range, to_uint8
from uvit_dia.data.paths import data_path
from uvit_dia.system.errors import InputError
from uvit_dia.system.messages import clip

CLASS = "AutoencoderKL"
IMAGES_AT_A_TIME = 8  # that are decoded, which bounds memory


@dataclass(frozen=True)
class Autoencoder:
    """An autoencoder in evaluation mode, in float32.

    Attributes:
        name: the folder or the id on the Hub.
        sha256: of its weights and its config.
        vae: the network.
        shift: (C, 1, 1), subtracted from a latent.
        scale: (C, 1, 1), multiplied to that.
        device: where it is.
    """

    name: str
    sha256: str
    vae: Any  # diffusers is imported late
    shift: Tensor
    scale: Tensor
    device: torch.device

    @property
    def factor(self) -> int:
        """How many times the side of an image is that of its latent."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def latent_shape(self, channels: int, img_size: int) -> tuple[int, int, int]:
        """Return (C, h, w) of the latents of images.

        Raises:
            InputError: if the autoencoder does not take such images.
        """
        config = self.vae.config
        if config.in_channels != config.out_channels or config.in_channels not in (1, 3):
            raise InputError(
                f"--vae {self.name}: takes {config.in_channels} channels and gives "
                f"{config.out_channels}; allowed is 1 or 3 for both"
            )
        if channels != config.in_channels:
            raise InputError(
                f"--in_chans {channels}: the autoencoder {self.name} takes images of "
                f"{config.in_channels}"
            )
        if img_size % self.factor:
            raise InputError(
                f"--img_size {img_size}: the autoencoder {self.name} takes multiples of "
                f"{self.factor}"
            )
        return config.latent_channels, img_size // self.factor, img_size // self.factor

    def check_latent_channels(self, channels: int) -> None:
        """Check that a network of so many channels speaks of this autoencoder's latents.

        Raises:
            InputError: if not.
        """
        found = self.vae.config.latent_channels
        if channels != found:
            raise InputError(
                f"model.in_chans = {channels}: the latents of {self.name} have {found} channels"
            )

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of x_0, (B, C, h, w) float32 on the device each.

        Args:
            images: (B, 1 or 3, H, W) uint8.
        """
        posterior = self.vae.encode(to_model_range(images.to(self.device))).latent_dist
        return (posterior.mean - self.shift) * self.scale, posterior.std * self.scale

    @torch.no_grad()
    def decode(self, x_0: Tensor) -> Tensor:
        """Return the images of latents, (B, 1 or 3, H, W) uint8 on the device.

        Args:
            x_0: (B, C, h, w) float32.
        """
        parts = (x_0.to(self.device) / self.scale + self.shift).split(IMAGES_AT_A_TIME)
        return torch.cat([to_uint8(self.vae.decode(part).sample) for part in parts])


def load_autoencoder(name: str, device: torch.device | str) -> Autoencoder:
    """Load an autoencoder; its weights must be safetensors, which run nothing.

    Args:
        name: a folder that `save_pretrained` wrote, or an id on the Hub, each with ":SUBFOLDER"
            behind it where it is part of a pipeline, such as "stabilityai/sdxl-turbo:vae".
        device: where it shall run.

    Raises:
        InputError: if there is none, or it is damaged or of another kind.
    """
    from diffusers import AutoencoderKL

    place, _, subfolder = name.partition(":")
    folder = data_path(place)
    source = str(folder) if folder.exists() else place
    options: dict[str, Any] = {"subfolder": subfolder} if subfolder else {}
    try:
        kind = AutoencoderKL.load_config(source, **options).get("_class_name")
        if kind != CLASS:
            raise InputError(f"autoencoder {name}: is of class {clip(kind, 40)}, not {CLASS}")
        vae, found = AutoencoderKL.from_pretrained(
            source, use_safetensors=True, output_loading_info=True, **options
        )
    except InputError:
        raise
    except Exception as error:  # diffusers, safetensors and the Hub raise many kinds
        reason = clip(" ".join(str(error).split()), 120)
        raise InputError(f"autoencoder {name}: cannot be read as an {CLASS}: {reason}") from error
    wrong = [*found["missing_keys"], *found["unexpected_keys"], *found["mismatched_keys"]]
    if wrong:
        raise InputError(
            f"autoencoder {name}: its weights do not fit its config; {len(wrong)} are missing or "
            f"too many, such as {clip(wrong[0], 60)}"
        )
    shift, scale = _normalisation(vae.config)
    sha256 = _sha256(vae)
    vae = vae.float().eval().requires_grad_(False).to(device)
    name = str(Path(source).absolute()) + name[len(place) :] if folder.exists() else name
    device = torch.device(device)
    return Autoencoder(name, sha256, vae, shift.to(device), scale.to(device), device)


def _normalisation(config: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401, diffusers' FrozenDict
    """Return shift and scale, (C, 1, 1) float32, as diffusers' pipelines use a VAE's config."""
    shift = config.get("latents_mean") or [config.get("shift_factor") or 0.0]
    std = config.get("latents_std") or [1.0]
    channels = torch.ones(config.latent_channels)
    scale = config.scaling_factor / (channels * torch.tensor(std))
    return (channels * torch.tensor(shift))[:, None, None], scale[:, None, None]


def _sha256(vae: Any) -> str:  # noqa: ANN401
    """Hash what latents depend on: weights, and config without diffusers' own notes."""
    config = {key: value for key, value in vae.config.items() if not key.startswith("_")}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(vae.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
