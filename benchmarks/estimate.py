"""What large runs would take on machines that are not here: derived, nothing is timed.

    python -m benchmarks.estimate [--tflops 39.6] [--gbytes 50]

Weights, FLOPs and what autograd keeps are counted on the networks themselves, on tensors without
numbers, so that they hold for any size; tests compare the counts with real runs of small networks.
What follows from them is arithmetic with the two rates that are given. Printed is the Markdown of
docs/speed.md. Memory is weights, gradients, moments and average in float32 and what autograd keeps
for the backward pass; temporaries, the allocator's losses and the device's own 0.5 GB come on top.
"""

import argparse
import importlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.floor import step_flops
from uvit_dia.config.checks import make_config
from uvit_dia.config.schema import Config
from uvit_dia.models import UViT
from uvit_dia.models.build import make_model

FLOAT32 = 4  # bytes
# gradient, two moments of AdamW, average, and the weight itself
STATE_NUMBERS = 5
CHECKPOINT_NUMBERS = 4  # all but the gradient
MEASURED_TFLOPS = 39.6  # of U-ViT-S/2 in float32 on one H200: results/gpu/step_large.txt
SIZES: dict[str, tuple[str, dict[str, object]]] = {
    "U-ViT-S/2, CIFAR-10": ("cifar10_uvit_dia", {}),
    "U-ViT-L/4, ImageNet 64x64": ("imagenet64_uvit_large", {"train.gradient_checkpointing": False}),
    # of arXiv:2209.12152, Table 1: latents of 256x256 images
    "U-ViT-H/2, ImageNet latents": (
        "imagenet64_uvit_large",
        {
            "model.img_size": 32,
            "model.patch_size": 2,
            "model.in_chans": 4,
            "model.embed_dim": 1152,
            "model.depth": 28,
            "model.num_heads": 16,
            "model.conv": False,
            "train.gradient_checkpointing": False,
        },
    ),
}
HUGE = "U-ViT-H/2, ImageNet latents"
GPUS = (8, 64, 256, 1024)
HUGE_BATCH = 1024  # of its authors


@dataclass(frozen=True)
class Counts:
    """What is counted on a network.

    Attributes:
        weights: numbers that are trained.
        largest_block: of them in the largest block.
        kept: bytes that autograd keeps for the backward pass, an image.
    """

    weights: int
    largest_block: int
    kept: int


def config_of(name: str, unit: str) -> Config:
    """Return the config of a size with a unit."""
    module, changes = SIZES[name]
    values = importlib.import_module(f"configs.{module}").get_config()
    values.update_from_flattened_dict({**changes, "model.attention": unit})
    return make_config(values.to_dict())


def count(config: Config, *, bf16: bool = False) -> Counts:
    """Count a network's weights, and what its training keeps of each image.

    Args:
        config: of the network.
        bf16: whether it trains under autocast to bfloat16.
    """
    model = _without_numbers(config)
    blocks = [*model.in_blocks, model.mid_block, *model.out_blocks]
    return Counts(
        weights=_numbers(model),
        largest_block=max(map(_numbers, blocks)),
        # two batch sizes: what does not grow with the batch is not an image's
        kept=_kept(config, 3, bf16=bf16) - _kept(config, 2, bf16=bf16),
    )


def _without_numbers(config: Config) -> UViT:
    with torch.device("meta"):
        return make_model(config)


def _numbers(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _kept(config: Config, batch_size: int, *, bf16: bool) -> int:
    """Return the bytes that autograd keeps, on fake CUDA tensors.

    Without a device torch takes the attention kernel that writes all scores; a fused one keeps the
    logarithm of each query's sum in their place, which is what is counted.
    """
    shape, model = config.model, _without_numbers(config)
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = model.to_empty(device="cuda")
        own = {p.untyped_storage()._cdata for p in fake.parameters()}
        x_t = torch.empty(batch_size, shape.in_chans, shape.img_size, shape.img_size, device="cuda")
        timesteps = torch.zeros(batch_size, dtype=torch.long, device="cuda")
        labels = [timesteps] if shape.num_classes > 0 else []
        patches = (shape.img_size // shape.patch_size) ** 2
        tokens = patches + 1 + (shape.num_classes > 0)
        found: dict[int, tuple[int, Tensor]] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                scores = tensor.shape[-2:] == (tokens, tokens)
                num_bytes = tensor.numel() // tokens * FLOAT32 if scores else storage.nbytes()
                found[storage._cdata] = num_bytes, tensor  # held, so that no address comes twice
            return tensor

        torch.set_autocast_enabled("cuda", bf16)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        try:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                fake(x_t, timesteps, *labels)
        finally:
            torch.set_autocast_enabled("cuda", False)
    return sum(num_bytes for num_bytes, _ in found.values())


def ddp_bytes(weights: int, images_kept: int, gpus: int) -> int:
    """Return the bytes of memory a GPU under DDP, whose buckets hold the gradients once more."""
    return FLOAT32 * weights * (STATE_NUMBERS + (gpus > 1)) + images_kept


def fsdp_bytes(counts: Counts, images_kept: int, gpus: int) -> int:
    """Return the bytes of memory a GPU under FSDP2, block by block.

    Two blocks are whole at a time, one at work and one on its way, and the gradient of one.
    """
    return (
        FLOAT32 * (STATE_NUMBERS * counts.weights // gpus + 3 * counts.largest_block) + images_kept
    )


def sent_bytes(weights: int, gpus: int, *, sharded: bool) -> int:
    """Return the bytes that a GPU sends a step, by rings.

    DDP's sum of gradients is a scatter and a gather; FSDP2 gathers the weights twice, for the
    forward and the backward pass, and scatters the gradients.
    """
    return (3 if sharded else 2) * FLOAT32 * weights * (gpus - 1) // gpus


def sizes_table() -> list[str]:
    """Return what each size takes, as lines of Markdown."""
    lines = [
        "| network | unit | weights | GFLOP an image, forward and backward "
        "| kept an image, float32 | bf16 | state | checkpoint |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in SIZES:
        for unit in ("none", "dia_lstm"):
            config = config_of(name, unit)
            counts, half = count(config), count(config, bf16=True)
            lines.append(
                f"| {name} | `{unit}` | {counts.weights / 1e6:.1f}M "
                f"| {step_flops(config.model, 1) / 1e9:.0f} | {counts.kept / 1e6:.0f} MB "
                f"| {half.kept / 1e6:.0f} MB "
                f"| {FLOAT32 * STATE_NUMBERS * counts.weights / 1e9:.1f} GB "
                f"| {FLOAT32 * CHECKPOINT_NUMBERS * counts.weights / 1e9:.1f} GB |"
            )
    return lines


def huge_table(tflops: float, gbytes: float) -> list[str]:
    """Return what U-ViT-H takes on many GPUs, as lines of Markdown.

    Args:
        tflops: 10^12 FLOPs a second that a GPU reaches.
        gbytes: 10^9 bytes a second that it sends.
    """
    config = config_of(HUGE, "dia_lstm")
    counts = count(config)
    lines = [
        "| GPUs | images each | compute | memory, DDP | FSDP2 | sent a step, DDP | FSDP2 "
        "| sending, DDP | FSDP2 |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for gpus in GPUS:
        images = HUGE_BATCH // gpus
        compute = step_flops(config.model, images) / (tflops * 1e12)
        sent = [sent_bytes(counts.weights, gpus, sharded=each) for each in (False, True)]
        memory = (
            ddp_bytes(counts.weights, images * counts.kept, gpus),
            fsdp_bytes(counts, images * counts.kept, gpus),
        )
        lines.append(
            f"| {gpus:,} | {images} | {compute * 1e3:.0f} ms "
            f"| {memory[0] / 1e9:.1f} GB | {memory[1] / 1e9:.1f} GB "
            f"| {sent[0] / 1e9:.1f} GB | {sent[1] / 1e9:.1f} GB "
            f"| {sent[0] / gbytes / 1e6:.0f} ms | {sent[1] / gbytes / 1e6:.0f} ms |"
        )
    return lines


def main(argv: list[str] | None = None) -> None:
    """Print the tables; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tflops", type=float, default=MEASURED_TFLOPS, help="10^12 FLOPs a second of a GPU"
    )
    parser.add_argument(
        "--gbytes", type=float, default=50.0, help="10^9 bytes a second that a GPU sends"
    )
    arguments = parser.parse_args(argv)
    if min(arguments.tflops, arguments.gbytes) <= 0:
        parser.error("--tflops and --gbytes must be above 0")
    print("\n".join(sizes_table()))
    print()
    print("\n".join(huge_table(arguments.tflops, arguments.gbytes)))


if __name__ == "__main__":
    main()
