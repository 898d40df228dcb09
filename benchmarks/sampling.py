"""Sampling a block of images, and how much of its time the network takes.

    python -m benchmarks.sampling --device cuda

`images` is all of `ImageSampler.sample`, from seeds to uint8 on the host; `network` is as many
calls of the network alone, on the same shapes.
"""

import sys
from argparse import Namespace

import torch

from benchmarks import measure
from benchmarks.subjects import SIZES, UNITS, config_of
from uvit_dia.models.build import make_model
from uvit_dia.sampling.sampler import make_sampler


def main(argv: list[str]) -> None:
    """Run the benchmark; see the module's docstring."""
    parser = measure.parser(__doc__, rounds=15)
    parser.add_argument("--sizes", default="small,digits", help=f"of {','.join(SIZES)}")
    parser.add_argument("--units", default=",".join(UNITS))
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--num_steps", type=int, default=20, help="network calls an image")
    arguments = parser.parse_args(argv)
    device = measure.prepare(arguments)
    report = measure.Report("sampling", arguments)
    for size in arguments.sizes.split(","):
        for unit in arguments.units.split(","):
            _measure(size, unit, arguments, device, report)
    report.write()


def _measure(
    size: str, unit: str, arguments: Namespace, device: torch.device, report: measure.Report
) -> None:
    changes: dict[str, object] = {"sample.num_steps": 2 if arguments.short else arguments.num_steps}
    config = config_of(size, unit, device=device, short=arguments.short, changes=changes)
    model = make_model(config).eval()
    model.to(device)  # type: ignore[arg-type]  # diffusers hides torch's signature
    batch_size = 4 if arguments.short else arguments.batch_size
    sampler = make_sampler(model, config, config.sample, batch_size=batch_size, device=device)

    def images() -> None:
        for _ in sampler.sample(range(batch_size)):
            pass

    x_t = torch.randn(batch_size, *sampler.shape, device=device)
    timesteps = torch.full((batch_size,), 500, device=device)

    @torch.no_grad()
    def network() -> None:
        for _ in range(sampler.nfe):
            model(x_t, timesteps)

    images()  # counts the calls
    times = measure.in_turn(
        {"images": images, "network": network}, **measure.rounds_of(arguments, device)
    )
    prefix = f"{size} {unit} "
    report.times(times, prefix)
    report.compare(times, "network", "images", prefix)


if __name__ == "__main__":
    main(sys.argv[1:])
