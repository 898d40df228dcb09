"""Several small runs side by side: how many steps a second a machine gives to all of them.

    python -m benchmarks.small_runs --counts 1,2,4

Each process trains the quickstart's network on random images with its share of the machine's
threads, and times its steps while the others train, too. The ratio is the steps a second of all
processes over those of one process with all threads, in the same round.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import measure
from benchmarks.subjects import config_of, make_trainer
from uvit_dia.system.accelerator import make_accelerator
from uvit_dia.system.cores import usable_cores

ROOT = Path(__file__).resolve().parents[1]


def main(argv: list[str]) -> None:
    """Run the benchmark; see the module's docstring."""
    parser = measure.parser(__doc__, rounds=5)
    parser.add_argument("--counts", default="1,2,4", help="of processes, 1 first")
    parser.add_argument("--seconds", type=float, default=10.0, help="that a process trains")
    parser.add_argument("--unit", default="dia_lstm")
    parser.add_argument("--child", type=int, default=0, help="threads; for its own processes")
    arguments = parser.parse_args(argv)
    measure.prepare(arguments)
    if arguments.child:
        _train(arguments.child, arguments.seconds, arguments.unit, arguments.short)
        return
    report = measure.Report("small_runs", arguments)
    counts = [int(count) for count in arguments.counts.split(",")]
    if arguments.short:
        counts, arguments.rounds, arguments.seconds = [1], 1, 0.1
    rates: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(arguments.rounds):
        for count in counts:
            rates[count].append(_rate(count, max(1, usable_cores() // count), arguments))
    for count in counts:
        pairs = zip(rates[count], rates[counts[0]], strict=True)
        report.fact(f"{count} processes: steps a second of all", sorted(rates[count]))
        report.ratio(
            f"{count} / {counts[0]} processes", measure.Ratio.of([a / b for a, b in pairs])
        )
    report.write()


def _rate(count: int, threads: int, arguments: measure.argparse.Namespace) -> float:
    """Return the steps a second of so many processes together."""
    command = [sys.executable, "-m", "benchmarks.small_runs", "--child", str(threads)]
    command += ["--device", arguments.device, "--seconds", str(arguments.seconds)]
    command += ["--unit", arguments.unit] + ["--short"] * arguments.short
    children = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)},
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()  # it is ready
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    total = 0.0
    for child in children:
        total += json.loads(child.communicate()[0])["steps_a_second"]
        if child.returncode:
            raise SystemExit(f"a process ended with {child.returncode}")
    return total


def _train(threads: int, seconds: float, unit: str, short: bool) -> None:
    """Train for some seconds once a line comes on stdin; print the steps a second."""
    torch.set_num_threads(threads)
    accelerator = make_accelerator()
    config = config_of("digits", unit, device=accelerator.device, short=short)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(config, accelerator, Path(folder))
        for _ in range(5):
            trainer.train_step()
        print("ready", flush=True)
        sys.stdin.readline()
        started, steps = time.perf_counter(), 0
        while (passed := time.perf_counter() - started) < seconds:
            trainer.train_step()
            measure.synchronise(accelerator.device)
            steps += 1
    print(json.dumps({"steps_a_second": steps / passed}))


if __name__ == "__main__":
    main(sys.argv[1:])
