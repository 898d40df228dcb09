"""What training, losses and analyses need of a process, and the process of a config."""

from typing import Protocol

import torch
from torch import Tensor

from uvit_dia.config.schema import DiffusionConfig
from uvit_dia.diffusion.ddpm import Diffusion
from uvit_dia.diffusion.flow_matching import FlowMatching


class Process(Protocol):
    """How images become noise, and what a network learns of it. Times are in [0, T)."""

    @property
    def config(self) -> DiffusionConfig:
        """The keys that it was made from."""

    def draw_timesteps(self, seed: int, step: int, rows: range, batch_size: int) -> Tensor:
        """Draw the times of part of a global batch, (len(rows),), on the CPU."""

    def timesteps_in(self, bucket: Tensor, num_buckets: int, place: Tensor) -> Tensor:
        """Return times within equal parts of [0, T).

        Args:
            bucket: (B,) int64 in [0, num_buckets), which part.
            num_buckets: how many parts there are.
            place: (B,) int64 in [0, 2**31), where in the part.
        """

    def network_time(self, timesteps: Tensor) -> Tensor:
        """Return what the network is told for times, (B,)."""

    def add_noise(self, x_0: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t of images x_0 and noise eps, each (B, C, H, W)."""

    def target(self, x_0: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the network should predict, (B, C, H, W)."""

    def loss(self, prediction: Tensor, target: Tensor, timesteps: Tensor) -> Tensor:
        """Return the weighted squared error a pixel, (B,) float32."""


def make_process(config: DiffusionConfig, device: torch.device | str = "cpu") -> Process:
    """Make the process of a config, its tables on a device."""
    return FlowMatching(config) if config.process == "flow" else Diffusion(config, device)
