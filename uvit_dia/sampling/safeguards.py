"""Where a plain sampler would silently compute wrongly, and what is done instead.

Some schedules leave next to no signal at their last timesteps: on the cosine schedule the noise level
sigma = sqrt((1 - alpha-bar) / alpha-bar) rises to 20,000, on linear betas to 157. There

- heun averages the slopes at both ends of a step. Where one step goes from 20,000 to 30, the slope
  at its end, with an error of x_0 / 30, is carried over 20,000, and images are blown out. It takes
  the noise levels of Karras et al. 2022 (arXiv:2206.00364, Eq. 5) from 80 down instead: in fewer
  than 50 steps, and for a predicted epsilon always.
- x_0 = sqrt(1 + sigma^2) x_t - sigma eps multiplies an error of eps by sigma, and a network is never
  exact to a part in 20,000. x_0 is clipped to [-1, 1] there, as ddpm and ddim do on every schedule.

What was right without is left as it was, to the last bit.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from uvit_dia.config.schema import DiffusionConfig, SampleConfig
from uvit_dia.diffusion import alphas_cumprod_of

LOST_SIGMA = 1000.0  # above it, noise levels are not taken as they come
KARRAS_SIGMA_MAX = 80.0  # Karras et al. 2022, Table 1
HEUN_STEPS = 50  # from so many on, heun is right on the cosine schedule as it is
CLIPPING = ("ddpm", "ddim")  # samplers whose schedulers clip x_0 themselves


@dataclass(frozen=True)
class Safeguards:
    """What a sampler does beyond its name.

    Attributes:
        karras_sigmas: whether heun takes Karras' noise levels.
        clips_x_0: whether the estimate of x_0 is clipped to [-1, 1].
    """

    karras_sigmas: bool
    clips_x_0: bool

    def facts(self) -> dict[str, object]:
        """Return what results must tell; nothing of what is not done, as in older results."""
        facts: dict[str, object] = {}
        if self.karras_sigmas:
            facts.update(sigmas="karras", sigma_max=KARRAS_SIGMA_MAX)
        if self.clips_x_0:
            facts.update(clips_x_0=True)
        return facts

    def notes(self, settings: SampleConfig) -> list[str]:
        """Say it, one line each."""
        notes = []
        if self.karras_sigmas:
            notes.append(
                f"heun in {settings.num_steps} steps takes the noise levels of Karras et al. 2022 "
                f"from {KARRAS_SIGMA_MAX:g} down; with this schedule's own it blows images out"
            )
        if self.clips_x_0:
            notes.append(
                f"{settings.sampler} clips x_0 to [-1, 1] at each step, as ddpm does; this "
                f"schedule multiplies an error of the predicted epsilon by more than {LOST_SIGMA:g}"
            )
        return notes


def safeguards(settings: SampleConfig, diffusion: DiffusionConfig) -> Safeguards:
    """Decide what a sampler needs on a schedule."""
    is_lost = begins_without_signal(settings, diffusion)
    predicts_eps = diffusion.prediction_type == "epsilon"
    is_coarse = settings.num_steps < HEUN_STEPS or predicts_eps
    karras = is_lost and settings.sampler == "heun" and is_coarse
    clips = is_lost and predicts_eps and not karras and settings.sampler not in CLIPPING
    return Safeguards(karras_sigmas=karras, clips_x_0=clips and settings.clip_sample)


def begins_without_signal(settings: SampleConfig, diffusion: DiffusionConfig) -> bool:
    """Say whether the noise level of a sampler's first timestep is above `LOST_SIGMA`."""
    sigmas = noise_levels(alphas_cumprod_of(diffusion))
    last = len(sigmas) - 1
    # pndm alone does not begin at the last timestep
    first = len(sigmas) - len(sigmas) // settings.num_steps if settings.sampler == "pndm" else last
    return float(sigmas[first]) > LOST_SIGMA


def noise_levels(alphas_cumprod: Tensor) -> Tensor:
    """Return sigma = sqrt((1 - alpha-bar) / alpha-bar), (T,) float64."""
    alphas_cumprod = alphas_cumprod.double()
    return ((1 - alphas_cumprod) / alphas_cumprod).sqrt()


def noise_level_at(sigmas: Tensor, timestep: Tensor) -> float:
    """Return sigma at a timestep, (); between two timesteps it is linear, as euler and heun take it.

    Args:
        sigmas: (T,), see `noise_levels`.
        timestep: in [0, T - 1].
    """
    below = int(timestep)
    above = min(below + 1, len(sigmas) - 1)
    return float(torch.lerp(sigmas[below], sigmas[above], float(timestep) - below))


def clip_x_0(eps: Tensor, x_t: Tensor, sigma: float) -> Tensor:
    """Return the epsilon whose x_0 is clipped to [-1, 1].

    Args:
        eps: (B, C, H, W), the network's prediction.
        x_t: (B, C, H, W), what it was given: sqrt(alpha-bar) x_0 + sqrt(1 - alpha-bar) eps.
        sigma: the noise level.
    """
    signal = (1 + sigma**2) ** -0.5  # sqrt(alpha-bar)
    noise = sigma * signal  # sqrt(1 - alpha-bar)
    x_0 = ((x_t - noise * eps) / signal).clamp(-1, 1)
    return torch.where(x_0.abs() < 1, eps, (x_t - signal * x_0) / noise)
