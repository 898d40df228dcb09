"""A grid of samples as it forms: what the network is shown at each call, then the images."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from uvit_dia.data.image_grid import image_grid
from uvit_dia.data.images import to_uint8
from uvit_dia.sampling.chain import Denoiser, SamplingLoop
from uvit_dia.sampling.decoding import Decoder
from uvit_dia.system.files import write_atomically

MAX_FRAMES = 60  # steps that are all shown; of more, every second, third ...
FRAME_MS, LAST_MS = 60, 2500


class WatchedChain:
    """A sampling loop that keeps what it shows the network.

    Args:
        chain: the loop, whose results stay as they are.
        num_steps: of its sampler, which says how many frames there will be.
        to_images: maps x_t to uint8 images.

    Attributes:
        frames: of the last run, (B, C, H, W) uint8 each: x_t at the scale that the network knows,
            clipped to the range of images, the noisiest first.
    """

    def __init__(self, chain: SamplingLoop, num_steps: int, to_images: Decoder = to_uint8) -> None:
        self._chain = chain
        self._to_images = to_images
        self.safeguards = chain.safeguards
        self._every = -(-num_steps // MAX_FRAMES)
        self.frames: list[Tensor] = []

    def run(
        self, denoiser: Denoiser, noise: Tensor, generators: list[torch.Generator]
    ) -> tuple[Tensor, int]:
        """Run the loop; see `Chain.run`."""
        self.frames = []
        calls = 0

        def shown(x_t: Tensor, timesteps: Tensor) -> Tensor:
            nonlocal calls
            if calls % self._every == 0:
                self.frames.append(self._to_images(x_t).cpu())
            calls += 1
            return denoiser(x_t, timesteps)

        return self._chain.run(shown, noise, generators)


def write_animation(
    path: Path, frames: Tensor, class_labels: Tensor | None = None, columns: int | None = None
) -> None:
    """Write frames of images as one animation of grids, which starts anew after a rest at the end.

    Args:
        path: a .gif, of 256 colours, or a .webp, without loss.
        frames: (F, N, C, H, W) uint8, the images themselves last.
        class_labels: see `image_grid`.
        columns: likewise.
    """
    pictures = [_picture(image_grid(images, class_labels, columns)) for images in frames]
    durations = [FRAME_MS] * (len(pictures) - 1) + [LAST_MS]
    save: dict[str, Any] = {"save_all": True, "append_images": pictures[1:], "loop": 0}
    if path.suffix.lower() == ".webp":
        save |= {"format": "WEBP", "lossless": True}
    else:
        save |= {"format": "GIF", "optimize": False}
    buffer = io.BytesIO()
    pictures[0].save(buffer, duration=durations, **save)
    write_atomically(path, buffer.getvalue())


def _picture(grid: Tensor) -> Image.Image:
    pixels: np.ndarray = grid.numpy()
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
