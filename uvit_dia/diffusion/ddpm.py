"""The forward process, what the network learns to predict, and how its errors are weighted.

Notation, with alpha-bar = `alphas_cumprod` of a diffusers scheduler, the source of all numbers::

    x_t = sqrt(alpha-bar) x_0 + sqrt(1 - alpha-bar) eps      Eq. 4, Ho et al. 2020, arXiv:2006.11239
    v   = sqrt(alpha-bar) eps - sqrt(1 - alpha-bar) x_0      Salimans and Ho 2022, arXiv:2202.00512
    snr = alpha-bar / (1 - alpha-bar)                        a ratio of powers
"""

from typing import Any

import torch
from torch import Tensor

from uvit_dia.config.schema import DiffusionConfig
from uvit_dia.diffusion.vp_sde import label_at, label_of_steps
from uvit_dia.rng import integer_rows


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
        # In float64, since 1 - alpha-bar is as small as 1e-4 at the first timesteps.
        alphas_cumprod = alphas_cumprod_of(config).double()  # T
        self._signal = alphas_cumprod.sqrt().float().to(device)  # T
        self._noise = (1 - alphas_cumprod).sqrt().float().to(device)  # T
        self._loss_weight = None
        if config.loss_weighting == "min_snr":
            weight = min_snr_weight(alphas_cumprod, config.prediction_type, config.min_snr_gamma)
            self._loss_weight = weight.float().to(device)  # T
        self._labels = None
        if config.time_labels == "vp_sde":
            self._labels = label_of_steps(alphas_cumprod).float().to(device)  # T

    def draw_timesteps(self, seed: int, step: int, rows: range, batch_size: int) -> Tensor:
        """Draw the timesteps of part of a global batch, (len(rows),) int64 on the CPU."""
        place = (step, rows, batch_size)
        return integer_rows(seed, "timesteps", *place, self.config.num_train_timesteps)

    def timesteps_in(self, bucket: Tensor, num_buckets: int, place: Tensor) -> Tensor:
        """Return timesteps within equal parts of [0, T), see `Process`; (B,) int64."""
        total = self.config.num_train_timesteps
        low, high = ((bucket + end) * total // num_buckets for end in (0, 1))
        return (low + place * (high - low) // 2**31).clamp(max=total - 1)

    def network_time(self, timesteps: Tensor) -> Tensor:
        """Return what the network is told for timesteps, (B,): these, or labels of `vp_sde.py`."""
        if self._labels is None:
            return timesteps
        return label_at(self._labels.to(timesteps.device), timesteps)

    def add_noise(self, x_0: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t, the images at their noise levels.

        Args:
            x_0: (B, C, H, W) in [-1, 1].
            eps: (B, C, H, W), standard normal.
            timesteps: (B,) int64 in [0, T).
        """
        # x_t = sqrt(alpha-bar) x_0 + sqrt(1 - alpha-bar) eps
        return _rows(self._signal, timesteps) * x_0 + _rows(self._noise, timesteps) * eps

    def target(self, x_0: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the network should predict: eps, x_0 or v, (B, C, H, W).

        Arguments as in `add_noise`.
        """
        if self.config.prediction_type == "epsilon":
            return eps
        if self.config.prediction_type == "sample":
            return x_0
        # v = sqrt(alpha-bar) eps - sqrt(1 - alpha-bar) x_0, Appendix D of Salimans and Ho
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
    """Return min-SNR-gamma weights for the loss of whatever the network predicts.

    The x_0 loss has the weight `min(snr, gamma)` (Sec. 3.4, Hang et al. 2023, arXiv:2303.09556).
    An error in eps is an error in x_0 times sqrt(snr), one in v times sqrt(snr + 1), so that their
    squared losses are divided by snr and snr + 1.

    Args:
        alphas_cumprod: (T,).
        prediction_type: "epsilon", "v_prediction" or "sample".
        gamma: snr above which the weight stays the same.

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
