"""The continuous process of the U-ViT authors' weights: VP SDE, beta from 0.1 to 20.

Song et al. 2021, arXiv:2011.13456, Sec. 3.4: dx = -beta(t) / 2 x dt + sqrt(beta(t)) dw for t in
[0, 1], with beta(t) = 0.1 + 19.9 t. So alpha-bar(t) = exp(-(0.1 t + 9.95 t^2)). Their network is
told 999 t.
"""

import torch
from torch import Tensor

BETA_MIN, BETA_MAX = 0.1, 20.0
LABEL_SCALE = 999.0  # what the network is told is 999 t


def beta(t: Tensor) -> Tensor:
    """Return the rate at which noise comes in at time t."""
    return BETA_MIN + (BETA_MAX - BETA_MIN) * t


def log_alpha_bar(t: Tensor) -> Tensor:
    """Return log alpha-bar(t), minus the integral of beta up to t."""
    return -(BETA_MIN * t + (BETA_MAX - BETA_MIN) / 2 * t**2)


def time_of(log_alpha: Tensor) -> Tensor:
    """Return the t with log alpha-bar(t) = log_alpha, the positive root of a square."""
    a, b = (BETA_MAX - BETA_MIN) / 2, BETA_MIN
    return 2 * -log_alpha / (b + (b**2 + 4 * a * -log_alpha).sqrt())


def label_of_steps(alphas_cumprod: Tensor) -> Tensor:
    """Return what their network is told at the noise levels of a discrete schedule.

    Args:
        alphas_cumprod: (T,) float64.

    Returns:
        (T,) float64.
    """
    return LABEL_SCALE * time_of(torch.log(alphas_cumprod))


def label_at(labels: Tensor, timesteps: Tensor) -> Tensor:
    """Return the label at timesteps; between two, where some samplers stop, it is linear.

    Args:
        labels: (T,), one a step.
        timesteps: (B,) in [0, T), integers or floats.
    """
    if not timesteps.is_floating_point():
        return labels[timesteps]
    below = timesteps.long()
    above = (below + 1).clamp(max=len(labels) - 1)
    return torch.lerp(labels[below], labels[above], timesteps.float() - below)
