"""Noise levels sigma = sqrt((1 - alpha-bar) / alpha-bar), and clipping where they fall too far."""

import torch
from torch import Tensor

MAX_FALL = 30.0  # of the noise level in the first step, for a predicted epsilon


def falls_far(sigma_0: float, sigma_1: float) -> bool:
    """Say whether a first step from sigma_0 to sigma_1 needs x_0 clipped, see `safeguards.py`."""
    return sigma_0 > MAX_FALL * sigma_1


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
