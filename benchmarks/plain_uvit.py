"""A textbook U-ViT and its textbook training step: what ours are compared with.

It computes the same function from the same `state_dict` as `uvit_dia.UViT` without a unit (a test
compares them), as one writes it from the paper: a list of blocks, nothing fused, no choice of
kernels. Legend of tensor names: B batch, L tokens, D channels, H heads, K channels a head.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uvit_dia.config.schema import Config, ModelConfig


class PlainBlock(nn.Module):
    """A pre-norm transformer block with a long skip."""

    def __init__(self, dim: int, num_heads: int, hidden_dim: int, bias: bool, skip: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.skip_linear = nn.Linear(2 * dim, dim) if skip else None
        self.norm1 = nn.LayerNorm(dim)
        self.attn = nn.ModuleDict(
            {"qkv": nn.Linear(dim, 3 * dim, bias=bias), "proj": nn.Linear(dim, dim)}
        )
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(dim, hidden_dim), "fc2": nn.Linear(hidden_dim, dim)}
        )

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Map (B, L, D) to (B, L, D)."""
        if self.skip_linear is not None and skip is not None:
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        B, L, D = x.shape
        qkv = self.attn["qkv"](self.norm1(x)).reshape(B, L, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each B H L K
        attended = F.scaled_dot_product_attention(q, k, v)
        x = x + self.attn["proj"](attended.transpose(1, 2).reshape(B, L, D))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class PlainUViT(nn.Module):
    """An unconditional U-ViT."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, patch, half = config.embed_dim, config.patch_size, config.depth // 2
        hidden = int(dim * config.mlp_ratio)

        def block(skip: bool) -> PlainBlock:
            return PlainBlock(dim, config.num_heads, hidden, config.qkv_bias, skip)

        self.config = config
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(config.in_chans, dim, patch, patch)})
        self.time_embed: nn.Module = nn.Identity()
        if config.mlp_time_embed:
            self.time_embed = nn.Sequential(
                nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim)
            )
        tokens = 1 + (config.img_size // patch) ** 2
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, dim))
        self.in_blocks = nn.ModuleList(block(False) for _ in range(half))
        self.mid_block = block(False)
        self.out_blocks = nn.ModuleList(block(config.skip) for _ in range(half))
        self.norm = nn.LayerNorm(dim)
        self.decoder_pred = nn.Linear(dim, patch**2 * config.in_chans)
        channels = config.in_chans
        self.final_layer = (
            nn.Conv2d(channels, channels, 3, padding=1) if config.conv else nn.Identity()
        )

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        """Map (B, C, H, W) and (B,) to (B, C, H, W)."""
        half = self.config.embed_dim // 2
        exponents = torch.arange(half, device=x_t.device) / half
        angles = timesteps[:, None].float() * torch.exp(-math.log(10000) * exponents)
        time = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=-1))
        patches = self.patch_embed["proj"](x_t).flatten(2).transpose(1, 2)
        x = torch.cat([time[:, None], patches], dim=1) + self.pos_embed
        skips = []
        for block in self.in_blocks:
            x = block(x)
            skips.append(x)
        x = self.mid_block(x)
        for block in self.out_blocks:
            x = block(x, skips.pop())
        x = self.decoder_pred(self.norm(x))[:, 1:]
        side, patch = self.config.img_size // self.config.patch_size, self.config.patch_size
        x = x.reshape(len(x), side, side, patch, patch, -1).permute(0, 5, 1, 3, 2, 4)
        return self.final_layer(x.reshape(x_t.shape))


class PlainTraining:
    """A textbook training loop over a network that predicts the noise.

    Args:
        model: called with x_t and timesteps, on the device.
        config: of the run: rates, decay, batch size.
        images: (N, C, H, W) uint8 on the device.
        dtype: bfloat16 for autocast, float32 without.
    """

    def __init__(
        self, model: nn.Module, config: Config, images: Tensor, dtype: torch.dtype
    ) -> None:
        self.model, self.config, self.images, self.dtype = model, config, images, dtype
        self.average = [p.detach().clone() for p in model.parameters()]
        group = config.optimizer
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=group.learning_rate,
            betas=group.betas,
            eps=group.eps,
            weight_decay=group.weight_decay,
        )
        betas = torch.linspace(1e-4, 0.02, 1000, device=images.device)
        self.alphas_cumprod = (1 - betas).cumprod(0)

    def backward(self, x_t: Tensor, target: Tensor, timesteps: Tensor) -> Tensor:
        """Run a forward and a backward pass; return the loss, ()."""
        with torch.autocast(x_t.device.type, torch.bfloat16, self.dtype == torch.bfloat16):
            prediction = self.model(x_t, timesteps)
        loss = F.mse_loss(prediction.float(), target)
        loss.backward()
        return loss

    def step(self) -> None:
        """Draw a batch, learn from it, and average the weights."""
        count, device = self.config.train.batch_size, self.images.device
        rows = torch.randint(len(self.images), (count,), device=device)
        x_0 = self.images[rows].float() / 127.5 - 1
        timesteps = torch.randint(1000, (count,), device=device)
        eps = torch.randn_like(x_0)
        alphas = self.alphas_cumprod[timesteps][:, None, None, None]
        self.backward(alphas.sqrt() * x_0 + (1 - alphas).sqrt() * eps, eps, timesteps)
        if self.config.optimizer.max_grad_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        decay = self.config.ema.decay
        with torch.no_grad():
            for averaged, p in zip(self.average, self.model.parameters(), strict=True):
                averaged.mul_(decay).add_(p, alpha=1 - decay)
