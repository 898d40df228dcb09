"""The exponential moving average of the weights, which is what is sampled from."""

import copy
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class EMASettings(TypedDict):
    """The settings of an average, as `ema_decay` takes them by name.

    Attributes:
        decay: decay a step, in [0, 1); 0 where the half-life rules.
        halflife_images: half-life in images; 0 where the decay rules.
        rampup_ratio: highest half-life as a share of the images seen so far; 0 for no bound.
    """

    decay: float
    halflife_images: int
    rampup_ratio: float


def ema_decay(
    step: int, batch_size: int, *, decay: float, halflife_images: int, rampup_ratio: float
) -> float:
    """Return the decay of one update.

    With `halflife_images` the average forgets half of its past in so many images, whatever the batch size: a sweep
    over batch sizes can hold it fixed. `rampup_ratio` bounds the half-life by this share of the images seen so far
    (Karras et al. 2022, arXiv:2206.00364, their code's `ema_rampup_ratio`), so that a young average is not stuck at
    the initial weights.

    Args:
        step: optimizer step just finished, from 0.
        batch_size: global batch size.
        decay: decay a step, in [0, 1); 0 where the half-life rules.
        halflife_images: half-life in images; 0 where the decay rules.
        rampup_ratio: 0 for no bound.

    Returns:
        The factor of the old average, in [0, 1).
    """
    if halflife_images:
        decay = 0.5 ** (batch_size / halflife_images)
    if rampup_ratio:
        halflife = rampup_ratio * (step + 1) * batch_size
        decay = min(decay, 0.5 ** (batch_size / halflife))
    return decay


class EMA:
    """An average of a model's parameters that starts at their first values; buffers are copied, not averaged.

    torch's `AveragedModel` would do, but it moves its counter to the accelerator at every update, and so makes the
    host wait for the device at every step.

    Args:
        model: the unwrapped model whose parameters are averaged.
        averaged: a copy of it that will hold the average, of the same values; None for a deep copy. A copy from
            before Accelerate prepared the model computes in float32 whatever the training's precision, and shards
            of FSDP cannot be copied at all: there, such a copy is sharded like the model.
    """

    def __init__(self, model: nn.Module, averaged: nn.Module | None = None) -> None:
        averaged = copy.deepcopy(model) if averaged is None else averaged
        self.model = averaged.eval().requires_grad_(False)
        # Both lists share the models' storage; of shards, that of this process.
        self._averages = [_local(p) for p in self.model.parameters()]
        self._sources = [_local(p) for p in model.parameters()]
        self._buffers = list(zip(self.model.buffers(), model.buffers(), strict=True))

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move the average towards the model: `ema = decay * ema + (1 - decay) * parameters`."""
        torch._foreach_lerp_(self._averages, self._sources, 1 - decay)
        for copied, source in self._buffers:  # running statistics of a batch normalisation
            copied.copy_(source)


def _local(parameter: Tensor) -> Tensor:
    """Return what this process holds of a parameter."""
    tensor = parameter.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
