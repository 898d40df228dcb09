"""A sampler tried on data whose exact answer is known, before a network is blamed for its images.

Two kinds of data, pixel by pixel: Gaussian ones, whose spread a sampler in too few steps misses,
and two grey levels, between which a sampler that is too coarse leaves pixels. The network is exact
but for one part in a hundred. Chains of such small images cost milliseconds.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from uvit_dia.config.schema import SAMPLERS, DiffusionConfig, SampleConfig
from uvit_dia.diffusion import alphas_cumprod_of
from uvit_dia.rng import position_generator
from uvit_dia.sampling.chain import Chain
from uvit_dia.sampling.noise_levels import noise_level_at, noise_levels
from uvit_dia.sampling.safeguards import safeguards

MEAN, STD = 0.2, 0.3  # of the Gaussian data, in [-1, 1] but for one pixel in a hundred
LEVEL = 0.6  # the grey levels are this and its negative
NETWORK_ERROR = 0.01
BLOWN_OUT, FLAT = 1.4, 0.5  # spreads that are told, as multiples of the data's
FAR, MANY_FAR = 0.3, 0.4  # from a grey level, and which share of the pixels is told
SHAPE = (1, 1, 16, 32)  # of the images


def sampler_notes(settings: SampleConfig, diffusion: DiffusionConfig) -> list[str]:
    """Return what a user should know of a sampler on a schedule, one line each; mostly nothing.

    Raises:
        InputError: if the sampler cannot do these steps at all.
    """
    if settings.sampler not in SAMPLERS:
        return []  # the probe knows DDPM's schedules
    guards = safeguards(settings, diffusion)
    notes = guards.notes(settings)
    fault = None if guards.lacks_clipping else sampler_fault(settings, diffusion)
    return notes if fault is None else [*notes, fault]


def sampler_fault(settings: SampleConfig, diffusion: DiffusionConfig) -> str | None:
    """Say in one line what a sampler does wrong even with a nearly exact network; None if nothing.

    Raises:
        InputError: if the sampler cannot do these steps at all.
    """
    spread = float(_samples(settings, diffusion, _gaussian_x_0).std()) / STD
    distances = (_samples(settings, diffusion, _two_level_x_0).abs() - LEVEL).abs()
    far = float((distances > FAR).float().mean())
    if FLAT <= spread <= BLOWN_OUT and far <= MANY_FAR:
        return None
    what = f"come out with {spread:.2g} times their contrast"
    if FLAT <= spread <= BLOWN_OUT:
        what = f"of two grey levels have {far:.0%} of their pixels at neither"
    return (
        f"{settings.sampler} in {settings.num_steps} steps is wrong on this schedule: even of a "
        f"nearly exact network, images {what}; give more --num_steps, or another --sampler"
    )


def _gaussian_x_0(x_t: Tensor, alpha_bar: float) -> Tensor:
    """Return E[x_0 | x_t] of Gaussian data: the mean, and of the rest what is not noise."""
    gain = alpha_bar**0.5 * STD**2 / (alpha_bar * STD**2 + 1 - alpha_bar)
    return MEAN + gain * (x_t - alpha_bar**0.5 * MEAN)


def _two_level_x_0(x_t: Tensor, alpha_bar: float) -> Tensor:
    """Return E[x_0 | x_t] of two equally likely grey levels."""
    return LEVEL * torch.tanh(LEVEL * alpha_bar**0.5 * x_t / (1 - alpha_bar))


def _samples(
    settings: SampleConfig,
    diffusion: DiffusionConfig,
    posterior_mean: Callable[[Tensor, float], Tensor],
) -> Tensor:
    """Sample data with the network that knows E[x_0 | x_t], but for an error."""
    diffusion = replace(diffusion, time_labels="steps")  # the network of the probe knows these
    chain = Chain(settings, diffusion)
    sigmas = noise_levels(alphas_cumprod_of(diffusion))

    def denoiser(x_t: Tensor, timesteps: Tensor) -> Tensor:
        alpha_bar = 1 / (1 + noise_level_at(sigmas, timesteps[0]) ** 2)
        signal, noise = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        x_t = x_t.double()
        x_0 = posterior_mean(x_t, alpha_bar)
        eps = (x_t - signal * x_0) / noise
        exact = {"epsilon": eps, "sample": x_0, "v_prediction": signal * eps - noise * x_0}
        return (exact[diffusion.prediction_type] * (1 + NETWORK_ERROR)).float()

    generator = position_generator(0, "sampler probe")
    start = torch.randn(SHAPE, generator=generator)
    return chain.run(denoiser, start, [generator])[0]
