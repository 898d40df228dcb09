"""Figures of the course of training: loss curves and the distribution of the gradient norm.

Each function returns a matplotlib figure, or None where there is nothing to draw.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, MaxNLocator

from uvit_dia.plots.parts import draw_boxes, quantiles
from uvit_dia.plots.style import PAPER, add_legend, figure, log_axis, look
from uvit_dia.report.cell_measures import finite, measured, settled_lines
from uvit_dia.report.results import SweepResults
from uvit_dia.sweep.record import CellRecord
from uvit_dia.system.records import Record

MAX_CURVE_POINTS = 150
LOG_RATIO = 3.0  # an axis is logarithmic where its largest value is so many times its smallest


def loss_figure(results: SweepResults) -> Figure | None:
    """Draw the training loss, a panel a batch size: a thin line a seed, a thick one their mean."""
    by_images = results.plan.budget == "images"
    variants = results.plan.variants
    of_size = {
        size: [c for c in results.cells if c.cell.batch_size == size and (c.log or c.nonfinite)]
        for size in results.plan.batch_sizes
    }
    of_size = {size: cells for size, cells in of_size.items() if cells}
    if not of_size:
        return None
    columns = min(2, len(of_size))
    rows = -(-len(of_size) // columns)
    with figure(0.9 + 2.2 * rows) as drawn:
        grid = list(drawn.subplots(rows, columns, sharey=True, squeeze=False).flat)
        panels = grid[: len(of_size)]
        for unused in grid[len(of_size) :]:
            drawn.delaxes(unused)
        for axes, (size, cells) in zip(panels, of_size.items(), strict=True):
            for index, variant in enumerate(variants):
                _draw_losses(
                    axes, [c for c in cells if c.cell.variant == variant], index, by_images
                )
            axes.set_title(f"batch size {size}")
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.xaxis.set_major_locator(MaxNLocator(5))
        _fit_loss_axis(panels, [line for cell in results.cells for line in settled_lines(cell)])
        drawn.supxlabel("images seen" if by_images else "optimizer steps", fontsize=10)
        drawn.supylabel("training loss", fontsize=10)
        looks = [(variant, look(index)) for index, variant in enumerate(variants)]
        add_legend(
            drawn, [Line2D([], [], color=k.colour, linestyle=k.line, label=v) for v, k in looks]
        )
    return drawn


def _draw_losses(axes: Axes, cells: Sequence[CellRecord], index: int, by_images: bool) -> None:
    """Draw the runs of a variant, and the mean of those that came furthest."""
    drawn = look(index)
    curves = []
    for cell in cells:
        steps, losses = _curve(cell)
        scale = cell.cell.batch_size if by_images else 1
        xs = steps * scale
        axes.plot(xs, losses, color=drawn.colour, linewidth=0.6, alpha=0.45)
        if len(xs):
            curves.append((tuple(xs), losses))
        if cell.state == "diverged" and not cell.is_trained:
            _draw_cross(axes, cell, xs, losses, drawn.colour, scale)
    longest = max((len(xs) for xs, _ in curves), default=0)
    whole = [(xs, losses) for xs, losses in curves if len(xs) == longest]
    if len({xs for xs, _ in whole}) == 1:
        mean = np.mean([losses for _, losses in whole], axis=0)
        axes.plot(whole[0][0], mean, color=drawn.colour, linestyle=drawn.line)


def _draw_cross(
    axes: Axes, cell: CellRecord, xs: np.ndarray, losses: np.ndarray, colour: str, scale: int
) -> None:
    """Mark where a run diverged: at its last known loss, or at the top where it had none."""
    x = scale * (measured(cell.nonfinite[-1], "nonfinite_step") if cell.nonfinite else math.nan)
    cross: dict[str, Any] = {"color": colour, "marker": "X", "markersize": 6.5, "clip_on": False}
    if len(xs):
        axes.plot([x if math.isfinite(x) else xs[-1]], losses[-1:], **cross)
    elif math.isfinite(x):
        axes.plot([x], [1.0], transform=axes.get_xaxis_transform(), **cross)


def _curve(cell: CellRecord) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and losses of a log, thinned to means over neighbouring lines."""
    pairs = [(line["step"], measured(line, "loss")) for line in cell.log]
    pairs = [pair for pair in pairs if math.isfinite(pair[1])]
    if not pairs:
        return np.empty(0), np.empty(0)
    parts = np.array_split(np.asarray(pairs, dtype=float), min(len(pairs), MAX_CURVE_POINTS))
    means = np.asarray([part.mean(axis=0) for part in parts])
    return means[:, 0], means[:, 1]


def _fit_loss_axis(panels: Sequence[Axes], settled: Sequence[Record]) -> None:
    """Fit the common vertical axis to the losses after the first steps, which are far higher."""
    losses = finite(settled, "loss")
    if not losses:
        return
    low, high = min(losses), float(np.quantile(losses, 0.999))
    if low > 0 and high / low > LOG_RATIO:
        for axes in panels:
            log_axis(axes, high / low)
        panels[0].set_ylim(low / 1.08, high * 1.08)
    elif high > low:
        margin = 0.06 * (high - low)
        panels[0].set_ylim(low - margin, high + margin)


def gradient_figure(results: SweepResults) -> Figure | None:
    """Draw the gradient norm over the log lines of all seeds, a box a variant and batch size.

    Boxes span the quartiles, whiskers 5% to 95%; a hollow mark stands at the largest norm of any
    single step.
    """
    sizes, variants = results.plan.batch_sizes, results.plan.variants
    width = 0.8 / len(variants)
    with figure(4.2) as drawn:
        axes = drawn.add_subplot()
        is_empty = True
        for index, variant in enumerate(variants):
            for place, size in enumerate(sizes):
                cells = [
                    c
                    for c in results.cells
                    if (c.cell.variant, c.cell.batch_size) == (variant, size)
                ]
                lines = [line for cell in cells for line in settled_lines(cell)]
                x = place + width * (index - (len(variants) - 1) / 2)
                if norms := finite(lines, "grad_norm"):
                    is_empty = False
                    boxes = [quantiles(np.asarray(norms))]
                    draw_boxes(axes, boxes, [x], width=0.82 * width, index=index)
                    _draw_largest(axes, x, finite(lines, "grad_norm_max"), index)
        if is_empty:
            return None
        axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
        axes.set_xlim(-0.55, len(sizes) - 0.45)
        axes.grid(visible=False, axis="x")
        low, high = axes.dataLim.intervaly
        if low > 0 and high / low > LOG_RATIO:
            log_axis(axes, high / low)
            axes.set_ylim(low / 1.15, high * 1.15)
        axes.set_xlabel("batch size (images an optimizer step)")
        axes.set_ylabel("gradient norm, before clipping")
        add_legend(drawn, [Patch(label=v, **look(i).area) for i, v in enumerate(variants)])
    return drawn


def _draw_largest(axes: Axes, x: float, norms: Sequence[float], index: int) -> None:
    drawn = look(index)
    mark: dict[str, Any] = {"markeredgecolor": drawn.colour, "markerfacecolor": PAPER}
    if norms:
        axes.plot([x], [max(norms)], drawn.marker, linestyle="none", markersize=5, **mark)
