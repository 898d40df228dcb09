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

from uvit_dia.plots.style import INK, PAPER, WIDTH, add_legend, log_axis, look, style
from uvit_dia.report.cell_measures import SETTLED_SHARE
from uvit_dia.report.result_files import CellFiles, number
from uvit_dia.report.results import SweepResults

MAX_CURVE_POINTS = 150
LOG_RATIO = 3.0  # an axis is logarithmic where its largest value is so many times its smallest
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def loss_figure(results: SweepResults) -> Figure | None:
    """Draw the training loss, one panel a batch size: a thin line a seed, a thick one for their mean."""
    by_images = results.plan.config.get("budget") == "images"
    sizes = [
        b for b in results.plan.batch_sizes if any(c.log or c.nonfinite for c in _cells(results, b))
    ]
    if not sizes:
        return None
    with style():
        figure, panels = _panels(len(sizes))
        for axes, batch_size in zip(panels, sizes, strict=True):
            for index, variant in enumerate(results.plan.variants):
                cells = [c for c in _cells(results, batch_size) if c.plan.variant == variant]
                _draw_losses(axes, cells, index, by_images)
            axes.set_title(f"batch size {batch_size}")
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.xaxis.set_major_locator(MaxNLocator(5))
        _loss_limits(panels, results)
        figure.supxlabel("images seen" if by_images else "optimizer steps", fontsize=10)
        figure.supylabel("training loss", fontsize=10)
        _variant_legend(figure, results, as_boxes=False)
    return figure


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """Return a figure of equal panels, two a row."""
    columns = min(2, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, 0.9 + 2.2 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for unused in panels[count:]:
        figure.delaxes(unused)
    return figure, panels[:count]


def _cells(results: SweepResults, batch_size: int) -> list[CellFiles]:
    return [cell for cell in results.cells if cell.plan.batch_size == batch_size]


def _draw_losses(axes: Axes, cells: Sequence[CellFiles], index: int, by_images: bool) -> None:
    drawn = look(index)
    curves = []
    for cell in cells:
        steps, losses = _curve(cell, "loss")
        xs = steps * cell.plan.batch_size if by_images else steps
        axes.plot(xs, losses, color=drawn.colour, linewidth=0.6, alpha=0.45)
        if len(xs):
            curves.append((tuple(xs), losses))
        if cell.status.get("state") == "diverged":
            _draw_cross(axes, cell, xs, losses, drawn.colour, by_images=by_images)
    longest = max((len(xs) for xs, _ in curves), default=0)
    whole = [(xs, losses) for xs, losses in curves if len(xs) == longest]
    if whole and len({xs for xs, _ in whole}) == 1:
        mean = np.mean([losses for _, losses in whole], axis=0)
        axes.plot(whole[0][0], mean, color=drawn.colour, linestyle=drawn.line)


def _draw_cross(
    axes: Axes,
    cell: CellFiles,
    xs: np.ndarray,
    losses: np.ndarray,
    colour: str,
    *,
    by_images: bool,
) -> None:
    """Mark where a run diverged: at the height of its last known loss, or at the top where it had none."""
    step = number(cell.nonfinite[-1].get("nonfinite_step")) if cell.nonfinite else math.nan
    x = step * cell.plan.batch_size if by_images else step
    cross: dict[str, Any] = {"color": colour, "marker": "X", "markersize": 6.5, "clip_on": False}
    if len(xs):
        axes.plot([x if math.isfinite(x) else xs[-1]], losses[-1:], **cross)
    elif math.isfinite(x):
        axes.plot([x], [1.0], transform=axes.get_xaxis_transform(), **cross)


def _curve(cell: CellFiles, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and values of a log, thinned to means over neighbouring lines."""
    pairs = [(line["step"], number(line.get(key))) for line in cell.log]
    pairs = [pair for pair in pairs if math.isfinite(pair[1])]
    if not pairs:
        return np.empty(0), np.empty(0)
    parts = np.array_split(np.asarray(pairs, dtype=float), min(len(pairs), MAX_CURVE_POINTS))
    means = np.asarray([part.mean(axis=0) for part in parts])
    return means[:, 0], means[:, 1]


def _loss_limits(panels: Sequence[Axes], results: SweepResults) -> None:
    """Fit the common vertical axis to the losses after the first steps, where they fall from far above."""
    settled = [
        loss
        for cell in results.cells
        for line in cell.log
        if line["step"] > SETTLED_SHARE * cell.plan.num_steps
        and math.isfinite(loss := number(line.get("loss")))
    ]
    if not settled:
        return
    low, high = min(settled), float(np.quantile(settled, 0.999))
    if low > 0 and high / low > LOG_RATIO:
        for axes in panels:
            log_axis(axes, high / low)
        panels[0].set_ylim(low / 1.08, high * 1.08)
    elif high > low:
        margin = 0.06 * (high - low)
        panels[0].set_ylim(low - margin, high + margin)


def _variant_legend(figure: Figure, results: SweepResults, *, as_boxes: bool) -> None:
    """Put a legend of the variants above a figure."""
    variants = results.plan.variants
    handles: list[Line2D | Patch] = []
    for index, variant in enumerate(variants):
        drawn = look(index)
        if as_boxes:
            fill: dict[str, Any] = {
                "facecolor": drawn.fill,
                "edgecolor": drawn.colour,
                "hatch": drawn.hatch,
            }
            handles.append(Patch(label=variant, **fill))
        else:
            handles.append(Line2D([], [], color=drawn.colour, linestyle=drawn.line, label=variant))
    add_legend(figure, handles)


def gradient_figure(results: SweepResults) -> Figure | None:
    """Draw the gradient norm's distribution over the log lines of all seeds, one box a variant and batch size.

    Boxes span the quartiles, whiskers 5% to 95%; a hollow mark stands at the largest norm of any single step.
    """
    sizes, variants = results.plan.batch_sizes, results.plan.variants
    with style():
        figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
        axes = figure.add_subplot()
        width = 0.8 / len(variants)
        drawn = [
            _draw_box(
                axes, results, variant, size, place + width * (index - (len(variants) - 1) / 2)
            )
            for index, variant in enumerate(variants)
            for place, size in enumerate(sizes)
        ]
        if not any(drawn):
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
        _variant_legend(figure, results, as_boxes=True)
    return figure


def _draw_box(axes: Axes, results: SweepResults, variant: str, size: int, x: float) -> bool:
    """Draw one box, if there are log lines for it."""
    cells = [cell for cell in _cells(results, size) if cell.plan.variant == variant]
    lines = [
        line
        for cell in cells
        for line in cell.log
        if line["step"] > SETTLED_SHARE * cell.plan.num_steps
    ]
    norms = [norm for line in lines if math.isfinite(norm := number(line.get("grad_norm")))]
    if not norms:
        return False
    drawn = look(results.plan.variants.index(variant))
    low, first, middle, third, high = (float(q) for q in np.quantile(norms, QUANTILES))
    width = 0.8 / len(results.plan.variants)
    axes.bxp(
        [{"whislo": low, "q1": first, "med": middle, "q3": third, "whishi": high, "fliers": []}],
        positions=[x],
        widths=0.82 * width,
        patch_artist=True,
        showfliers=False,
        manage_ticks=False,
        boxprops={"facecolor": drawn.fill, "edgecolor": drawn.colour, "hatch": drawn.hatch},
        medianprops={"color": INK, "linewidth": 1.4},
        whiskerprops={"color": drawn.colour},
        capprops={"color": drawn.colour},
    )
    tops = [top for line in lines if math.isfinite(top := number(line.get("grad_norm_max")))]
    if tops:
        mark: dict[str, Any] = {
            "marker": drawn.marker,
            "markeredgecolor": drawn.colour,
            "markerfacecolor": PAPER,
        }
        axes.plot([x], [max(tops)], linestyle="none", markersize=5, **mark)
    return True
