"""Compare units over seeds: `examples.classification` once a unit and seed, then a table.

    python -m examples.classification_sweep --workdir runs/units --seeds 0,1,2 --max_parallel 2 \
        --variants none,se,dia_lstm,dia_lstm_light -- --data digits

A variant is a unit, or NAME=ARGUMENTS: `deep="--unit dia_lstm --depth 32"`; the first one is what
all others are compared with. What follows `--` is the same for all. The same command again goes on
where it stopped. results.csv has a row a run, table.md the comparison: paired t-tests (a seed has
the same images in the same order under all variants), and Student's as in the paper (Tables III, X,
XI), each with Holm's correction.
"""

import csv
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from examples.command import command_parser, refusing_in_one_line
from uvit_dia.models.units.registry import ATTENTION_NAMES
from uvit_dia.report.statistics import holm, paired_test, student_test
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import write_atomically

COLUMNS = ("variant", "seed", "accuracy", "test_loss", "train_loss", "epoch", "diverged")
MORE_COLUMNS = ("unit_weights", "weights", "seconds")


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        variant: its name.
        seed: of the run.
        folder: of the run.
        words: the command's arguments.
    """

    variant: str
    seed: int
    folder: Path
    words: tuple[str, ...]

    def record(self) -> dict | None:
        """Return what came out; None before the end."""
        path = self.folder / "record.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def run(self) -> int:
        """Run the command, or go on with it; return its exit code."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "examples.classification", *self.words]
        with self.folder.with_suffix(".log").open("ab") as log:
            return subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
            ).returncode


def read_variants(text: str) -> dict[str, list[str]]:
    """Return the arguments of each variant by its name.

    Raises:
        InputError: if a name is no unit, or stands there twice.
    """
    variants: dict[str, list[str]] = {}
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace, lexer.whitespace_split = ",", True
    for part in lexer:
        name, equals, words = part.partition("=")
        if not equals and name not in ATTENTION_NAMES:
            raise InputError(
                f"--variants {name}: no unit; allowed is {', '.join(ATTENTION_NAMES)}, or "
                "NAME=ARGUMENTS"
            )
        if name in variants or not name.isidentifier():
            raise InputError(f"--variants {name!r}: must be a word, and stand there once")
        variants[name] = shlex.split(words) if equals else ["--unit", name]
    if len(variants) < 2:
        raise InputError("--variants: give two or more, the first to compare with")
    return variants


def cells_of(
    folder: Path, variants: Mapping[str, list[str]], seeds: Sequence[int], common: Sequence[str]
) -> list[Cell]:
    """Return the runs of a sweep, seed by seed."""
    cells = []
    for seed in seeds:
        for name, words in variants.items():
            run = folder / "cells" / f"{name}-s{seed}"
            all_words = (*common, *words, "--seed", str(seed), "--workdir", str(run))
            cells.append(Cell(name, seed, run, all_words))
    return cells


def rows_of(cells: Sequence[Cell]) -> list[dict[str, object]]:
    """Return a row of results a finished run."""
    rows = []
    for cell in cells:
        record = cell.record()
        if record is not None:
            row = {name: record.get(name, "") for name in (*COLUMNS, *MORE_COLUMNS)}
            rows.append({**row, "variant": cell.variant, "seed": cell.seed})
    return rows


def table_of(rows: Sequence[Mapping[str, object]], baseline: str) -> str:
    """Return the comparison of accuracies, higher is better, as Markdown.

    Args:
        rows: of results; runs that diverged count apart, and not in the means.
        baseline: what all others are compared with.
    """
    values: dict[str, dict[int, float]] = {}
    diverged: dict[str, int] = {}
    for row in rows:
        name = str(row["variant"])
        of_variant = values.setdefault(name, {})
        diverged[name] = diverged.get(name, 0) + bool(row["diverged"])
        if not row["diverged"]:
            of_variant[int(str(row["seed"]))] = float(str(row["accuracy"]))
    others = [name for name in values if name != baseline]
    base = values.get(baseline, {})
    paired, student = [], []
    for name in others:
        both = sorted(set(base) & set(values[name]))
        first, second = [values[name][s] for s in both], [base[s] for s in both]
        paired.append(paired_test(first, second))
        student.append(student_test(list(values[name].values()), list(base.values())))
    columns = (
        [test.p for test in paired],
        holm([test.p for test in paired]),
        [test.p for test in student],
        holm([test.p for test in student]),
    )
    lines = [
        "| variant | runs | diverged | accuracy, mean | sd | difference, 95% interval "
        "| p, paired | p, Holm | p, Student | p, Holm |",
        "| --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |",
        f"{_means(baseline, base, diverged)} | | | | |",
    ]
    for index, name in enumerate(others):
        test, mean = paired[index], _mean_difference(values[name], base)
        p_values = " | ".join(_number(column[index], ".2g") for column in columns)
        interval = f"{_number(mean, '+.2f')} ({_number(test.low, '+.2f')} to "
        interval += f"{_number(test.high, '+.2f')})"
        lines.append(f"{_means(name, values[name], diverged)} {interval} | {p_values} |")
    return "\n".join(lines) + "\n"


def _mean_difference(first: Mapping[int, float], second: Mapping[int, float]) -> float:
    both = sorted(set(first) & set(second))
    return statistics.fmean(first[s] - second[s] for s in both) if both else math.nan


def _means(name: str, values: Mapping[int, float], diverged: Mapping[str, int]) -> str:
    found = list(values.values())
    mean = statistics.fmean(found) if found else math.nan
    spread = statistics.stdev(found) if len(found) > 1 else math.nan
    counts = f"{len(found)} | {diverged.get(name, 0)}"
    return f"| `{name}` | {counts} | {_number(mean, '.2f')} | {_number(spread, '.2f')} |"


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)


def write_results(folder: Path, cells: Sequence[Cell], baseline: str) -> str:
    """Write results.csv and table.md of the runs that have ended; return the table."""
    rows = rows_of(cells)
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*COLUMNS, *MORE_COLUMNS])
        writer.writeheader()
        writer.writerows(rows)
    table = table_of(rows, baseline)
    write_atomically(folder / "table.md", table.encode())
    return table


def run_sweep(folder: Path, cells: Sequence[Cell], baseline: str, max_parallel: int) -> int:
    """Run what is missing; print a line a run and the table; return how many runs failed."""
    missing = [cell for cell in cells if cell.record() is None]
    print(f"{len(cells) - len(missing)} of {len(cells)} runs are there", flush=True)
    failed = 0
    with ThreadPoolExecutor(max_parallel) as pool:
        for cell, code in zip(missing, pool.map(Cell.run, missing), strict=True):
            failed += code != 0
            state = "done" if code == 0 else f"failed, see {cell.folder.with_suffix('.log')}"
            print(f"{cell.variant}, seed {cell.seed}: {state}", flush=True)
    print(write_results(folder, cells, baseline))
    return failed


def main(argv: list[str] | None = None) -> None:
    """Run the command; wrong input ends with one line and exit code 2, failed runs with 1."""
    words = list(sys.argv[1:] if argv is None else argv)
    place = words.index("--") if "--" in words else len(words)
    parser = command_parser("classification_sweep", __doc__)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--variants", default="none,se,dia_lstm,dia_lstm_light")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--max_parallel", type=int, default=1)
    arguments = parser.parse_args(words[:place])
    folder = Path(arguments.workdir).expanduser()
    with refusing_in_one_line("classification_sweep"):
        variants = read_variants(arguments.variants)
        if not all(seed.isdigit() for seed in arguments.seeds.split(",")):
            raise InputError(f"--seeds {arguments.seeds}: must be numbers, such as 0,1,2")
        if not 1 <= arguments.max_parallel <= (os.cpu_count() or 1) * 16:
            raise InputError(f"--max_parallel {arguments.max_parallel}: allowed is 1 or more")
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    cells = cells_of(folder, variants, seeds, words[place + 1 :])
    sys.exit(1 if run_sweep(folder, cells, next(iter(variants)), arguments.max_parallel) else 0)


if __name__ == "__main__":
    main()
