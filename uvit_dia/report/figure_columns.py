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
from matplotlib.ticker import FuncFormatter, NullLocator

from uvit_dia.plots.style import DASHED, WIDTH, add_legend, figure, look
from uvit_dia.report.figure_floor import Floor, axes_with_floor, draw_gaussian_mark
from uvit_dia.report.results import SweepResults

HEIGHT = 4.4  # inches
DODGE = 0.11  # octaves between neighbouring variants, so that their error bars stand side by side
MAX_WIDTH = 0.55  # octaves that all variants of a batch size may take
MAX_TICKS = 6  # of the vertical axis; more of them need more digits
VARIANTS_AN_INCH = 2.5  # more of them have their names turned steeply
AXIS_LETTERS = 66  # that stand under the axis of a figure of the usual width
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


def metric_figure(
    results: SweepResults, *, width: float = WIDTH, height: float = HEIGHT
) -> Figure | None:
    """Draw the metric against batch size: means, spreads, seeds, divergences, and two marks.

    Args:
        results: the sweep.
        width: inches; the letters keep their size.
        height: inches.
    """
    value, spread, gaussian = (
        _median(results, name) for name in ("floor", "floor_std", "gaussian_mark")
    )
    floor = Floor(value, max(0.0, np.nan_to_num(spread))) if math.isfinite(value) else None

    def mark_gaussian(axes: Axes) -> None:
        if math.isfinite(gaussian):
            draw_gaussian_mark(axes, gaussian)

    return column_figure(
        results,
        "value",
        results.metric_name,
        floor=floor,
        decorate=mark_gaussian,
        width=width,
        height=height,
    )


def noise_figure(results: SweepResults) -> Figure | None:
    """Draw the gradient noise scale against batch size, with the line where the two are equal."""

    def mark_equality(axes: Axes) -> None:
        sizes = results.plan.batch_sizes
        ends = axes.get_xlim() if len(sizes) > 1 else (sizes[0], sizes[0])
        axes.plot(axes.get_xlim(), ends, label="noise scale = batch size", **DASHED)
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
    width: float = WIDTH,
    height: float = HEIGHT,
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
        width: inches.
        height: inches.
    """
    variants = results.plan.variants
    marks = [_marks(results, column, index, together) for index in range(len(variants))]
    if not any(marks):
        return None
    with figure(height=height, width=width) as drawn:
        reached = [end for line in marks for mark in line for end in mark.ends]
        main = axes_with_floor(drawn, min(reached), max(reached), floor)
        for index, variant in enumerate(variants):
            _draw_marks(main, marks[index], variant, index)
        _name_places(main, results, width)
        _mark_divergences(main, results)
        main.set_ylabel(label)
        if decorate is not None:
            decorate(main)
        if main.get_yscale() == "linear":
            main.locator_params(axis="y", nbins=MAX_TICKS)
        handles, _ = main.get_legend_handles_labels()
        lines = [handle for handle in handles if isinstance(handle, Line2D)]
        bars = [handle for handle in handles if not isinstance(handle, Line2D)]
        are_named = len(results.plan.batch_sizes) == 1  # on the axis
        add_legend(drawn, lines if are_named else [*bars, *lines])
    return drawn


def _median(results: SweepResults, column: str) -> float:
    values = results.table[column].dropna()
    return float(values.median()) if len(values) else math.nan


def _places(results: SweepResults, batch_size: int) -> list[float]:
    """Return where the variants stand at a batch size; a single one has the axis to itself."""
    count = len(results.plan.variants)
    step = min(DODGE, MAX_WIDTH / count) if len(results.plan.batch_sizes) > 1 else 1 / count
    return [batch_size * 2 ** (step * (index - (count - 1) / 2)) for index in range(count)]


def _marks(
    results: SweepResults, column: str, index: int, together: Callable[[str, int], float] | None
) -> list[Mark]:
    """Return what is drawn of the variant at a place in the sweep's order."""
    variant = results.plan.variants[index]
    marks = []
    for batch_size in results.plan.batch_sizes:
        values = results.values(column, variant, batch_size)
        mean = float(np.mean(values)) if values else math.nan
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        if together is not None:
            mean, spread = together(variant, batch_size), 0.0
        if math.isfinite(mean):
            x = _places(results, batch_size)[index]
            marks.append(Mark(x, tuple(values), mean, spread))
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


def _name_places(axes: Axes, results: SweepResults, width: float) -> None:
    """Label the horizontal axis: by batch size, or where there is but one by variant."""
    sizes, variants = results.plan.batch_sizes, results.plan.variants
    axes.set_xscale("log", base=2)
    axes.set_xlim(sizes[0] * 2**-0.5, sizes[-1] * 2**0.5)
    lowest = axes.figure.axes[-1]  # below a break, if there is one
    lowest.xaxis.set_minor_locator(NullLocator())
    if len(sizes) == 1:
        letters = len(variants) * (2 + max(map(len, variants)))
        is_tight = letters > AXIS_LETTERS * width / WIDTH
        angle = 25 if len(variants) <= VARIANTS_AN_INCH * width else 50
        turned: dict[str, Any] = {"rotation": angle, "ha": "right"} if is_tight else {}
        lowest.set_xticks(_places(results, sizes[0]), variants, **turned)
        lowest.set_xlabel(f"variant, at batch size {sizes[0]}")
    else:
        lowest.set_xticks(sizes, [str(size) for size in sizes])
        lowest.set_xlabel("batch size (images an optimizer step)")


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
