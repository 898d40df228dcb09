"""Flow matching on straight paths from images to noise (Lipman et al. 2023, arXiv:2210.02747).

With t from 0 (images) to 1 (noise), as diffusers counts, whose sigma it is::

    x_t = (1 - t) x_0 + t eps        the path of rectified flow, Liu et al. 2023, arXiv:2209.03003
    v   = dx_t / dt = eps - x_0      the velocity, which the network learns

facebookresearch/flow_matching counts the other way: its time is 1 - t, and its velocity -v. A time
is written T t, in [0, T), and that is what the network is told.
"""

import torch
from torch import Tensor

from uvit_dia.config.schema import DiffusionConfig
from uvit_dia.rng import integer_rows, normal_rows

_PLACES = 2**24  # times that a uniform draw can have: what float32 tells apart


class FlowMatching:
    """Noised images, targets and losses of straight paths.

    Args:
        config: what the network predicts ("velocity", or x_0 as "sample"), and how times are drawn.
    """

    def __init__(self, config: DiffusionConfig) -> None:
        self.config = config
        self._scale = config.num_train_timesteps  # T

    def draw_timesteps(self, seed: int, step: int, rows: range, batch_size: int) -> Tensor:
        """Draw the times T t of part of a global batch, (len(rows),) float32 on the CPU.

        t is uniform, or the logistic function of a normal number (Esser et al. 2024,
        arXiv:2403.03206, Eq. 19), which prefers the middle.
        """
        place = (step, rows, batch_size)
        if self.config.time_sampling == "uniform":
            t = (integer_rows(seed, "timesteps", *place, _PLACES).double() + 0.5) / _PLACES
        else:
            normal = normal_rows(seed, "flow times", *place, (1,))[:, 0].double()
            t = torch.sigmoid(self.config.logit_mean + self.config.logit_std * normal)
        return (self._scale * t).float().clamp(max=self._scale * (1 - 2**-24))

    def timesteps_in(self, bucket: Tensor, num_buckets: int, place: Tensor) -> Tensor:
        """Return times within equal parts of [0, T), see `Process`; (B,) float32."""
        t = (bucket.double() + (place.double() + 0.5) / 2**31) / num_buckets
        return (self._scale * t).float()

    def network_time(self, timesteps: Tensor) -> Tensor:
        """Return the times themselves."""
        return timesteps

    def add_noise(self, x_0: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t = (1 - t) x_0 + t eps.

        Args:
            x_0: (B, C, H, W) in [-1, 1].
            eps: (B, C, H, W), standard normal.
            timesteps: (B,) times T t.
        """
        t = (timesteps / self._scale)[:, None, None, None]
        return (1 - t) * x_0 + t * eps

    def target(self, x_0: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the network should predict: the velocity eps - x_0, or x_0."""
        return x_0 if self.config.prediction_type == "sample" else eps - x_0

    def loss(self, prediction: Tensor, target: Tensor, timesteps: Tensor) -> Tensor:
        """Return the squared error a pixel, one value an image, (B,) float32."""
        return (prediction.float() - target).square().flatten(1).mean(dim=1)

    def velocity(self, prediction: Tensor, x_t: Tensor, t: float | Tensor) -> Tensor:
        """Return the velocity that a prediction means; (x_t - x_0) / t for an x_0.

        Args:
            prediction: (B, C, H, W), the network's.
            x_t: (B, C, H, W), what it was given.
            t: the time, in (0, 1].
        """
        return (x_t - prediction) / t if self.config.prediction_type == "sample" else prediction
