"""Run all benchmarks, one after another, in processes of their own.

    python -m benchmarks --output_folder runs/bench [--device cuda] [--short] [--only step,sampling]

Each writes OUTPUT_FOLDER/NAME.json; what else a benchmark can do, its `--help` tells
(`python -m benchmarks.step --help`).
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

NAMES = ("step", "sampling", "evaluation", "checkpoint", "startup", "small_runs", "profile")
ROOT = Path(__file__).resolve().parents[1]


def main(argv: list[str]) -> None:
    """Run the benchmarks; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_folder", type=Path, default=Path("runs/bench"))
    parser.add_argument("--only", default=",".join(NAMES))
    arguments, others = parser.parse_known_args(argv)
    failed = []
    for name in arguments.only.split(","):
        print(f"== {name}", flush=True)
        output = arguments.output_folder.absolute() / f"{name}.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", "--output", str(output), *others]
        path = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        if subprocess.run(command, cwd=ROOT, env={**os.environ, **path}, check=False).returncode:
            failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main(sys.argv[1:])
