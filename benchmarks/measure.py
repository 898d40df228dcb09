"""Variants timed in turn within one run, and the ratios of their times.

A shared or drifting machine does to one variant of a round what it does to the others, so that only
ratios within a round are compared: their median, and the interval that holds the median of the
population with 95 % (order statistics; no distribution is assumed).
"""

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from uvit_dia.runs.folder import source_commit, versions

CONFIDENCE = 0.95
MIN_SAMPLE_SECONDS = 0.2  # what is shorter is repeated within a sample


@dataclass
class Times:
    """How long one variant took, a number a round, each for one call.

    Attributes:
        wall: seconds on the clock.
        cpu: seconds of all threads of this process, which others on the machine disturb less.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Ratio:
    """The ratio of two variants' times.

    Attributes:
        median: over the rounds.
        low: lower end of the interval of the median.
        high: its upper end.
        rounds: how many there are.
    """

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Ratio":
        """Return the median of some ratios with its interval."""
        ordered = sorted(values)
        first = _outer_rank(len(ordered))
        return cls(statistics.median(ordered), ordered[first], ordered[-1 - first], len(ordered))

    def __str__(self) -> str:
        """Say it in words."""
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def _outer_rank(count: int) -> int:
    """Return the rank k, from 0, with which [k-th, k-th from the end] holds the median."""
    tail, rank = 0.0, 0
    for k in range(count // 2):
        tail += math.comb(count, k) / 2**count
        if tail > (1 - CONFIDENCE) / 2:
            break
        rank = k
    return rank


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(
    variants: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    device: torch.device,
    min_seconds: float = MIN_SAMPLE_SECONDS,
    warm_ups: int = 3,
) -> dict[str, Times]:
    """Time variants in turn: each once a round, every round from another one on.

    Args:
        variants: what is called, by name.
        rounds: how often, not counting the warm-up.
        device: whose work is waited for.
        min_seconds: a variant is called as often within a sample as takes about this long.
        warm_ups: calls of each variant before, whose last one is timed for `min_seconds`.
    """
    repeats = {}
    for name, call in variants.items():
        for _ in range(max(0, warm_ups - 1)):
            call()
        repeats[name] = max(1, round(min_seconds / max(1e-6, timed(call, 1, device)[0])))
    times = {name: Times() for name in variants}
    names = list(variants)
    for index in range(rounds):
        start = index % len(names)
        for name in names[start:] + names[:start]:
            wall, cpu = timed(variants[name], repeats[name], device)
            times[name].wall.append(wall)
            times[name].cpu.append(cpu)
    return times


def timed(call: Callable[[], object], repeats: int, device: torch.device) -> tuple[float, float]:
    """Return the seconds of one call, on the clock and of this process' threads."""
    synchronise(device)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        call()
    synchronise(device)
    return (time.perf_counter() - wall) / repeats, (time.process_time() - cpu) / repeats


def ratio(times: Mapping[str, Times], name: str, to: str, clock: str = "wall") -> Ratio:
    """Return how many times as long one variant took as another, round by round."""
    pairs = zip(getattr(times[name], clock), getattr(times[to], clock), strict=True)
    return Ratio.of([a / max(b, 1e-9) for a, b in pairs])


class Report:
    """What a benchmark prints and writes.

    Args:
        name: of the benchmark.
        arguments: its parsed flags.
    """

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        self.name = name
        self.arguments = arguments
        self.ratios: dict[str, dict[str, float]] = {}
        self.facts: dict[str, object] = {}
        self.seconds: dict[str, object] = {}

    def times(self, times: Mapping[str, Times], prefix: str = "") -> None:
        """Keep the times of variants, and print their medians."""
        for name, values in times.items():
            self.seconds[prefix + name] = asdict(values)
            wall, cpu = statistics.median(values.wall), statistics.median(values.cpu)
            print(f"  {prefix + name:44} {wall * 1e3:10.3f} ms wall {cpu * 1e3:10.3f} ms CPU")

    def ratio(self, name: str, value: Ratio) -> None:
        """Keep and print a ratio."""
        self.ratios[name] = asdict(value)
        print(f"  {name:44} {value}", flush=True)

    def compare(self, times: Mapping[str, Times], name: str, to: str, prefix: str = "") -> None:
        """Keep and print the ratio of two variants: of the clock and, on a CPU, of CPU time."""
        if name not in times or to not in times:
            return
        self.ratio(f"{prefix}{name} / {to}", ratio(times, name, to))
        if self.arguments.device == "cpu":
            self.ratio(f"{prefix}{name} / {to} (CPU time)", ratio(times, name, to, "cpu"))

    def fact(self, name: str, value: object) -> None:
        """Keep and print a number beside the ratios."""
        self.facts[name] = value
        shown = f"{value:.4g}" if isinstance(value, float) else value
        print(f"  {name:44} {shown}", flush=True)

    def write(self) -> None:
        """Write all of it to `--output`, if it is given."""
        record = {
            "benchmark": self.name,
            "arguments": {k: str(v) for k, v in vars(self.arguments).items() if k != "output"},
            "machine": machine(self.arguments.device),
            "ratios": self.ratios,
            "facts": self.facts,
            "seconds": self.seconds,
        }
        if self.arguments.output is not None:
            self.arguments.output.parent.mkdir(parents=True, exist_ok=True)
            self.arguments.output.write_text(json.dumps(record, indent=1) + "\n")


def machine(device: str) -> dict[str, object]:
    """Return what times depend on, as JSON's types."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "commit": source_commit(),
        "python": platform.python_version(),
        "versions": versions(),
        "cuda": torch.version.cuda,
        "system": platform.platform(),
        "cpu": names[0] if names else platform.processor(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
    }


def parser(description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """Return the parser of the flags that every benchmark has."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--rounds", type=int, default=rounds, help="how often each is timed")
    made.add_argument("--threads", type=int, default=0, help="of torch; 0 for torch's choice")
    made.add_argument("--short", action="store_true", help="only check that it runs")
    made.add_argument("--output", type=Path, help="JSON file that is written")
    return made


def prepare(arguments: argparse.Namespace) -> torch.device:
    """Apply the flags that every benchmark has; return the device.

    Raises:
        SystemExit: if the device is not there.
    """
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: no CUDA device here")
    os.environ["ACCELERATE_USE_CPU"] = "true" if arguments.device == "cpu" else "false"
    return torch.device(arguments.device)


def rounds_of(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return the arguments of `in_turn` that the flags decide."""
    if arguments.short:
        return {"rounds": 1, "device": device, "min_seconds": 0.0, "warm_ups": 1}
    return {"rounds": arguments.rounds, "device": device}
