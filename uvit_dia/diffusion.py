"""The forward process, what the network learns to predict, and how its errors are weighted.

The schedule itself is a diffusers `DDPMScheduler`: its `alphas_cumprod` is the one source of every number here.
With alpha-bar = alphas_cumprod: `x_t = sqrt(alpha-bar) x_0 + sqrt(1 - alpha-bar) eps` (Eq. 4, Ho et al. 2020,
arXiv:2006.11239) and `snr = alpha-bar / (1 - alpha-bar)`, a ratio of powers.
"""

from typing import Any

import torch
from torch import Tensor

from uvit_dia.config.schema import DiffusionConfig


def scheduler_arguments(config: DiffusionConfig) -> dict[str, Any]:
    """Return the arguments that every diffusers scheduler takes for a forward process."""
    return {
        "num_train_timesteps": config.num_train_timesteps,
        "beta_schedule": config.beta_schedule,
        "beta_start": config.beta_start,
        "beta_end": config.beta_end,
        "prediction_type": config.prediction_type,
    }


def alphas_cumprod_of(config: DiffusionConfig) -> Tensor:
    """Return alpha-bar, (T,) float32 on the CPU, as diffusers computes it."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    return DDPMScheduler(**scheduler_arguments(config)).alphas_cumprod


class Diffusion:
    """Noised images, targets and losses of one forward process, on one device.

    Args:
        config: the forward process, the prediction type and the weights of the loss.
        device: where the tables live.
    """

    def __init__(self, config: DiffusionConfig, device: torch.device | str = "cpu") -> None:
        self.config = config
        alphas_cumprod = alphas_cumprod_of(config).double()  # T
        self._signal = alphas_cumprod.sqrt().float().to(device)  # T
        self._noise = (1 - alphas_cumprod).sqrt().float().to(device)  # T
        self._loss_weight = None
        if config.loss_weighting == "min_snr":
            weight = min_snr_weight(alphas_cumprod, config.prediction_type, config.min_snr_gamma)
            self._loss_weight = weight.float().to(device)  # T

    def add_noise(self, x_0: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t (Eq. 4, Ho et al. 2020).

        Args:
            x_0: (B, C, H, W) in [-1, 1].
            eps: (B, C, H, W), standard normal.
            timesteps: (B,) int64 in [0, T).
        """
        return _rows(self._signal, timesteps) * x_0 + _rows(self._noise, timesteps) * eps

    def target(self, x_0: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the network should predict; v is `sqrt(alpha-bar) eps - sqrt(1 - alpha-bar) x_0`.

        v: Salimans and Ho 2022, arXiv:2202.00512, Appendix D. Arguments and shapes as in `add_noise`.
        """
        if self.config.prediction_type == "epsilon":
            return eps
        if self.config.prediction_type == "sample":
            return x_0
        return _rows(self._signal, timesteps) * eps - _rows(self._noise, timesteps) * x_0

    def loss(self, prediction: Tensor, target: Tensor, timesteps: Tensor) -> Tensor:
        """Return the weighted squared error, averaged over pixels, one value an image.

        Args:
            prediction: (B, C, H, W), any float type; the error is computed in float32.
            target: (B, C, H, W) float32.
            timesteps: (B,) int64 in [0, T).

        Returns:
            (B,) float32.
        """
        errors = (prediction.float() - target).square().flatten(1).mean(dim=1)  # B
        return errors if self._loss_weight is None else errors * self._loss_weight[timesteps]


def min_snr_weight(alphas_cumprod: Tensor, prediction_type: str, gamma: float) -> Tensor:
    """Return min-SNR-gamma weights for the loss in the network's own target (Hang et al. 2023, Sec. 3.4).

    The weight of the x_0 loss is `min(snr, gamma)`; an epsilon loss is `1 / snr` of it, a v loss `1 / (snr + 1)`.

    Args:
        alphas_cumprod: (T,).
        prediction_type: "epsilon", "v_prediction" or "sample".
        gamma: where the weight stops growing.

    Returns:
        (T,), in the type of `alphas_cumprod`.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    clipped = snr.clamp(max=gamma)
    per_loss = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}
    return clipped / per_loss[prediction_type]


def _rows(table: Tensor, timesteps: Tensor) -> Tensor:
    """Look up one number an image, (B, 1, 1, 1)."""
    return table[timesteps][:, None, None, None]
