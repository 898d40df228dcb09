"""The floor of a training step: what its products and the traffic of its weights take at least.

The floor is FLOPs over the rate of a large matrix product of the same type, plus the bytes that
gradient norm, AdamW and average must move over the bandwidth of a large copy; both rates are
measured in the same rounds as the steps. Traffic of activations is not in it: it could overlap with
the products, and fusing may take it away.
"""

from collections.abc import Callable, Mapping
from statistics import median

import torch

from benchmarks.measure import Ratio, Times
from uvit_dia.config.schema import ModelConfig

SIDES = {"cpu": 1024, "cuda": 8192}  # of the square matrices
COPIED_BYTES = {"cpu": 2**28, "cuda": 2**31}
# AdamW reads weight, gradient and two moments and writes three of them; the average reads two
# and writes one; the gradient's norm reads the gradient
BYTES_A_NUMBER = 4
UPDATE_BYTES_A_WEIGHT = (7 + 3 + 1) * BYTES_A_NUMBER


def forward_flops(model: ModelConfig) -> int:
    """Return the FLOPs of an image's forward pass: its products, attention included, no unit."""
    width, blocks = model.embed_dim, model.depth + 1
    patches = (model.img_size // model.patch_size) ** 2
    tokens = patches + 1 + (model.num_classes > 0)
    pixels = model.patch_size**2 * model.in_chans
    block = (4 + 2 * model.mlp_ratio) * width**2  # qkv, proj, two layers of the MLP
    flops = 2 * tokens * block * blocks
    flops += 4 * tokens**2 * width * blocks  # scores, and the sum of values
    if model.skip:
        flops += 2 * tokens * 2 * width**2 * (model.depth // 2)
    flops += 2 * patches * pixels * width + 2 * tokens * pixels * width  # into and out of tokens
    if model.mlp_time_embed:
        flops += 2 * 8 * width**2
    if model.conv:
        flops += 2 * 9 * model.in_chans**2 * model.img_size**2
    return round(flops)


def step_flops(model: ModelConfig, batch_size: int) -> int:
    """Return the FLOPs of a batch's forward and backward pass, the latter twice the former."""
    return 3 * batch_size * forward_flops(model)


class Floor:
    """The rates of a device, as two more variants of a run.

    Args:
        device: whose.
        dtype: of the products.
        short: whether the matrices are tiny.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, *, short: bool) -> None:
        side = 64 if short else SIDES[device.type]
        count = (2**16 if short else COPIED_BYTES[device.type]) // BYTES_A_NUMBER
        a, b, product = (torch.randn(side, side, device=device).to(dtype) for _ in range(3))
        source, target = torch.zeros(count, device=device), torch.zeros(count, device=device)
        self._flops = 2 * side**3
        self._bytes = 2 * BYTES_A_NUMBER * count  # read and written
        self.variants: dict[str, Callable[[], object]] = {
            "product": lambda: torch.mm(a, b, out=product),
            "copy": lambda: target.copy_(source),
        }

    def facts(self, times: Mapping[str, Times]) -> dict[str, float]:
        """Return the measured rates."""
        return {
            "product_gflops_a_second": self._flops / median(times["product"].wall) / 1e9,
            "copy_gbytes_a_second": self._bytes / median(times["copy"].wall) / 1e9,
        }

    def share(self, times: Mapping[str, Times], name: str, flops: int, num_bytes: int) -> Ratio:
        """Return the floor over a variant's time, round by round."""
        rounds = zip(times["product"].wall, times["copy"].wall, times[name].wall, strict=True)
        return Ratio.of(
            [
                (flops / self._flops * product + num_bytes / self._bytes * copy) / wall
                for product, copy, wall in rounds
            ]
        )
