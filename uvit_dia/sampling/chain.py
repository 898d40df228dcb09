"""The sampling loop of DDPM's samplers: from noise to images in a given number of steps."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from uvit_dia.config.schema import DiffusionConfig, SampleConfig
from uvit_dia.diffusion import Diffusion
from uvit_dia.sampling.noise_levels import clip_x_0, noise_level_at, noise_levels
from uvit_dia.sampling.safeguards import Safeguards, safeguards
from uvit_dia.sampling.schedulers import make_scheduler

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (x_t, timesteps) -> prediction


class SamplingLoop(Protocol):
    """What turns noise into images: `Chain`, and those of other processes."""

    safeguards: Safeguards

    def run(
        self, denoiser: Denoiser, noise: Tensor, generators: list[torch.Generator]
    ) -> tuple[Tensor, int]:
        """Run the sampler from its first timestep to the end; see `Chain.run`."""


class Chain:
    """A diffusers scheduler with all that its loop needs.

    Args:
        settings: the sampler.
        diffusion: the process that the network was trained on.

    Attributes:
        scheduler: of diffusers; it keeps the state of the chain that runs.
        safeguards: what is done beyond the sampler's name.
    """

    def __init__(self, settings: SampleConfig, diffusion: DiffusionConfig) -> None:
        self.settings = settings
        self.safeguards = safeguards(settings, diffusion)
        karras = self.safeguards.karras_sigma_max
        self.scheduler = make_scheduler(settings, diffusion, karras_sigma_max=karras)
        self._sigmas = noise_levels(self.scheduler.alphas_cumprod)
        self._network_time = Diffusion(diffusion).network_time

    @torch.no_grad()
    def run(
        self, denoiser: Denoiser, noise: Tensor, generators: list[torch.Generator]
    ) -> tuple[Tensor, int]:
        """Run the sampler from its first timestep to the end.

        Args:
            denoiser: maps (x_t (B, C, H, W), timesteps (B,)) to the network's prediction.
            noise: (B, C, H, W) standard normal, where the network lives.
            generators: one an image, for the noise that some samplers add on the way.

        Returns:
            x_0, (B, C, H, W) float32, and the number of network calls.
        """
        # -- start: noise of the standard deviation that the scheduler begins with
        scheduler = self.scheduler
        scheduler.set_timesteps(self.settings.num_steps, device=noise.device)
        x = noise * scheduler.init_noise_sigma
        extra = self._step_arguments(generators)
        nfe = 0
        for t in scheduler.timesteps:
            # -- prediction: of x at the scale that the network knows
            x_in = scheduler.scale_model_input(x, t)
            prediction = denoiser(x_in, self._network_time(t.expand(len(noise)))).float()
            nfe += 1
            if self.safeguards.clips_x_0:
                prediction = clip_x_0(prediction, x_in, noise_level_at(self._sigmas, t))
            # -- step
            step = scheduler.step(prediction, t, x, **extra)
            x = step.prev_sample
        # -- end: the last step of ddpm has no noise (Algorithm 2, Ho et al. 2020); diffusers leaves
        # it out at t = 0 only
        if self.settings.sampler == "ddpm":
            x = step.pred_original_sample
        return x, nfe

    def _step_arguments(self, generators: list[torch.Generator]) -> dict[str, object]:
        """Return what the scheduler's `step` takes beside prediction, timestep and sample."""
        if self.settings.sampler in ("ddpm", "dpmpp_2m_sde"):
            return {"generator": generators}
        if self.settings.sampler == "ddim":
            return {"eta": self.settings.eta, "generator": generators}
        return {}
