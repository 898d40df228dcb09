"""Parts of a U-ViT that know nothing of DIA or of diffusion: patches, time, attention, MLP.

Module and parameter names are those of the U-ViT authors' code, so that their checkpoints load.
Legend of tensor names: B batch, C image channels, L tokens, D embedding channels, H heads,
K channels a head.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

INITIAL_STD = 0.02  # of Linear weights and positions, in the U-ViT authors' code


def timestep_embedding(timesteps: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Embed timesteps as `cat(cos, sin)` of geometrically spaced frequencies.

    The order is U-ViT's; the idea is in Sec. 3.5 of Vaswani et al. 2017, arXiv:1706.03762.

    Args:
        timesteps: (B,) int or float, on the scale 0 .. 999; fractions are allowed.
        dim: length of the embedding; an odd one is padded with a zero.
        max_period: period of the slowest component, in timesteps times 2 pi.

    Returns:
        (B, dim) float32.
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    frequencies = torch.exp(-math.log(max_period) * exponents)
    angles = timesteps[:, None].float() * frequencies  # (B, dim // 2)
    embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return F.pad(embedding, (0, dim % 2))


def unpatchify(patches: Tensor, patch_size: int, img_size: int) -> Tensor:
    """Put patches back into an image; the pixel order within a patch is (p1, p2, C), as in U-ViT.

    Args:
        patches: (B, (img_size / patch_size)**2, patch_size**2 * C).
        patch_size: side of a patch in pixels.
        img_size: side of the image in pixels.

    Returns:
        (B, C, img_size, img_size).
    """
    return rearrange(
        patches,
        "B (h w) (p1 p2 C) -> B C (h p1) (w p2)",
        h=img_size // patch_size,
        p1=patch_size,
        p2=patch_size,
    )


def check_class_labels(class_labels: Tensor, num_classes: int) -> None:
    """Check that labels, (B,) int64, have a row each of an embedding of `num_classes` rows.

    On the CPU alone: elsewhere the host would have to wait for the labels. And not while the
    network is compiled: how many labels are wrong would break its graph.

    Raises:
        ValueError: naming the first label that has none.
    """
    if class_labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    wrong = class_labels[(class_labels < 0) | (class_labels >= num_classes)]
    if wrong.numel():
        raise ValueError(f"class_labels must be in 0 .. {num_classes - 1}, got {int(wrong[0])}")


def initialise_linear(module: nn.Module) -> None:
    """Draw the weights of all Linear layers in a module as U-ViT does, and zero their biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=INITIAL_STD)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def linear_float32(layer: nn.Linear, x: Tensor) -> Tensor:
    """Apply a Linear layer in float32 even where its parameters are stored in a shorter type."""
    bias = None if layer.bias is None else layer.bias.float()
    return F.linear(x, layer.weight.float(), bias)


class PatchEmbed(nn.Module):
    """Cut an image into patches and project each to an embedding (ViT, Eq. 1)."""

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, L, D)."""
        return rearrange(self.proj(x), "B D h w -> B (h w) D")


class Attention(nn.Module):
    """Multi-head self-attention over tokens (Vaswani et al. 2017, Sec. 3.2.2)."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, D) to (B, L, D)."""
        q, k, v = rearrange(
            self.qkv(x), "B L (three H K) -> three B H L K", three=3, H=self.num_heads
        )
        x = F.scaled_dot_product_attention(q, k, v)  # B H L K
        return self.proj(rearrange(x, "B H L K -> B L (H K)"))


class MLP(nn.Module):
    """Two Linear layers with a GELU between them, token by token."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, D) to (B, L, D)."""
        return self.fc2(self.act(self.fc1(x)))
