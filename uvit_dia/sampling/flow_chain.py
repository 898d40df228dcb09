"""The sampling loop of flow matching: along the velocity from noise to images."""

import torch
from torch import Tensor

from uvit_dia.config.schema import DiffusionConfig, SampleConfig
from uvit_dia.diffusion import FlowMatching
from uvit_dia.sampling.chain import Denoiser
from uvit_dia.sampling.safeguards import NO_SAFEGUARDS
from uvit_dia.sampling.schedulers import make_scheduler


class FlowChain:
    """One of diffusers' FlowMatch schedulers with its loop; arguments as for `Chain`.

    flow_euler steps from t = 1 to 0 in equal steps. flow_heun's times are evenly spaced from 1 to
    1 / T, and from there an Euler step ends it: 2 num_steps - 1 network calls.
    """

    def __init__(self, settings: SampleConfig, diffusion: DiffusionConfig) -> None:
        self.settings = settings
        self.safeguards = NO_SAFEGUARDS
        self.scheduler = make_scheduler(settings, diffusion)
        self._flow = FlowMatching(diffusion)

    @torch.no_grad()
    def run(
        self, denoiser: Denoiser, noise: Tensor, generators: list[torch.Generator]
    ) -> tuple[Tensor, int]:
        """Run the sampler; arguments and result as for `Chain.run`. Nothing random is added."""
        # -- times
        steps, scheduler = self.settings.num_steps, self.scheduler
        if self.settings.sampler == "flow_euler":
            sigmas = [1 - step / steps for step in range(steps)]
            scheduler.set_timesteps(sigmas=sigmas, device=noise.device)
        else:
            scheduler.set_timesteps(steps, device=noise.device)
        # -- x_1 = noise, along the velocity to x_0
        x, total = noise, self._flow.config.num_train_timesteps
        for t in scheduler.timesteps:
            prediction = denoiser(x, t.expand(len(noise))).float()
            velocity = self._flow.velocity(prediction, x, t / total)
            x = scheduler.step(velocity, t, x).prev_sample
        return x, len(scheduler.timesteps)
