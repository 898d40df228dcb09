"""Features, images and extractors that tests make up."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


def random_features(count: int, width: int, seed: int, shift: float = 0.0) -> Tensor:
    """Return correlated features that are not centred."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator) / width**0.5
    return torch.randn(count, width, generator=generator) @ mixing + 1 + shift


def random_images(count: int, side: int, channels: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, side, side)
    return torch.randint(0, 256, shape, generator=generator).to(torch.uint8)


def fake_extractor(*, is_inception: bool) -> Any:
    """Return what `compute_metrics` needs to know of an extractor."""
    return SimpleNamespace(
        source=SimpleNamespace(name="fake", is_inception=is_inception),
        feature_layer="2048" if is_inception else "features",
        logits_layer="logits_unbiased" if is_inception else None,
    )
