"""Figures of a number a run against batch size: the metric, the final loss, the noise scale.

Each function returns a matplotlib figure, or None where there is nothing to draw.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from uvit_dia.plots.style import DASHED, add_legend, figure, look
from uvit_dia.report.figure_floor import Floor, axes_with_floor, draw_gaussian_mark
from uvit_dia.report.results import SweepResults

DODGE = 0.11  # octaves between neighbouring variants, so that their error bars stand side by side
MAX_WIDTH = 0.55  # octaves that all variants of a batch size may take
ASIDE = 0.035  # octaves between an error bar and its seeds


@dataclass(frozen=True)
class Mark:
    """What is drawn of a variant at a batch size.

    Attributes:
        x: where it stands.
        values: of the seeds; none where only all seeds together have a value.
        mean: of them, or what stands for all seeds in its place.
        spread: length of the error bar to each side, 0 for none.
    """

    x: float
    values: tuple[float, ...]
    mean: float
    spread: float

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest place that it reaches."""
        reached = (self.mean - self.spread, self.mean + self.spread, *self.values)
        return min(reached), max(reached)


def metric_figure(results: SweepResults) -> Figure | None:
    """Draw the metric against batch size: means, spreads, seeds, divergences, and two marks."""
    value, spread, gaussian = (
        _median(results, name) for name in ("floor", "floor_std", "gaussian_mark")
    )
    floor = Floor(value, max(0.0, np.nan_to_num(spread))) if math.isfinite(value) else None

    def mark_gaussian(axes: Axes) -> None:
        if math.isfinite(gaussian):
            draw_gaussian_mark(axes, gaussian)

    return column_figure(results, "value", results.metric_name, floor=floor, decorate=mark_gaussian)


def noise_figure(results: SweepResults) -> Figure | None:
    """Draw the gradient noise scale against batch size, with the line where the two are equal."""

    def mark_equality(axes: Axes) -> None:
        ends = axes.get_xlim()
        axes.plot(ends, ends, label="noise scale = batch size", **DASHED)
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))

    return column_figure(
        results,
        "noise_scale",
        "gradient noise scale (images)",
        together=results.noise_scale,
        decorate=mark_equality,
    )


def column_figure(
    results: SweepResults,
    column: str,
    label: str,
    *,
    floor: Floor | None = None,
    together: Callable[[str, int], float] | None = None,
    decorate: Callable[[Axes], None] | None = None,
) -> Figure | None:
    """Draw a column of the table against batch size, one line a variant.

    Args:
        results: the sweep.
        column: of its table.
        label: of the vertical axis.
        floor: a level to draw as a dashed line.
        together: what stands for all seeds of a variant at a batch size, without error bars, where
            it is not their mean.
        decorate: draws what else belongs into the axes.
    """
    variants = results.plan.variants
    lines = [_marks(results, column, index, together) for index in range(len(variants))]
    if not any(lines):
        return None
    with figure(height=4.4) as drawn:
        reached = [end for line in lines for mark in line for end in mark.ends]
        main = axes_with_floor(drawn, min(reached), max(reached), floor)
        for index, marks in enumerate(lines):
            _draw_marks(main, marks, variants[index], index)
        _batch_size_axis(main, results)
        _mark_divergences(main, results)
        drawn.axes[-1].set_xlabel("batch size (images an optimizer step)")
        main.set_ylabel(label)
        if decorate is not None:
            decorate(main)
        # the variants, then the reference lines
        handles, _ = main.get_legend_handles_labels()
        add_legend(drawn, sorted(handles, key=lambda handle: isinstance(handle, Line2D)))
    return drawn


def _median(results: SweepResults, column: str) -> float:
    values = results.table[column].dropna()
    return float(values.median()) if len(values) else math.nan


def _marks(
    results: SweepResults, column: str, index: int, together: Callable[[str, int], float] | None
) -> list[Mark]:
    """Return what is drawn of the variant at a place in the sweep's order."""
    variants = results.plan.variants
    shift = min(DODGE, MAX_WIDTH / len(variants)) * (index - (len(variants) - 1) / 2)
    marks = []
    for batch_size in results.plan.batch_sizes:
        values = results.values(column, variants[index], batch_size)
        mean = float(np.mean(values)) if values else math.nan
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        if together is not None:
            mean, spread = together(variants[index], batch_size), 0.0
        if math.isfinite(mean):
            marks.append(Mark(batch_size * 2**shift, tuple(values), mean, spread))
    return marks


def _draw_marks(axes: Axes, marks: Sequence[Mark], variant: str, index: int) -> None:
    """Draw a variant's means with their spreads, and the seeds as open marks beside them."""
    drawn = look(index)
    for mark in marks:
        axes.plot(
            [mark.x * 2**ASIDE] * len(mark.values),
            mark.values,
            linestyle="none",
            marker=drawn.marker,
            markersize=3.4,
            markerfacecolor="none",
            markeredgecolor=drawn.colour,
            markeredgewidth=0.8,
            zorder=4,
        )
    spreads = [mark.spread for mark in marks]
    axes.errorbar(
        [mark.x for mark in marks],
        [mark.mean for mark in marks],
        yerr=spreads if any(spreads) else None,
        color=drawn.colour,
        linestyle=drawn.line,
        marker=drawn.marker,
        markersize=5.5,
        capsize=3.5,
        elinewidth=1.1,
        label=variant,
        zorder=3,
    )


def _batch_size_axis(axes: Axes, results: SweepResults) -> None:
    sizes = results.plan.batch_sizes
    axes.set_xscale("log", base=2)
    axes.set_xlim(sizes[0] * 2**-0.5, sizes[-1] * 2**0.5)
    axes.xaxis.set_major_locator(FixedLocator(list(sizes)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))


def _mark_divergences(axes: Axes, results: SweepResults) -> None:
    """Write, above the axes, how many seeds diverged, a row and a mark for each variant."""
    place, row = axes.get_xaxis_transform(), 0
    for index, variant in enumerate(results.plan.variants):
        counts = {b: results.count("diverged", variant, b) for b in results.plan.batch_sizes}
        if not any(counts.values()):
            continue
        height, row = 1.03 + 0.045 * row, row + 1
        drawn: dict[str, Any] = {"color": look(index).colour, "marker": look(index).marker}
        for size, lost in counts.items():
            if lost:
                mark = ([size * 2**-0.36], [height + 0.012])
                axes.plot(*mark, transform=place, clip_on=False, markersize=4, **drawn)
                text = f"{lost} of {len(results.rows(variant, size))} diverged"
                axes.text(size * 2**-0.31, height, text, transform=place, fontsize=7.5)
