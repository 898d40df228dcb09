"""The images that a network's prediction means."""

from torch import Tensor

from uvit_dia.config.schema import DiffusionConfig
from uvit_dia.diffusion import FlowMatching, alphas_cumprod_of
from uvit_dia.diffusion.vp_sde import LABEL_SCALE, log_alpha_bar
from uvit_dia.sampling.noise_levels import noise_level_at, noise_levels


class ImagesMeant:
    """The images x_0 that a prediction at a noise level means.

    Args:
        diffusion: the process that the network was trained on.
    """

    def __init__(self, diffusion: DiffusionConfig) -> None:
        self._config = diffusion
        self._is_flow = diffusion.process == "flow"
        self._sigmas = None if self._is_flow else noise_levels(alphas_cumprod_of(diffusion))

    def __call__(self, prediction: Tensor, x_t: Tensor, timestep: Tensor) -> Tensor:
        """Return x_0, not clipped.

        Args:
            prediction: (B, C, H, W), the network's.
            x_t: (B, C, H, W), what it was given.
            timestep: (), what it was told.
        """
        kind = self._config.prediction_type
        if kind == "sample":
            return prediction
        if self._is_flow:
            t = timestep / self._config.num_train_timesteps
            return x_t - t * FlowMatching(self._config).velocity(prediction, x_t, t)
        signal, noise = self._levels(timestep.cpu())
        if kind == "v_prediction":  # v = signal eps - noise x_0, see `diffusion/ddpm.py`
            return signal * x_t - noise * prediction
        return (x_t - noise * prediction) / signal

    def _levels(self, timestep: Tensor) -> tuple[float, float]:
        """Return sqrt(alpha-bar) and sqrt(1 - alpha-bar) at what the network is told."""
        if self._config.time_labels == "vp_sde":
            alpha_bar = float(log_alpha_bar(timestep.double() / LABEL_SCALE).exp())
        else:
            assert self._sigmas is not None
            alpha_bar = 1 / (1 + noise_level_at(self._sigmas, timestep) ** 2)
        return alpha_bar**0.5, (1 - alpha_bar) ** 0.5
