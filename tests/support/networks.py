"""A U-ViT small enough for tests, and weights with which all of it shows."""

from typing import Any

import torch
from torch import nn

from uvit_dia.models.uvit import UViT

SMALL: dict[str, Any] = {"img_size": 8, "patch_size": 2, "in_chans": 3, "embed_dim": 32}
SMALL |= {"depth": 4, "num_heads": 2}


def make_uvit(*, seed: int = 0, options: dict | None = None, **changes: Any) -> UViT:
    """Make the network, with changes to its arguments, and the unit's options."""
    arguments = {**SMALL, **changes}
    if options is not None:
        arguments["attention_options"] = options
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UViT(**arguments).eval()


def randomise(model: nn.Module, scale: float = 0.1) -> None:
    """Give all parameters values with which every part of the network shows in its output."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
