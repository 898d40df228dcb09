"""Measures of how steadily a run trains: spikes, and the gradient noise scale."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

SPIKE_SIGMAS = 6.0
MIN_SPIKE_STEPS = 20  # in fewer steps a median says too little to call anything a spike
_MAD_TO_SIGMA = 1.4826  # of a normal distribution


def count_spikes(values: Tensor) -> int:
    """Count the values that stand far above the others.

    A spike lies more than `SPIKE_SIGMAS` robust standard deviations (1.4826 times the median
    absolute deviation) above the median, which the spikes themselves hardly move.

    Args:
        values: (n,) float, such as the gradient norms of the steps of a log window.

    Returns:
        How many; 0 for fewer than `MIN_SPIKE_STEPS` values.
    """
    if len(values) < MIN_SPIKE_STEPS:
        return 0
    median = values.median()
    sigma = _MAD_TO_SIGMA * (values - median).abs().median()
    return int((values > median + SPIKE_SIGMAS * sigma).sum())


def noise_scale_terms(
    small_norm_squared: float, big_norm_squared: float, small_batch: int, big_batch: int
) -> tuple[float, float]:
    """Estimate the two terms of the gradient noise scale from gradients of two batch sizes.

    The simple noise scale is `B_simple = tr(Sigma) / |G|^2`: the batch size at which noise and
    signal of a gradient are about equal (Eq. 2.9, McCandlish et al. 2018, arXiv:1812.06162). With
    `E|G_B|^2 = |G|^2 + tr(Sigma) / B`, two batch sizes give unbiased estimates of both terms (their
    Appendix A.1)::

        |G|^2     = (B_big |G_big|^2 - B_small |G_small|^2) / (B_big - B_small)
        tr(Sigma) = (|G_small|^2 - |G_big|^2) / (1 / B_small - 1 / B_big)

    A single pair is very noisy and may be negative: average each term over many steps, then divide.

    Args:
        small_norm_squared: squared 2-norm of the mean gradient over `small_batch` images.
        big_norm_squared: the same over `big_batch` images.
        small_batch: number of images.
        big_batch: a larger number of images.

    Returns:
        The estimates of |G|^2 and of tr(Sigma).

    Raises:
        ValueError: unless 0 < small_batch < big_batch.
    """
    if not 0 < small_batch < big_batch:
        raise ValueError(f"0 < small_batch < big_batch, got {small_batch} and {big_batch}")
    signal = (big_batch * big_norm_squared - small_batch * small_norm_squared) / (
        big_batch - small_batch
    )
    noise = (small_norm_squared - big_norm_squared) / (1 / small_batch - 1 / big_batch)
    return signal, noise


def normalises_over_batch(model: nn.Module) -> bool:
    """Say whether a model in training mode normalises over images, and so needs at least two."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Restore a model's buffers, such as running averages that a forward pass moves."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, before in kept:
            buffer.copy_(before)


def squared_norm(tensors: list[Tensor]) -> Tensor:
    """Return the squared 2-norm of all tensors together, ()."""
    return torch.stack([whole(norm) for norm in torch._foreach_norm(tensors)]).square().sum()


def clip_gradients(accelerator: Accelerator, model: nn.Module, max_norm: float) -> Tensor:
    """Scale the gradients down to a norm; return the norm before, (), of all processes' weights.

    Args:
        accelerator: of the run.
        model: the prepared network, whose gradients are there.
        max_norm: 0 leaves the gradients as they are, without a pass over them that writes.
    """
    parameters = list(model.parameters())
    if max_norm or accelerator.is_fsdp2:
        limit = max_norm or math.inf
        return whole(accelerator.clip_grad_norm_(parameters, limit))
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor whole, also where FSDP spread it; call it on all processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
