"""What a training step learns from: one process's share of the batch, noised, with its targets."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from uvit_dia.diffusion import Process
from uvit_dia.rng import integer_rows, normal_rows
from uvit_dia.system.errors import InputError


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


@dataclass(frozen=True)
class NoisedBatch:
    """A share of a batch, b images.

    Attributes:
        x_t: (b, C, H, W) float32, noised images.
        target: (b, C, H, W) float32, what the network should predict.
        timesteps: (b,) in [0, T), int64 of DDPM, float32 of flow matching.
        dropout_seeds: (b,) int64, one seed an image.
        class_labels: (b,) int64, for a conditional network; else None.
    """

    x_t: Tensor
    target: Tensor
    timesteps: Tensor
    dropout_seeds: Tensor
    class_labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x_t)

    def __getitem__(self, rows: slice) -> "NoisedBatch":
        """Return some of the images."""
        return NoisedBatch(
            self.x_t[rows],
            self.target[rows],
            self.timesteps[rows],
            self.dropout_seeds[rows],
            None if self.class_labels is None else self.class_labels[rows],
        )

    def parts(self, count: int) -> Iterator["NoisedBatch"]:
        """Yield `count` parts of equal length, which must divide the batch."""
        length = len(self) // count
        for index in range(count):
            yield self[index * length : (index + 1) * length]


def draw_batch(
    x_0: Tensor,
    diffusion: Process,
    *,
    seed: int,
    step: int,
    rows: range,
    batch_size: int,
    class_labels: Tensor | None = None,
) -> NoisedBatch:
    """Draw timesteps, eps and dropout seeds for part of a global batch, and noise its images.

    Args:
        x_0: (len(rows), C, H, W) float32 in [-1, 1].
        diffusion: the forward process, on x_0's device.
        class_labels: (len(rows),) int64, as the network is told them.
        seed: the run's seed.
        step: optimizer step, from 0.
        rows: positions of x_0 in the global batch.
        batch_size: global batch size.
    """
    # Random numbers of positions in the global batch: the same on any number of processes.
    place = (step, rows, batch_size)
    timesteps = diffusion.draw_timesteps(seed, *place)
    dropout_seeds = integer_rows(seed, "dropout", *place, 2**62)
    eps = normal_rows(seed, "eps", *place, tuple(x_0.shape[1:]), x_0.device)
    timesteps = timesteps.to(x_0.device, non_blocking=True)
    return NoisedBatch(
        x_t=diffusion.add_noise(x_0, eps, timesteps),
        target=diffusion.target(x_0, eps, timesteps),
        timesteps=timesteps,
        dropout_seeds=dropout_seeds.to(x_0.device, non_blocking=True),
        class_labels=class_labels,
    )
