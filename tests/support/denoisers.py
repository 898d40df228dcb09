"""Networks that are known exactly: for data of which E[x_0 | x_t] has a closed form."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tests.support.configs import sample_config
from uvit_dia.config.schema import DiffusionConfig, SampleConfig
from uvit_dia.diffusion import alphas_cumprod_of
from uvit_dia.sampling.chain import Denoiser

PosteriorMean = Callable[[Tensor, Tensor], Tensor]  # (x_t, alpha-bar), float64 -> E[x_0 | x_t]


def settings_of(name: str, num_steps: int, **changes: object) -> SampleConfig:
    return sample_config(sampler=name, num_steps=num_steps, **{"clip_sample": False, **changes})


def alpha_bar_at(schedule: DiffusionConfig, timesteps: Tensor) -> Tensor:
    """Return alpha-bar, (B, 1, 1, 1) float64; between two timesteps the noise level is linear."""
    alphas_cumprod = alphas_cumprod_of(schedule).double().numpy()
    sigmas = np.sqrt((1 - alphas_cumprod) / alphas_cumprod)
    sigma = np.interp(timesteps.double().numpy(), np.arange(len(sigmas)), sigmas)
    return torch.from_numpy(1 / (1 + sigma**2))[:, None, None, None]


def exact_denoiser(
    schedule: DiffusionConfig, posterior_mean: PosteriorMean, error: float = 0.0
) -> Denoiser:
    """Return the network whose x_0 is E[x_0 | x_t], in whatever it is that the schedule predicts.

    Args:
        schedule: the forward process.
        posterior_mean: of the data.
        error: by which share every prediction is too large.
    """

    def denoiser(x_t: Tensor, timesteps: Tensor) -> Tensor:
        alpha_bar, x_t = alpha_bar_at(schedule, timesteps), x_t.double()
        signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        x_0 = posterior_mean(x_t, alpha_bar)
        eps = (x_t - signal * x_0) / noise
        predictions = {"epsilon": eps, "sample": x_0, "v_prediction": signal * eps - noise * x_0}
        return (predictions[schedule.prediction_type] * (1 + error)).float()

    return denoiser


def gaussian_mean(mean: float, std: float) -> PosteriorMean:
    """E[x_0 | x_t] of data N(mean, std^2), pixel by pixel."""

    def posterior_mean(x_t: Tensor, alpha_bar: Tensor) -> Tensor:
        gain = alpha_bar.sqrt() * std**2 / (alpha_bar * std**2 + 1 - alpha_bar)
        return mean + gain * (x_t - alpha_bar.sqrt() * mean)

    return posterior_mean


def images_mean(known: Tensor) -> PosteriorMean:
    """E[x_0 | x_t] of data that are one of some known images, (K, C, H, W), equally likely."""

    def posterior_mean(x_t: Tensor, alpha_bar: Tensor) -> Tensor:
        errors = (x_t[:, None] - alpha_bar[:, None].sqrt() * known).square().sum((2, 3, 4))
        weights = torch.softmax(-errors / (2 * (1 - alpha_bar[:, 0, 0])), dim=1)  # B K
        return torch.einsum("bk,kchw->bchw", weights, known)

    return posterior_mean
