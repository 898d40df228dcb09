"""Figures of a number a run against batch size: the metric, the final loss, the gradient noise scale.

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

from uvit_dia.plots.style import INK, WIDTH, add_legend, log_axis, look, style
from uvit_dia.report.results import SweepResults

DODGE = 0.11  # octaves between neighbouring variants, so that their error bars stand side by side
MAX_WIDTH = 0.55  # octaves that all variants of a batch size may take
ASIDE = 0.035  # octaves between an error bar and its seeds
LOG_RATIO = 20.0  # an axis is logarithmic where its largest value is so many times its smallest
SQUASHED = 0.45  # an axis is broken where its values would fill less of it than this
DASHED: dict[str, Any] = {"color": INK, "linestyle": (0, (4, 3)), "linewidth": 1.2}


@dataclass(frozen=True)
class Mark:
    """What is drawn of a variant at a batch size.

    Attributes:
        x: where it stands.
        values: of the seeds.
        mean: of them, or what stands for all seeds in its place.
        low: one standard deviation below the mean, or the mean.
        high: as much above it.
    """

    x: float
    values: tuple[float, ...]
    mean: float
    low: float
    high: float


def metric_figure(results: SweepResults) -> Figure | None:
    """Draw the metric against batch size: means, standard deviations, seeds, divergences, and the floor."""
    floors = [float(v) for v in results.table["floor"].to_numpy(float) if math.isfinite(v)]
    floor = float(np.median(floors)) if floors else None
    return column_figure(results, "value", results.metric_name, floor=floor)


def noise_figure(results: SweepResults) -> Figure | None:
    """Draw the gradient noise scale against batch size, with the line where the two are equal."""
    figure = column_figure(
        results, "noise_scale", "gradient noise scale (images)", together=results.noise_scale
    )
    if figure is None:
        return None
    with style():
        axes = figure.axes[0]
        ends = axes.get_xlim()
        axes.plot(ends, ends, label="noise scale = batch size", **DASHED)
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        figure.legends.clear()
        _legend(figure, axes)
    return figure


def column_figure(
    results: SweepResults,
    column: str,
    label: str,
    *,
    floor: float | None = None,
    together: Callable[[str, int], float] | None = None,
) -> Figure | None:
    """Draw a column of the table against batch size, one line a variant.

    Args:
        results: the sweep.
        column: of its table.
        label: of the vertical axis.
        floor: a level to draw as a dashed line.
        together: what stands for all seeds of a variant at a batch size, without error bars, where it is not their
            mean.
    """
    marks = [
        _marks(results, column, index, together) for index in range(len(results.plan.variants))
    ]
    everything = [mark for line in marks for mark in line]
    if not everything:
        return None
    with style():
        figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
        main = _axes_with_floor(figure, everything, floor)
        for index, variant in enumerate(results.plan.variants):
            _draw_marks(main, marks[index], variant, index)
        _batch_size_axis(main, results)
        _mark_divergences(main, results)
        figure.axes[-1].set_xlabel("batch size (images an optimizer step)")
        main.set_ylabel(label)
        _legend(figure, main)
    return figure


def _marks(
    results: SweepResults,
    column: str,
    index: int,
    together: Callable[[str, int], float] | None,
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
            x = batch_size * 2**shift
            marks.append(Mark(x, tuple(values), mean, mean - spread, mean + spread))
    return marks


def _axes_with_floor(figure: Figure, marks: Sequence[Mark], floor: float | None) -> Axes:
    """Return the axes for the marks; the floor stands in them, or under a break where it would squash them."""
    low = min(min(mark.low, *mark.values) for mark in marks)
    high = max(max(mark.high, *mark.values) for mark in marks)
    bottom = low if floor is None else min(low, floor)
    is_log = bottom > 0 and high / low > LOG_RATIO
    span = high - low
    if floor is None or is_log or span <= 0 or span >= SQUASHED * (max(high, floor) - bottom):
        axes = figure.add_subplot()
        if is_log:
            log_axis(axes, high / bottom)
        if floor is not None:
            _draw_floor(axes, floor)
        return axes
    upper, lower = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [8, 1], "hspace": 0.04}
    )
    upper.set_ylim(low - 0.08 * span, high + 0.08 * span)
    _draw_floor(upper, floor)  # not seen there, but named in the legend
    _draw_floor(lower, floor)
    _break_below(upper, lower, floor)
    return upper


def _break_below(upper: Axes, lower: Axes, floor: float) -> None:
    """Make two axes look like one with a break, the floor in the lower part."""
    half = 0.5 * max(abs(floor), 1e-6)
    lower.set_ylim(floor - half, floor + half)
    lower.yaxis.set_major_locator(FixedLocator([floor]))
    lower.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    lower.grid(visible=False, axis="y")
    upper.spines["bottom"].set_visible(False)
    upper.tick_params(bottom=False)
    slash: dict[str, Any] = {"marker": [(-1, -0.6), (1, 0.6)], "markersize": 9, "linestyle": "none"}
    slash |= {"color": INK, "markeredgecolor": INK, "clip_on": False}
    upper.plot([0], [0], transform=upper.transAxes, **slash)
    lower.plot([0], [1], transform=lower.transAxes, **slash)


def _draw_floor(axes: Axes, floor: float) -> None:
    axes.axhline(floor, label="floor: real against real", **DASHED)


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
    has_bars = any(mark.high > mark.low for mark in marks)
    axes.errorbar(
        [mark.x for mark in marks],
        [mark.mean for mark in marks],
        yerr=[[m.mean - m.low for m in marks], [m.high - m.mean for m in marks]]
        if has_bars
        else None,
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
    """Write, above the axes, how many seeds diverged, one row a variant, with the variant's mark."""
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


def _legend(figure: Figure, axes: Axes) -> None:
    """Put the variants, then the dashed reference line, into the legend."""
    handles, _ = axes.get_legend_handles_labels()
    add_legend(figure, sorted(handles, key=lambda handle: isinstance(handle, Line2D)))
