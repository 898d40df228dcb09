"""The picture of a cost analysis: every variant as a ratio to `none`."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uvit_dia.plots.parts import explain
from uvit_dia.plots.style import INK, WIDTH, look, style

TITLE = "What each attention unit costs, against the network without one"
HOW_TO_READ = (
    "Every bar is a ratio to `none`, the same network without a unit, measured in the same run: 1.1 costs a tenth more. "
    "Times are medians over rounds in which all variants take turns, error bars their quartiles; where an error bar "
    "reaches the dashed line, the difference is within the machine's noise. Bars start at the axis' left end, not at 0."
)
PANELS = {
    "weights_ratio": "weights",
    "flops_step_ratio": "FLOPs of a training step",
    "seconds_forward_ratio": "time of a forward pass",
    "seconds_step_ratio": "time of a training step",
    "peak_bytes_forward_ratio": "peak memory, forward pass",
    "peak_bytes_step_ratio": "peak memory, training step",
}


def draw_costs(rows: dict[str, dict[str, Any]], skipped: dict[str, str]) -> Figure:
    """Draw the ratios, a panel a kind of cost.

    Args:
        rows: of the variants, `none` first.
        skipped: variants that were left out.
    """
    names = list(rows)
    with style():
        figure = Figure(figsize=(WIDTH, 2.4 + 0.6 * len(names)), layout="constrained")
        panels = figure.subplots(3, 2, sharey=True)
        for index, (axes, (key, label)) in enumerate(zip(panels.flat, PANELS.items(), strict=True)):
            _draw_panel(axes, [rows[name][key] for name in names], index // 2)
            axes.set_title(label)
        for axes in panels[:, 0]:
            axes.set_yticks(range(len(names)), names, fontsize=8)
        panels[0, 0].invert_yaxis()
        for axes in panels[-1]:
            axes.set_xlabel("ratio to none")
        left_out = f" Left out, since they do not fit: {', '.join(skipped)}." if skipped else ""
        explain(figure, TITLE, HOW_TO_READ + left_out)
    return figure


def _draw_panel(axes: Axes, ratios: list[Any], index: int) -> None:
    """Draw one kind of cost; a timed ratio has a spread, a counted one has none."""
    timed = isinstance(ratios[0], dict)
    middles = np.array([r["median"] for r in ratios] if timed else ratios)
    errors = None
    if timed:
        errors = np.array(
            [[r["median"] - r["quartile_1"], r["quartile_3"] - r["median"]] for r in ratios]
        ).T
    drawn = look(index)
    low = min(0.95, float((middles - (0 if errors is None else errors[0])).min()) - 0.02)
    axes.barh(
        range(len(middles)),
        middles - low,
        left=low,
        height=0.62,
        xerr=errors,
        ecolor=INK,
        capsize=2,
        facecolor=drawn.fill,
        edgecolor=drawn.colour,
        hatch=drawn.hatch,
    )
    axes.axvline(1.0, color=INK, linestyle=(0, (4, 3)), linewidth=1.0)
    axes.set_xlim(left=low)
    axes.grid(visible=False, axis="y")
