"""What a gradient analysis says, and its picture: boxes of single entries, a group a block."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from uvit_dia.analysis.gradient_statistics import BlockGradients
from uvit_dia.analysis.result import AnalysisResult
from uvit_dia.plots.parts import BOX_SENTENCE, draw_boxes, explain, label_blocks
from uvit_dia.plots.style import PAPER, WIDTH, look, style

MAX_DECADES = 9  # of the picture


TITLE = "Gradients of the training loss at each block's output"
HOW_TO_READ = (
    "Size of single entries of the gradient of an image's loss by a block's output; block 0"
    f" is nearest to the input. {BOX_SENTENCE} The hollow mark is the root mean square. Taller is a"
    " stronger training signal there, and a steep slope from block to block is one that vanishes"
    " or explodes on its way."
)


def describe_gradients(
    found: Mapping[str, BlockGradients], facts: dict[str, object]
) -> AnalysisResult:
    """Set beside each other what was found in networks of any kind.

    Args:
        found: by name, in the order of the picture.
        facts: what the numbers depend on.
    """
    runs = [
        {"name": name, "blocks": list(range(len(one.mean))), **one.as_dict()}
        for name, one in found.items()
    ]
    said = "; ".join(
        f"{name} {one.root_mean_square[0]:.3g} at block 0, {one.root_mean_square[-1]:.3g} at the"
        " last"
        for name, one in found.items()
    )
    return AnalysisResult(
        title=TITLE,
        how_to_read=HOW_TO_READ,
        summary=f"root mean square gradient: {said}",
        facts=facts,
        values={"runs": runs},
        figure=_draw(found),
    )


def _draw(found: Mapping[str, BlockGradients]) -> Figure:
    with style():
        figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
        axes = figure.add_subplot()
        width = 0.8 / len(found)
        handles = []
        for index, (name, one) in enumerate(found.items()):
            drawn = look(index)
            places = np.arange(len(one.mean)) + width * (index - (len(found) - 1) / 2)
            boxes = one.absolute_quantiles
            draw_boxes(axes, boxes.tolist(), places.tolist(), width=0.82 * width, index=index)
            axes.plot(
                places,
                one.root_mean_square,
                drawn.marker,
                markersize=5,
                markeredgecolor=drawn.colour,
                markerfacecolor=PAPER,
            )
            fill = {"facecolor": drawn.fill, "edgecolor": drawn.colour, "hatch": drawn.hatch}
            handles.append(Patch(label=name, **fill))  # type: ignore[arg-type]
        shown = [(one.absolute_quantiles.ravel(), one.root_mean_square) for one in found.values()]
        _log_axis(axes, np.concatenate([part for parts in shown for part in parts]))
        blocks = range(max(len(one.mean) for one in found.values()))
        label_blocks(axes, blocks, along="x")
        axes.set_xlim(-0.6, len(blocks) - 0.4)
        axes.grid(visible=False, axis="x")
        axes.set(xlabel="block, in the order of the data", ylabel="absolute gradient entry")
        explain(figure, TITLE, HOW_TO_READ, handles)
    return figure


def _log_axis(axes: Axes, values: np.ndarray) -> None:
    """Make the vertical axis logarithmic, over `MAX_DECADES` at most; 0 lies below it."""
    above = values[values > 0]
    if not above.size:
        return
    high = float(above.max())
    axes.set_yscale("log")
    axes.set_ylim(max(float(above.min()), high * 10.0**-MAX_DECADES) / 1.5, high * 2)
    axes.yaxis.set_major_locator(LogLocator(subs=(1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
