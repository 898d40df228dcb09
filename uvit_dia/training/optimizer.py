"""The optimizer of a run, and its learning rate as a function of the step."""

import math

import torch
from torch import nn

from uvit_dia.config.schema import OptimizerConfig


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Make AdamW over a model's parameters (Loshchilov and Hutter 2019, arXiv:1711.05101)."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


def learning_rate_at(step: int, config: OptimizerConfig, num_steps: int) -> float:
    """Return the learning rate of a step: a function of the global step alone.

    It is a linear rise over `warmup_steps`, times (1 + cos(pi step / num_steps)) / 2 with the
    cosine.

    Args:
        step: optimizer step, from 0.
        config: the group `optimizer`.
        num_steps: length of the run.
    """
    rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.lr_schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * step / num_steps))
    return rate
