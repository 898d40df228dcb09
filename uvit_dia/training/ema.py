"""The exponential moving average of the weights, which samples are drawn from."""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from uvit_dia.config.schema import EMAConfig


def ema_decay(step: int, batch_size: int, config: EMAConfig) -> float:
    """Return the decay of one update.

    With `halflife_images` the average forgets half of its past in so many images, whatever the
    batch size B: the decay is 2^(-B / halflife). A sweep over batch sizes can hold it fixed.
    `rampup_ratio` bounds the half-life by this share of the images seen so far (Karras et al. 2022,
    arXiv:2206.00364, `ema_rampup_ratio` of their code), so that a young average is not stuck at the
    initial weights.

    Args:
        step: optimizer step just finished, from 0.
        batch_size: global batch size B.
        config: the group `ema`.

    Returns:
        The factor of the old average, in [0, 1).
    """
    decay = config.decay
    if config.halflife_images:
        decay = 0.5 ** (batch_size / config.halflife_images)
    if config.rampup_ratio:
        halflife = config.rampup_ratio * (step + 1) * batch_size
        decay = min(decay, 0.5 ** (batch_size / halflife))
    return decay


class EMA:
    """An average of a model's parameters that starts at their first values.

    Buffers, such as running statistics, are copied instead. torch's `AveragedModel` would do, but
    it moves its counter to the accelerator at every update, so that the host waits for the device
    at every step.

    Args:
        model: the unwrapped model whose parameters are averaged.
        averaged: a copy of it that will hold the average, of the same values. It is made before
            Accelerate prepares the model, so that it computes in float32 whatever the training's
            precision; with FSDP, whose shards cannot be copied, it is then sharded like the model.
    """

    def __init__(self, model: nn.Module, averaged: nn.Module) -> None:
        self.model = averaged.eval().requires_grad_(False)
        # Both lists share the models' storage; of shards, that of this process.
        self._averages = [_local(p) for p in self.model.parameters()]
        self._sources = [_local(p) for p in model.parameters()]
        self._buffers = list(zip(self.model.buffers(), model.buffers(), strict=True))

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move the average towards the model by one step."""
        # average = decay * average + (1 - decay) * parameters
        torch._foreach_lerp_(self._averages, self._sources, 1 - decay)
        for copied, source in self._buffers:  # running statistics of a batch normalisation
            copied.copy_(source)


def _local(parameter: Tensor) -> Tensor:
    """Return what this process holds of a parameter."""
    tensor = parameter.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
