"""Where the time of a training step goes: by kind of work, for each unit.

    python -m benchmarks.profile --device cuda --sizes large --units none,dia_lstm --compile
    python -m benchmarks.profile --sizes digits

Each unit's steps are recorded with torch.profiler. On CUDA the time of each kernel counts, and
`idle` is what the device waited between them; on a CPU it is the time of each operator less that of
those that it calls, and `idle` is Python and the dispatch of operators. Recording itself takes time
on the host, so times of `benchmarks.step` are the ones to quote; here the shares are of interest,
and what a unit adds to each kind.
"""

import os
import re
import sys
import tempfile
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import measure
from benchmarks.subjects import SIZES, UNITS, config_of, make_trainer
from uvit_dia.system.accelerator import make_accelerator

# The first that matches a kernel's or operator's name, in lower case. What torch.compile fused is a
# kind of its own: such a kernel does several things.
KINDS = (
    ("fused", r"^triton_"),
    ("attention", r"flash|fmha|attention|sdpa"),
    ("products", r"gemm|nvjet|cutlass|cublas|splitk|xmma|conv|::(mm|addmm|bmm|baddbmm|linear)$"),
    ("update", r"multi_tensor|_foreach|fused_adam|lpnorm"),
    ("normalisation", r"layer_?norm|gammabeta"),
    ("copies", r"memcpy|memset|::copy_$|::cat$|catarray|fill|direct_copy"),
)
OTHER = "element-wise, sums"


def main(argv: list[str]) -> None:
    """Run the benchmark; see the module's docstring."""
    parser = measure.parser(__doc__, rounds=5)
    parser.add_argument("--sizes", default="digits", help=f"of {','.join(SIZES)}")
    parser.add_argument("--units", default=",".join(UNITS))
    parser.add_argument("--batch_size", type=int, default=0)
    parser.add_argument("--precision", choices=("no", "bf16"), default="no")
    parser.add_argument("--compile", action="store_true", help="compile the networks")
    arguments = parser.parse_args(argv)
    device = measure.prepare(arguments)
    report = measure.Report("profile", arguments)
    for size in arguments.sizes.split(","):
        for unit in arguments.units.split(","):
            for kind, milliseconds in _profile(size, unit, arguments, device).items():
                report.fact(f"{size} {unit} {kind}, ms", milliseconds)
    report.write()


def kind_of(name: str) -> str:
    """Return the kind of work of a kernel or operator."""
    return next((kind for kind, of in KINDS if re.search(of, name.lower())), OTHER)


def by_kind(events: Iterable[tuple[str, float]], total: float, steps: int) -> dict[str, float]:
    """Return how long each kind of work took in one step, the longest first.

    Args:
        events: names of kernels or operators with the microseconds of all their calls.
        total: milliseconds of a step on the clock.
        steps: how many were recorded.
    """
    found: dict[str, float] = defaultdict(float)
    for name, microseconds in events:
        found[kind_of(name)] += microseconds / 1e3 / steps
    found["idle"] = max(0.0, total - sum(found.values()))
    longest_first = sorted(found.items(), key=lambda item: -item[1])
    return {**dict(longest_first), "total": total}


def _profile(size: str, unit: str, arguments: Namespace, device: torch.device) -> dict[str, float]:
    config = config_of(
        size, unit, device=device, batch_size=arguments.batch_size, short=arguments.short
    )
    accelerator = make_accelerator(mixed_precision=arguments.precision, compile=arguments.compile)
    steps = 1 if arguments.short else arguments.rounds
    on_cuda = device.type == "cuda"
    activity = ProfilerActivity.CUDA if on_cuda else ProfilerActivity.CPU
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(config, accelerator, Path(folder) / unit)

        def all_steps() -> None:
            for _ in range(steps):
                trainer.train_step()

        all_steps()  # compiles, and fills the optimizer's state
        with profile(activities=[activity]) as recorded:
            seconds, _ = measure.timed(all_steps, 1, device)
    clock = "self_device_time_total" if on_cuda else "self_cpu_time_total"
    events = [(event.key, getattr(event, clock)) for event in recorded.key_averages()]
    return by_kind(events, seconds * 1e3 / steps, steps)


if __name__ == "__main__":
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # its banners
    main(sys.argv[1:])
