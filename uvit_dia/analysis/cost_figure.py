"""What a cost analysis says, and its picture: every variant as a ratio to `none`."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uvit_dia.analysis.result import AnalysisResult
from uvit_dia.plots.parts import explain
from uvit_dia.plots.style import INK, WIDTH, look, style

TITLE = "What each attention unit costs, against the network without one"
HOW_TO_READ = (
    "Every dot is a ratio to `none`, the same network without a unit, measured in the same run: "
    "1.1 costs a tenth more. Times are medians over rounds in which all variants take turns, with "
    "their quartiles; where the quartiles reach the dashed line, the difference is within the "
    "machine's noise."
)
PANELS = {
    "weights_ratio": "weights",
    "flops_step_ratio": "FLOPs of a training step",
    "seconds_forward_ratio": "time of a forward pass",
    "seconds_step_ratio": "time of a training step",
    "peak_bytes_forward_ratio": "peak memory, forward pass",
    "peak_bytes_step_ratio": "peak memory, training step",
}


def describe_costs(
    rows: dict[str, dict[str, Any]], skipped: dict[str, str], facts: dict[str, object]
) -> AnalysisResult:
    """Describe what variants of any network cost.

    Args:
        rows: of the variants, `none` first, see `measure_costs`.
        skipped: variants that were left out, with the reasons.
        facts: what the numbers depend on.
    """
    said = ", ".join(
        f"{name} {row['seconds_step_ratio']['median']:.3f}" for name, row in rows.items()
    )
    return AnalysisResult(
        title=TITLE,
        how_to_read=HOW_TO_READ,
        summary=f"{said} times the training step of none",
        facts=facts,
        values={"variants": rows, "skipped": skipped},
        figure=_draw(rows, skipped),
    )


def _draw(rows: dict[str, dict[str, Any]], skipped: dict[str, str]) -> Figure:
    """Draw the ratios, a panel a kind of cost."""
    names = list(rows)
    with style():
        height = 1.4 + 0.6 * len(names)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        measured = {key: label for key, label in PANELS.items() if key in rows[names[0]]}
        panels = figure.subplots(len(measured) // 2, 2, sharey=True)
        for index, (axes, (key, label)) in enumerate(
            zip(panels.flat, measured.items(), strict=True)
        ):
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
    axes.errorbar(
        middles,
        range(len(middles)),
        xerr=errors,
        fmt=drawn.marker,
        color=drawn.colour,
        ecolor=INK,
        elinewidth=1.0,
        capsize=2,
    )
    axes.axvline(1.0, color=INK, linestyle=(0, (4, 3)), linewidth=1.0)
    axes.margins(x=0.08)
