"""Where a plain sampler would silently compute wrongly, and what is done instead.

A noise level is sigma = sqrt((1 - alpha-bar) / alpha-bar). Linear betas begin at 157; the cosine
schedule begins at 20,000, from where the first of 20 steps falls to 12. On such a fall

- heun averages the slopes at both ends of the step. The slope at its end has an error of about
  sigma_data^2 / sigma_1^2, which is carried over half of sigma_0 and blows images out. It takes the
  noise levels of Karras et al. 2022 (arXiv:2206.00364, Eq. 5 and Table 1) from 80 down instead.
- a network that predicts epsilon errs by a few parts in a hundred of the noise that was, which is
  many times the noise that is left. x_0 is clipped to [-1, 1], as ddpm and ddim do everywhere.

What was right without is left as it was, to the last bit.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from uvit_dia.config.schema import SAMPLERS, DiffusionConfig, SampleConfig
from uvit_dia.diffusion import alphas_cumprod_of
from uvit_dia.sampling.schedulers import make_scheduler

MAX_FALL = 30.0  # of the noise level in the first step, for a predicted epsilon
SIGMA_DATA = 0.5  # spread of images in [-1, 1], as in Karras et al. 2022
MAX_OVERSHOOT = 0.15  # of heun's first step, as a share of the noise that is left
KARRAS_SIGMA_MAX = 80.0
CLIPPING = ("ddpm", "ddim")  # samplers whose schedulers clip x_0 themselves


@dataclass(frozen=True)
class Safeguards:
    """What a sampler does beyond its name.

    Attributes:
        karras_sigma_max: where heun's noise levels begin if they are those of Karras et al. 2022;
            None for those of the timesteps.
        clips_x_0: whether the estimate of x_0 is clipped to [-1, 1].
        lacks_clipping: whether it should be, but `sample.clip_sample = False` forbids it.
    """

    karras_sigma_max: float | None
    clips_x_0: bool
    lacks_clipping: bool

    def facts(self) -> dict[str, object]:
        """Return what results must tell; nothing where nothing is done, as in older results."""
        facts: dict[str, object] = {}
        if self.karras_sigma_max is not None:
            facts.update(sigmas="karras", sigma_max=self.karras_sigma_max)
        if self.clips_x_0:
            facts.update(clips_x_0=True)
        return facts

    def notes(self, settings: SampleConfig) -> list[str]:
        """Say it, one line each."""
        notes = []
        if self.karras_sigma_max is not None:
            notes.append(
                f"heun in {settings.num_steps} steps takes the noise levels of Karras et al. 2022 "
                f"from {self.karras_sigma_max:g} down; with this schedule's own it blows images out"
            )
        fall = "this schedule's first step multiplies an error of the predicted epsilon"
        if self.clips_x_0:
            notes.append(f"{settings.sampler} clips x_0 to [-1, 1] at each step; {fall}")
        if self.lacks_clipping:
            notes.append(
                f"sample.clip_sample = False leaves {settings.sampler} wrong: {fall}; with True "
                "x_0 is clipped to [-1, 1]"
            )
        return notes


NO_SAFEGUARDS = Safeguards(karras_sigma_max=None, clips_x_0=False, lacks_clipping=False)


def safeguards(settings: SampleConfig, diffusion: DiffusionConfig) -> Safeguards:
    """Decide what a sampler needs on a schedule."""
    if settings.sampler not in SAMPLERS:
        return NO_SAFEGUARDS  # other processes have no such fall
    sigmas = noise_levels(alphas_cumprod_of(diffusion))
    scheduler = make_scheduler(settings, diffusion)
    scheduler.set_timesteps(settings.num_steps)
    if len(scheduler.timesteps) < 2:
        return NO_SAFEGUARDS
    sigma_0, sigma_1 = (noise_level_at(sigmas, t) for t in scheduler.timesteps[:2])
    # -- heun: error of the slope at the end x half of the step, beside the noise that is left
    can_begin_lower = settings.sampler == "heun" and sigma_0 > KARRAS_SIGMA_MAX
    overshoot = (SIGMA_DATA / sigma_1) ** 2 * sigma_0 / 2 / sigma_1
    # -- epsilon: its error x sigma_0, beside the noise that is left
    amplifies = diffusion.prediction_type == "epsilon" and sigma_0 > MAX_FALL * sigma_1
    karras = can_begin_lower and (overshoot > MAX_OVERSHOOT or amplifies)
    needs_clipping = amplifies and not karras
    return Safeguards(
        karras_sigma_max=KARRAS_SIGMA_MAX if karras else None,
        clips_x_0=(needs_clipping and settings.clip_sample and settings.sampler not in CLIPPING),
        lacks_clipping=needs_clipping and not settings.clip_sample,
    )


def noise_levels(alphas_cumprod: Tensor) -> Tensor:
    """Return sigma = sqrt((1 - alpha-bar) / alpha-bar), (T,) float64."""
    alphas_cumprod = alphas_cumprod.double()
    return ((1 - alphas_cumprod) / alphas_cumprod).sqrt()


def noise_level_at(sigmas: Tensor, timestep: Tensor) -> float:
    """Return sigma at a timestep, (); between two it is linear, as euler and heun take it.

    Args:
        sigmas: (T,), see `noise_levels`.
        timestep: in [0, T - 1].
    """
    below = int(timestep)
    above = min(below + 1, len(sigmas) - 1)
    return float(torch.lerp(sigmas[below], sigmas[above], float(timestep) - below))


def clip_x_0(eps: Tensor, x_t: Tensor, sigma: float) -> Tensor:
    """Return the epsilon whose x_0 is clipped to [-1, 1]; where x_0 is inside, it is unchanged.

    Args:
        eps: (B, C, H, W), the network's prediction.
        x_t: (B, C, H, W), what it was given: sqrt(alpha-bar) x_0 + sqrt(1 - alpha-bar) eps.
        sigma: the noise level.
    """
    signal = (1 + sigma**2) ** -0.5  # sqrt(alpha-bar)
    noise = sigma * signal  # sqrt(1 - alpha-bar)
    x_0 = ((x_t - noise * eps) / signal).clamp(-1, 1)
    return torch.where(x_0.abs() < 1, eps, (x_t - signal * x_0) / noise)
