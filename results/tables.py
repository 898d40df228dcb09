"""Make the tables and the figure of results/README.md again from the stored CSV files.

    make figures

Writes `tables.md` and `figures/` beside this file. Nothing is trained. The comparisons, their
correction and their words are those of results/PROTOCOL.md.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import pandas as pd

from uvit_dia.plots.parts import explain
from uvit_dia.plots.style import figure, look, png_bytes, svg_bytes
from uvit_dia.report.effects import detectable_effect, hedges_g
from uvit_dia.report.statistics import holm, paired_test, student_test, welch_test
from uvit_dia.system.files import write_atomically

HERE = Path(__file__).resolve().parent
BASELINE, SCALED = "none", "constant"
Values = Mapping[str, Mapping[int, float]]  # by variant, then by seed


@dataclass(frozen=True)
class Row:
    """One comparison by pairs of seeds, negative where the first is lower."""

    first: str
    second: str
    n: int
    difference: float
    low: float
    high: float
    std: float
    p: float
    student: float
    welch: float
    g: float


def by_seed(table: pd.DataFrame, column: str) -> Values:
    """Return the numbers of a column by variant and seed."""
    found: dict[str, dict[int, float]] = {}
    for _, row in table[table[column].notna()].iterrows():
        found.setdefault(row["variant"], {})[int(row["seed"])] = float(row[column])
    return found


def compare(values: Values, pairs: Sequence[tuple[str, str]]) -> tuple[list[Row], list[float]]:
    """Compare variants by pairs of seeds; return the rows, and p corrected over all of them."""
    rows = []
    for first, second in pairs:
        seeds = sorted(set(values.get(first, {})) & set(values.get(second, {})))
        if len(seeds) < 2:
            continue
        a, b = ([values[name][seed] for seed in seeds] for name in (first, second))
        test = paired_test(a, b)
        differences = [x - y for x, y in zip(a, b, strict=True)]
        beside = student_test(a, b).p, welch_test(a, b).p
        rows.append(
            Row(
                first,
                second,
                len(seeds),
                mean(differences),
                test.low,
                test.high,
                stdev(differences),
                test.p,
                *beside,
                hedges_g(a, b, is_paired=True).g,
            )
        )
    return rows, holm([row.p for row in rows])


def comparison_table(values: Values, pairs: Sequence[tuple[str, str]], digits: int) -> str:
    """Return the comparisons of a measure as Markdown."""
    rows, corrected = compare(values, pairs)
    lines = [
        "| comparison | seeds | difference | 95% interval | sd of pairs | p, paired | p, Holm "
        "| p, Student | p, Welch | g | findable |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row, p in zip(rows, corrected, strict=True):
        level = 0.05 / len(rows)
        findable = detectable_effect(row.n, row.n, alpha=level, is_paired=True) * row.std
        lines.append(
            f"| `{row.first}` - `{row.second}` | {row.n} | {row.difference:+.{digits}f} "
            f"| {row.low:+.{digits}f} to {row.high:+.{digits}f} | {row.std:.{digits}f} "
            f"| {row.p:.2g} | {p:.2g} | {row.student:.2g} | {row.welch:.2g} | {row.g:+.2f} "
            f"| {findable:.{digits}f} |"
        )
    return "\n".join(lines)


def means_table(values: Values, digits: int, column: str) -> str:
    """Return mean and standard deviation over seeds of each variant as Markdown."""
    lines = [f"| variant | seeds | {column} | sd over seeds |", "| --- | ---: | ---: | ---: |"]
    for name, seeds in values.items():
        numbers = list(seeds.values())
        spread = stdev(numbers) if len(numbers) > 1 else math.nan
        lines.append(
            f"| `{name}` | {len(numbers)} | {mean(numbers):.{digits}f} | {spread:.{digits}f} |"
        )
    return "\n".join(lines)


def tuning_table(table: pd.DataFrame, digits: int) -> str:
    """Return the held-out loss of every variant at every learning rate, the lowest in bold.

    Of several seeds it is the mean.
    """
    names = table["variant"].str.rsplit("_lr", n=1).str[0]
    rates = sorted(table["learning_rate"].unique())
    lines = [
        "| variant | " + " | ".join(f"{rate:g}" for rate in rates) + " |",
        "| --- |" + " ---: |" * len(rates),
    ]
    for name in dict.fromkeys(names):
        rows = table[names == name].groupby("learning_rate")["held_out_loss"].mean()
        cells = [f"{rows[rate]:.{digits}f}" if rate in rows else "" for rate in rates]
        best = f"{rows.min():.{digits}f}"
        marked = [f"**{cell}**" if cell == best else cell for cell in cells]
        lines.append(f"| `{name}` | " + " | ".join(marked) + " |")
    return "\n".join(lines)


def pairs_of(values: Values, baseline: str = BASELINE) -> list[tuple[str, str]]:
    """Return the planned comparisons: each with the baseline, the paper's unit with its scale."""
    pairs = [(name, baseline) for name in values if name != baseline]
    return [*pairs, ("paper", SCALED)] if SCALED in values else pairs


def losses_between(log: pd.DataFrame, first: int, last: int) -> Values:
    """Return the mean training loss of the steps first + 1 .. last, by variant and seed."""
    rows = log[(log["step"] > first) & (log["step"] <= last)]
    means = rows.groupby(["variant", "seed"], sort=False)["loss"].mean()
    found: dict[str, dict[int, float]] = {}
    for (variant, seed), value in means.items():
        found.setdefault(str(variant), {})[int(seed)] = float(value)
    order = sorted(found, key=lambda name: (name != BASELINE, name))
    return {name: found[name] for name in order}


def difference_figure(values: Values, name: str, title: str, sentence: str) -> None:
    """Draw each variant's difference from the baseline, one dot a seed, with its interval."""
    pairs = [(first, second) for first, second in pairs_of(values) if second == BASELINE]
    rows, _ = compare(values, pairs)
    with figure(2.6) as drawn:
        axes = drawn.subplots()
        for place, row in enumerate(rows):
            style = look(place + 1)
            seeds = sorted(set(values[row.first]) & set(values[BASELINE]))
            dots = [values[row.first][seed] - values[BASELINE][seed] for seed in seeds]
            spots = [place + 0.06 * (i - (len(dots) - 1) / 2) for i in range(len(dots))]
            axes.plot(dots, spots, "o", mfc="none", color=style.colour, markersize=4)
            axes.plot([row.low, row.high], [place, place], color=style.colour, lw=2.5, alpha=0.5)
            axes.plot([row.difference], [place], "D", color=style.colour, markersize=6)
        axes.axvline(0, color="0.4", lw=0.8)
        axes.set_yticks(range(len(rows)), [row.first for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(f"{title}: difference from {BASELINE} (left is better)")
        explain(drawn, title, sentence)
    (HERE / "figures").mkdir(exist_ok=True)
    write_atomically(HERE / "figures" / f"{name}.svg", svg_bytes(drawn))
    write_atomically(HERE / "figures" / f"{name}.png", png_bytes(drawn))


@dataclass(frozen=True)
class Experiment:
    """Runs that are compared as results/PROTOCOL.md says.

    Attributes:
        name: of the CSV file and, with the data's name before it, of the figure.
        title: of its section.
        pairs: that are compared, one correction over all; None for those of `pairs_of`.
        baseline: what the variants are compared with.
    """

    name: str
    title: str
    pairs: tuple[tuple[str, str], ...] | None = None
    baseline: str = BASELINE


LABELS = {"digits": "digits", "cifar10": "CIFAR-10"}
CIFAR10_EXPERIMENTS = (
    Experiment("b0032", "CIFAR-10, batch 32"),
    Experiment("b0128", "CIFAR-10, batch 128"),
    Experiment("b0016", "CIFAR-10, batch 16"),
)
DIGITS_EXPERIMENTS = (
    Experiment("b0032", "Digits, batch 32"),
    Experiment("b0008", "Digits, batch 8"),
    Experiment("b0128", "Digits, batch 128"),
    Experiment(
        "b0128_lr32", "Digits, batch 128, all at 32e-3 (not planned before the tables above)"
    ),
    Experiment("steps_b0008", "Digits, batch 8, 1,500 steps (as many as at batch 128)"),
    Experiment("steps_b0032", "Digits, batch 32, 1,500 steps (as many as at batch 128)"),
    Experiment(
        "better",
        "Digits, batch 32, better units on six fresh seeds",
        (("time", "none"), ("memory", "none"), ("time", "paper"), ("memory", "paper")),
    ),
    Experiment(
        "memory", "Digits, batch 32, memory beside rescaled on the same seeds", baseline="rescaled"
    ),
)
TUNINGS = (
    ("tuning.csv", "Digits, batch 32: learning rates, held-out loss on seed 100"),
    ("tuning_b0008.csv", "Digits, batch 8: learning rates, held-out loss on seed 100"),
    ("tuning_b0128.csv", "Digits, batch 128: learning rates, held-out loss on seed 100"),
    ("tuning_better.csv", "Digits, batch 32: better units, held-out loss, mean of two seeds"),
)


def digits_sections() -> list[str]:
    """Return the tables on digits; draw the figures."""
    folder = HERE / "digits_question"
    sections = []
    for path, title in TUNINGS:
        sections.append(f"## {title}\n\n{tuning_table(pd.read_csv(folder / path), 4)}")
    for experiment in DIGITS_EXPERIMENTS:
        sections += experiment_sections("digits", "digits extractor", experiment)
    return sections


def experiment_sections(data: str, extractor: str, experiment: Experiment) -> list[str]:
    """Return the tables of an experiment on "digits" or "cifar10"; draw its figure."""
    table = pd.read_csv(HERE / f"{data}_question" / f"results_{experiment.name}.csv")
    counts = table["state"].value_counts().to_dict()
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    sections = [f"## {experiment.title}: {told}"]
    for column, title, digits in (
        ("held_out_loss", "held-out loss", 5),
        ("value", f"Fréchet distance ({extractor})", 2),
    ):
        values = by_seed(table, column)
        sections.append(f"### {title}\n\n{means_table(values, digits, title)}")
        pairs = experiment.pairs or pairs_of(values, experiment.baseline)
        sections.append(comparison_table(values, pairs, digits))
    if experiment.baseline != BASELINE:
        return sections  # two variants: the table says it all
    difference_figure(
        by_seed(table, "held_out_loss"),
        f"{data}_{experiment.name}",
        f"held-out loss on {LABELS[data]}",
        "Open dots are seeds (same backbone, images and noise), diamonds their mean, bars its "
        "95% interval.",
    )
    return sections


def cifar10_sections() -> list[str]:
    """Return the tables on CIFAR-10 pixels."""
    folder = HERE / "cifar10_question"
    tuning = pd.read_csv(folder / "tuning.csv")
    log = pd.read_csv(folder / "log.csv")
    sections = [
        f"## CIFAR-10: learning rates, held-out loss on seed 100\n\n{tuning_table(tuning, 5)}"
    ]
    for experiment in CIFAR10_EXPERIMENTS:
        sections += experiment_sections("cifar10", "a CIFAR-10 classifier's features", experiment)
    for first, last in ((1000, 2000), (3800, 4600)):
        values = losses_between(log, first, last)
        sections.append(
            f"## CIFAR-10, batch 32, first attempt: training loss of the steps {first + 1} to "
            f"{last}\n\n"
            f"{means_table(values, 5, 'training loss')}"
        )
        sections.append(comparison_table(values, pairs_of(values), 5))
    return sections


def main() -> None:
    """Write the tables and the figures."""
    sections = ["# Tables", "Made by `make figures` from the CSV files beside it."]
    sections += [*digits_sections(), *cifar10_sections()]
    write_atomically(HERE / "tables.md", ("\n\n".join(sections) + "\n").encode())
    print(HERE / "tables.md", file=sys.stderr)


if __name__ == "__main__":
    main()
