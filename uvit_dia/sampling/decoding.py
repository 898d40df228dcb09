"""From x_0 to images: by rounding, or for latents by the autoencoder that made them."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from uvit_dia.config.latents import check_clipping
from uvit_dia.config.schema import Config, SampleConfig
from uvit_dia.data.autoencoder import Autoencoder, load_autoencoder
from uvit_dia.data.images import to_uint8
from uvit_dia.data.latents import read_description
from uvit_dia.data.paths import data_path
from uvit_dia.system.errors import InputError
from uvit_dia.system.notices import warn_once

Decoder = Callable[[Tensor], Tensor]  # x_0 (B, C, H, W) float32 -> images (B, C, H, W) uint8


def make_decoder(config: Config, settings: SampleConfig, device: torch.device) -> Decoder:
    """Return what makes images of a network's x_0.

    Args:
        config: of the run.
        settings: of the sampler.
        device: where an autoencoder shall run.

    Raises:
        InputError: if the autoencoder of latents is missing, or is not the one that made them, or
            if the sampler clips latents.
    """
    if not config.is_latent:
        return to_uint8
    check_clipping(settings)
    data = config.data
    return _autoencoder(data.path, data.vae, config.model.in_chans, torch.device(device)).decode


@lru_cache(maxsize=1)  # previews and evaluations of a run share it
def _autoencoder(path: str, vae: str, channels: int, device: torch.device) -> Autoencoder:
    try:
        made_by = read_description(data_path(path)).autoencoder
    except InputError as error:
        if not vae:
            raise InputError(f"{error}; without it, data.vae must name the autoencoder") from error
        made_by = None
        warn_once("vae", f"{error}; so nobody knows whether data.vae = {vae!r:.80} made them")
    found = load_autoencoder(vae or (made_by.name if made_by else ""), device)
    found.check_latent_channels(channels)
    if made_by is not None and found.sha256 != made_by.sha256:
        raise InputError(
            f"data.vae: {found.name} ({found.sha256[:8]}) is not the autoencoder that made the "
            f"latents, {made_by.name} ({made_by.sha256[:8]})"
        )
    return found
