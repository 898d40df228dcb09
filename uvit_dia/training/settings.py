"""The plain numbers of a training run, and what follows from them alone: learning rate and each process's rows."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from uvit_dia.system.errors import InputError
from uvit_dia.training.ema import EMASettings


@dataclass(frozen=True)
class TrainSettings:
    """Plain numbers of a run; `batch_size` is global, `accumulation_steps` never changes it.

    Attributes:
        seed: of everything random.
        batch_size: images an optimizer step, over all processes.
        num_steps: optimizer steps in all.
        accumulation_steps: parts into which a process splits its share of the batch.
        learning_rate: its highest value.
        lr_schedule: "constant" or "cosine" (to zero at num_steps), after the warm-up.
        warmup_steps: steps over which the learning rate rises linearly.
        max_grad_norm: gradients are scaled down to this 2-norm; 0 leaves them.
        ema: the arguments of `ema_decay`.
        log_every_steps: distance of log lines.
        checkpoint_every_steps: distance of checkpoints; the last step always makes one.
        keep_checkpoints: how many stay.
    """

    seed: int
    batch_size: int
    num_steps: int
    accumulation_steps: int
    learning_rate: float
    lr_schedule: str
    warmup_steps: int
    max_grad_norm: float
    ema: EMASettings
    log_every_steps: int
    checkpoint_every_steps: int
    keep_checkpoints: int


@dataclass(frozen=True)
class PeriodicTask:
    """Something done with the averaged model every so many steps, on all processes together.

    Attributes:
        every_steps: 0 for never.
        run: called with the step and the averaged model; what it returns is logged. It may raise a
            `NonFiniteImagesError`, on all processes, which is logged too and does not end the run.
    """

    every_steps: int
    run: Callable[[int, nn.Module], dict[str, object]]


def learning_rate_at(step: int, settings: TrainSettings) -> float:
    """Return the learning rate of optimizer step `step`, from 0: a function of the global step alone."""
    rate = settings.learning_rate * min(1.0, (step + 1) / max(1, settings.warmup_steps))
    if settings.lr_schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * step / settings.num_steps))
    return rate


def rows_of_rank(batch_size: int, accumulation_steps: int, rank: int, num_processes: int) -> range:
    """Return the positions in the global batch that a process works on.

    Raises:
        InputError: if the batch cannot be divided evenly among processes and accumulation steps.
    """
    parts = num_processes * accumulation_steps
    if batch_size % parts:
        raise InputError(
            f"train.batch_size = {batch_size} is not divisible by {num_processes} processes "
            f"x train.accumulation_steps = {accumulation_steps}"
        )
    share = batch_size // num_processes
    return range(rank * share, (rank + 1) * share)
