"""How long each command takes before it does anything, beside an import of torch alone.

    python -m benchmarks.startup

`help` prints the flags, `wrong` is refused for an unknown key, `one_step` trains the quickstart's
network for one step, all in processes of their own.
"""

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import measure

ROOT = Path(__file__).resolve().parents[1]
DIGITS = "--config=configs/digits_uvit_dia.py"


def main(argv: list[str]) -> None:
    """Run the benchmark; see the module's docstring."""
    arguments = measure.parser(__doc__, rounds=7).parse_args(argv)
    measure.prepare(arguments)
    report = measure.Report("startup", arguments)
    with tempfile.TemporaryDirectory() as folder:
        variants = _variants(Path(folder))
        if arguments.short:
            variants = {"python": variants["python"], "train wrong": variants["train wrong"]}
        times = {name: measure.Times() for name in variants}
        rounds = 1 if arguments.short else arguments.rounds
        for index in range(rounds + (not arguments.short)):  # the first fills the disk's cache
            for name, call in variants.items():
                wall, cpu = call()
                if index or arguments.short:
                    times[name].wall.append(wall)
                    times[name].cpu.append(cpu)
    report.times(times)
    for name in variants:
        if name != "import torch":
            report.compare(times, name, "import torch")
    report.write()


def _variants(folder: Path) -> dict[str, Callable[[], tuple[float, float]]]:
    commands = {
        "python": (0, ["-c", "pass"]),
        "import torch": (0, ["-c", "import torch"]),
        "train help": (0, ["train.py", "--help"]),
        "sample help": (0, ["sample.py", "--help"]),
        "eval_fid help": (0, ["eval_fid.py", "--help"]),
        "analysis help": (0, ["-m", "uvit_dia.analysis", "--help"]),
        "sweep help": (0, ["-m", "uvit_dia.sweep", "--help"]),
        "train wrong": (2, ["train.py", DIGITS, "--config.no_such_key=1"]),
        "train one_step": (0, ["train.py", DIGITS, "--config.train.num_steps=1", "--workdir"]),
    }
    count = iter(range(10**6))

    def variant(code: int, command: list[str]) -> Callable[[], tuple[float, float]]:
        def call() -> tuple[float, float]:
            last = [str(folder / f"run{next(count)}")] if command[-1] == "--workdir" else []
            return run_process([*command, *last], code)

        return call

    return {name: variant(*command) for name, command in commands.items()}


def run_process(command: list[str], code: int = 0) -> tuple[float, float]:
    """Run Python with arguments; return its seconds on the clock and of its CPU time.

    Raises:
        SystemExit: if it ends with another exit code.
    """
    import time

    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ended = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    allowed = {code, 1} if "--help" in command else {code}  # absl's help exits with 1
    if ended.returncode not in allowed:
        raise SystemExit(f"{command} ended with {ended.returncode}: {ended.stderr[-500:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main(sys.argv[1:])
