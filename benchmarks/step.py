"""A whole training step of each size and unit, as a share of its floor and beside plain code.

    python -m benchmarks.step --device cuda --precision bf16 --compile --output step.json
    python -m benchmarks.step --sizes large --other U-ViT

`step:` is all of `Trainer.train_step`, `pass:` forward and backward alone, on a fixed batch.
`plain` is the textbook of `plain_uvit.py`, `other` the class UViT of another repository, given
with `--other`, in the same textbook loop.
"""

import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import floor, measure
from benchmarks.plain_uvit import PlainTraining, PlainUViT
from benchmarks.subjects import (
    SIZES,
    UNITS,
    config_of,
    make_trainer,
    other_uvit,
    random_images,
)
from uvit_dia.config.schema import Config
from uvit_dia.system.accelerator import make_accelerator
from uvit_dia.training.trainer import Trainer

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16}
Variants = dict[str, Callable[[], object]]


def main(argv: list[str]) -> None:
    """Run the benchmark; see the module's docstring."""
    parser = measure.parser(__doc__, rounds=15)
    parser.add_argument("--sizes", default=",".join(SIZES), help="which, separated by commas")
    parser.add_argument("--units", default=",".join(UNITS))
    parser.add_argument("--batch_size", type=int, default=0)
    parser.add_argument("--precision", choices=tuple(DTYPES), default="no")
    parser.add_argument("--compile", action="store_true", help="compile all networks")
    parser.add_argument("--other", type=Path, help="folder of another repository")
    parser.add_argument("--other_module", default="libs.uvit", help="its module with class UViT")
    arguments = parser.parse_args(argv)
    measure.prepare(arguments)
    report = measure.Report("step", arguments)
    for size in arguments.sizes.split(","):
        _measure_size(size, arguments, report)
    report.write()


def _measure_size(size: str, arguments: Namespace, report: measure.Report) -> None:
    device, dtype = torch.device(arguments.device), DTYPES[arguments.precision]
    accelerator = make_accelerator(mixed_precision=arguments.precision, compile=arguments.compile)
    units = arguments.units.split(",")

    def config(unit: str) -> Config:
        return config_of(
            size, unit, device=device, batch_size=arguments.batch_size, short=arguments.short
        )

    base = config("none")
    bounds = floor.Floor(device, dtype, short=arguments.short)
    variants: Variants = dict(bounds.variants)
    weights = {}
    with tempfile.TemporaryDirectory() as folder:
        for unit in units:
            trainer = make_trainer(config(unit), accelerator, Path(folder) / unit)
            weights[unit] = sum(p.numel() for p in trainer.networks.unwrapped.parameters())
            variants |= _ours(unit, trainer)
        variants |= _plain("plain", PlainUViT(base.model), base, arguments)
        if arguments.other:
            network = other_uvit(arguments.other, arguments.other_module, base.model)
            variants |= _plain("other", network, base, arguments)
        batch_size = base.train.batch_size
        print(f"{size}: batch {batch_size}, {arguments.precision}, compiled {arguments.compile}")
        times = measure.in_turn(variants, **measure.rounds_of(arguments, device))
    prefix = f"{size} "
    report.times(times, prefix)
    for name, value in bounds.facts(times).items():
        report.fact(prefix + name, value)
    flops = floor.step_flops(base.model, batch_size)
    report.fact(f"{prefix}step_gflops", flops / 1e9)
    for unit in units:
        moved = floor.UPDATE_BYTES_A_WEIGHT * weights[unit]
        share = bounds.share(times, f"step:{unit}", flops, moved)
        report.ratio(f"{prefix}floor / step:{unit}", share)
        report.compare(times, f"pass:{unit}", f"step:{unit}", prefix)
        for part in ("step", "pass"):
            if unit != "none":
                report.compare(times, f"{part}:{unit}", f"{part}:none", prefix)
            for reference in ("plain", "other"):
                report.compare(times, f"{part}:{reference}", f"{part}:{unit}", prefix)


def _ours(unit: str, trainer: Trainer) -> Variants:
    """Return the whole step of a trainer, and its passes on a fixed batch."""
    batch = trainer._draw_batch()

    def passes() -> None:
        trainer._backward(batch)
        trainer.prepared_optimizer.zero_grad()

    return {f"step:{unit}": trainer.train_step, f"pass:{unit}": passes}


def _plain(name: str, network: torch.nn.Module, config: Config, arguments: Namespace) -> Variants:
    """Return the whole step of a network in the textbook's loop, and its passes."""
    device = torch.device(arguments.device)
    images = random_images(config.model).images.to(device)
    called = network.to(device).train()
    if arguments.compile:
        called = torch.compile(called)  # type: ignore[assignment]
    training = PlainTraining(called, config, images, DTYPES[arguments.precision])
    shape = (config.train.batch_size, *images.shape[1:])
    x_t, target = torch.randn(2, *shape, device=device)
    timesteps = torch.randint(1000, shape[:1], device=device)

    def passes() -> None:
        training.backward(x_t, target, timesteps)
        training.optimizer.zero_grad()

    return {f"step:{name}": training.step, f"pass:{name}": passes}


if __name__ == "__main__":
    main(sys.argv[1:])
