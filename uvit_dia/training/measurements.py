"""What a log step measures beside the step itself; none of it changes what is learnt."""

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from uvit_dia.config.schema import TrainConfig
from uvit_dia.training.noised_batch import NoisedBatch
from uvit_dia.training.stability import (
    buffers_kept,
    noise_scale_terms,
    normalises_over_batch,
    squared_norm,
)


def measure_noise_scale(
    loss_of: Callable[[nn.Module, NoisedBatch], Tensor],
    model: nn.Module,
    batch: NoisedBatch,
    grad_norm: Tensor,
    accelerator: Accelerator,
    train: TrainConfig,
) -> dict[str, float | None]:
    """Measure the terms of the gradient noise scale: this step's gradient beside half a part's.

    It costs half a forward and backward pass of one part, and touches neither gradients nor
    buffers.

    Args:
        loss_of: returns the mean loss of some images, ().
        model: the unwrapped network.
        batch: this rank's share of the batch.
        grad_norm: (), norm of the gradient of the whole batch.
        accelerator: of the run.
        train: the config's group.

    Returns:
        What is logged; nothing where a part is too small to halve.
    """
    small_batch = len(batch) // train.accumulation_steps // 2
    fewest = 2 if normalises_over_batch(model) else 1
    if small_batch < fewest:
        return {}
    with buffers_kept(model):
        with accelerator.autocast():
            loss = loss_of(model, batch[:small_batch])
        wanted = [p for p in model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, wanted)
    small = accelerator.reduce(squared_norm(list(gradients)), "mean")
    signal, noise = noise_scale_terms(
        float(small), float(grad_norm) ** 2, small_batch, train.batch_size
    )
    ratio = noise / signal if signal > 0 else None
    return {"noise_scale_signal": signal, "noise_scale_noise": noise, "noise_scale": ratio}


def update_ratio(before: list[Tensor], after: list[Tensor]) -> float:
    """Return the 2-norm of an update of all weights over the 2-norm of the weights before it."""
    update = squared_norm(list(torch._foreach_sub(after, before))).sqrt()
    return float(update / squared_norm(before).sqrt())
