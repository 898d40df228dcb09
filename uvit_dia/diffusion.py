"""The forward process, what the network learns to predict, and how its errors are weighted.

The schedule itself is a diffusers `DDPMScheduler`: its `alphas_cumprod` is the one source of every number here.
With alpha-bar = alphas_cumprod: `x_t = sqrt(alpha-bar) x_0 + sqrt(1 - alpha-bar) eps` (Eq. 4, Ho et al. 2020,
arXiv:2006.11239) and `snr = alpha-bar / (1 - alpha-bar)`, a ratio of powers.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")  # diffusers' names of epsilon, v and x_0
LOSS_WEIGHTINGS = ("none", "min_snr")
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")


@dataclass(frozen=True)
class NoiseSchedule:
    """The settings of the forward process, under diffusers' names, shared by training and every sampler.

    Attributes:
        num_train_timesteps: T.
        beta_schedule: "linear", "scaled_linear" or "squaredcos_cap_v2" (cosine, Nichol and Dhariwal 2021).
        beta_start: first beta; the cosine schedule ignores it.
        beta_end: last beta; the cosine schedule ignores it.
        prediction_type: "epsilon", "v_prediction" or "sample".

    Raises:
        ValueError: if a value is out of range.
    """

    num_train_timesteps: int = 1000
    beta_schedule: str = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    prediction_type: str = "epsilon"

    def __post_init__(self) -> None:
        if self.num_train_timesteps < 2:
            raise ValueError(
                f"num_train_timesteps must be at least 2, got {self.num_train_timesteps}"
            )
        if self.beta_schedule not in BETA_SCHEDULES:
            raise ValueError(
                f"beta_schedule must be one of {BETA_SCHEDULES}, got {self.beta_schedule!r}"
            )
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"0 < beta_start <= beta_end < 1, got {self.beta_start} and {self.beta_end}"
            )
        if self.prediction_type not in PREDICTION_TYPES:
            raise ValueError(
                f"prediction_type must be one of {PREDICTION_TYPES}, got {self.prediction_type!r}"
            )

    def scheduler_arguments(self) -> dict[str, Any]:
        """Return the arguments that every diffusers scheduler takes for this process."""
        return {
            "num_train_timesteps": self.num_train_timesteps,
            "beta_schedule": self.beta_schedule,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "prediction_type": self.prediction_type,
        }

    def alphas_cumprod(self) -> Tensor:
        """Return alpha-bar, (T,) float32 on the CPU, as diffusers computes it."""
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        return DDPMScheduler(**self.scheduler_arguments()).alphas_cumprod


class Diffusion:
    """Noised images, targets and losses of one noise schedule, on one device.

    Args:
        schedule: the forward process and the prediction type.
        loss_weighting: "none", or "min_snr" for min-SNR-gamma (Hang et al. 2023, arXiv:2303.09556).
        min_snr_gamma: gamma of min-SNR, a ratio of powers; used with "min_snr" only.
        device: where the tables live.

    Raises:
        ValueError: for an unknown weighting or a gamma that is not positive.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        *,
        loss_weighting: str = "none",
        min_snr_gamma: float = 5.0,
        device: torch.device | str = "cpu",
    ) -> None:
        if loss_weighting not in LOSS_WEIGHTINGS:
            raise ValueError(
                f"loss_weighting must be one of {LOSS_WEIGHTINGS}, got {loss_weighting!r}"
            )
        if not min_snr_gamma > 0:
            raise ValueError(f"min_snr_gamma must be positive, got {min_snr_gamma}")
        self.schedule = schedule
        alphas_cumprod = schedule.alphas_cumprod().double()  # T
        self._signal = alphas_cumprod.sqrt().float().to(device)  # T
        self._noise = (1 - alphas_cumprod).sqrt().float().to(device)  # T
        self._loss_weight = None
        if loss_weighting == "min_snr":
            weight = min_snr_weight(alphas_cumprod, schedule.prediction_type, min_snr_gamma)
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
        if self.schedule.prediction_type == "epsilon":
            return eps
        if self.schedule.prediction_type == "sample":
            return x_0
        return _rows(self._signal, timesteps) * eps - _rows(self._noise, timesteps) * x_0

    def predict_x_0(self, prediction: Tensor, x_t: Tensor, timesteps: Tensor) -> Tensor:
        """Turn a prediction of the network back into x_0; arguments and shapes as in `add_noise`."""
        signal, noise = _rows(self._signal, timesteps), _rows(self._noise, timesteps)
        if self.schedule.prediction_type == "epsilon":
            return (x_t - noise * prediction) / signal
        if self.schedule.prediction_type == "sample":
            return prediction
        return signal * x_t - noise * prediction

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
