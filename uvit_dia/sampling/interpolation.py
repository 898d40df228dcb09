"""Samples between samples: their noise goes from one image's to the next one's.

Noise is mixed on the sphere (Shoemake 1985), since halfway between two Gaussian draws on a straight
line lie points of a smaller norm than the network has seen: Ho et al. 2020, Sec. 4.3, and Song et
al. 2021 (arXiv:2010.02502), Sec. 5.3, do likewise. The sampler must be deterministic: fresh noise
on the way would part neighbours.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from uvit_dia.config.schema import SampleConfig
from uvit_dia.sampling.guidance import ClassLabels
from uvit_dia.sampling.sampler import ImageSampler, SeededNoise
from uvit_dia.system.errors import InputError

RANDOM_SAMPLERS = ("ddpm", "dpmpp_2m_sde", "euler_maruyama")


def check_interpolation(settings: SampleConfig) -> None:
    """Refuse samplers that draw noise on their way.

    Raises:
        InputError: naming the sampler.
    """
    is_random = settings.sampler in RANDOM_SAMPLERS
    if is_random or (settings.sampler == "ddim" and settings.eta > 0):
        what = "--eta above 0" if settings.sampler == "ddim" else f"--sampler {settings.sampler}"
        raise InputError(
            f"--interpolate: {what} draws noise on its way, so that neighbours part; take a "
            "deterministic sampler, such as dpmpp_2m"
        )


class InterpolatedNoise(SeededNoise):
    """Noise of rows of images: row r goes from image r to image r + 1 of the seed.

    Image `r * length + c` has the noise that lies c / (length - 1) of the way between those of the
    images r and r + 1, so that the first of row r is image r.

    Args:
        seed: of the images.
        shape: (C, H, W) of an image.
        length: images of a row, 2 or more.
    """

    def __init__(self, seed: int, shape: tuple[int, int, int], length: int) -> None:
        super().__init__(seed, shape)
        self.length = length

    def of(self, indices: Iterable[int]) -> tuple[Tensor, list[torch.Generator]]:
        """Return the noise; see `SeededNoise.of`."""
        places = [divmod(index, self.length) for index in indices]
        ends = sorted({row + end for row, _ in places for end in (0, 1)})
        drawn, generators = super().of(ends)
        at = dict(zip(ends, drawn, strict=True))
        noise = [
            between(at[row], at[row + 1], column / (self.length - 1)) for row, column in places
        ]
        # nothing more is drawn: see `check_interpolation`
        return torch.stack(noise), [generators[0]] * len(noise)


def interpolate(sampler: ImageSampler, length: int) -> None:
    """Let a sampler draw rows of images in place of images, see `InterpolatedNoise`.

    A row has the class of the image that it begins with.

    Raises:
        InputError: if the sampler draws noise on its way.
    """
    check_interpolation(sampler.settings)
    sampler.noise = InterpolatedNoise(sampler.settings.seed, sampler.shape, length)
    if sampler.labels is not None:
        in_turn = sampler.labels.in_turn.repeat_interleave(length)
        sampler.labels = ClassLabels(in_turn, sampler.labels.rule)


def between(first: Tensor, last: Tensor, share: float) -> Tensor:
    """Return the point on the great circle between two, as far along as a share in [0, 1] says.

    Args:
        first: (C, H, W), any norm; norms in between are mixed in the same way.
        last: of the same shape.
        share: 0 gives the first, 1 the last, to the bit.
    """
    if share in (0, 1):
        return last if share else first
    cosine = torch.nn.functional.cosine_similarity(first.flatten(), last.flatten(), dim=0)
    angle = torch.arccos(cosine.double().clamp(-1, 1))
    if angle < 1e-6 or torch.pi - angle < 1e-6:
        return torch.lerp(first, last, share)
    a, b = (torch.sin(part * angle) / torch.sin(angle) for part in (1 - share, share))
    return a.to(first.dtype) * first + b.to(first.dtype) * last
