"""The picture of a sensitivity analysis: what is lost where the unit is taken out."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from uvit_dia.plots.parts import explain
from uvit_dia.plots.style import INK, WIDTH, look, style

TITLE = "What is lost where the unit is taken out of a trained model"
HOW_TO_READ = (
    "Nothing is retrained. Left: {metric} of samples; right: training loss on the same noised"
    " images, with one standard error of its change; lower is better in both. The dashed line is"
    " the unchanged model; the band left spans its {metric} under three sampling seeds: trust no"
    " change that is smaller than the band is wide. A gate of 1 takes away attention and scale; the"
    " mean gate keeps the scale, so the second bar shows what attention to image and noise alone is"
    " worth."
)
WAY_LABELS = {"one": "gate 1", "mean": "gate at its mean"}
BAR = 0.38  # height of a bar; two of them share a row


def draw_removals(values: dict, label: str) -> Figure:
    """Draw both measures, a row for each place where the unit is taken out.

    Args:
        values: the results of the analysis.
        label: what the distance is called.
    """
    rows, base = values["removals"], values["baseline"]
    names = list(dict.fromkeys(row["name"] for row in rows))
    with style():
        figure = Figure(figsize=(WIDTH, 2.6 + 0.42 * len(names)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for index, way in enumerate(WAY_LABELS):
            of_way = [row for row in rows if row["way"] == way]
            _draw_bars(left, [row["distance"] for row in of_way], index)
            errors = [row["loss_change_standard_error"] for row in of_way]
            _draw_bars(right, [row["loss"] for row in of_way], index, errors)
        seeds = [base["distance"], *base["distance_of_other_seeds"]]
        left.axvspan(min(seeds), max(seeds), color=INK, alpha=0.15, linewidth=0)
        dashed: dict[str, Any] = {"color": INK, "linestyle": (0, (4, 3)), "linewidth": 1.2}
        left.axvline(base["distance"], **dashed)
        right.axvline(base["loss"], **dashed)
        left.set_yticks(range(len(names)), names)
        left.invert_yaxis()
        left.set(xlabel=label, ylabel="unit taken out of")
        right.set(xlabel="training loss")
        handles = [
            Patch(label=WAY_LABELS[way], **_fill(index)) for index, way in enumerate(WAY_LABELS)
        ]
        line = Line2D([], [], label="unchanged model", **dashed)
        explain(figure, TITLE, HOW_TO_READ.format(metric=label), [*handles, line])
    return figure


def _draw_bars(
    axes: Axes, lengths: list[float], index: int, errors: list[float] | None = None
) -> None:
    places = np.arange(len(lengths)) + (index - 0.5) * BAR
    axes.barh(places, lengths, height=BAR, xerr=errors, ecolor=INK, capsize=2, **_fill(index))
    axes.grid(visible=False, axis="y")


def _fill(index: int) -> dict[str, Any]:
    drawn = look(index)
    return {"facecolor": drawn.fill, "edgecolor": drawn.colour, "hatch": drawn.hatch}
