"""Parts of the pictures of analyses: title, a sentence that says how to read it, heat maps, boxes.

They look as the figures of reports do (`plots/style.py`). Colour maps are matplotlib's viridis,
which grows in lightness too, and so reads without colour and with every common colour blindness.
"""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from uvit_dia.plots.style import INK, PAPER, add_legend, look

COLOURS = "viridis"
UNKNOWN = "#b8bec6"  # of a cell without a value
LINE_LETTERS = 100  # of the sentence below a figure
MAX_WRITTEN = 14  # rows or columns up to which a heat map's values are written into it
SENTENCE: dict[str, Any] = {
    "fontsize": 8.5,
    "x": 0.01,
    "ha": "left",
    "multialignment": "left",
    "color": INK,
}
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BOX_SENTENCE = (
    "Boxes hold the middle half, their line is the median, whiskers reach from 5% to 95%."
)


def explain(figure: Figure, title: str, sentence: str, handles: Sequence[Any] = ()) -> None:
    """Put a title, and a legend of the handles, above a figure and, below it, how to read it."""
    bold = FontProperties(size=11, weight="bold")
    if handles:
        add_legend(figure, handles)
        # a title of the figure would be drawn over the legend
        figure.legends[0].set_title(title, prop=bold)
    else:
        figure.suptitle(title, fontproperties=bold)
    text = textwrap.fill(sentence, LINE_LETTERS)
    figure.supxlabel(text, **SENTENCE)


def name_subject(figure: Figure, subject: str) -> None:
    """Write below an explained figure what was looked at, such as its run and step."""
    text = f"{figure.get_supxlabel()}\n{textwrap.fill(subject, LINE_LETTERS)}"
    figure.supxlabel(text, **SENTENCE)


def quantiles(values: np.ndarray) -> list[float]:
    """Return what a box shows of the values: the 5, 25, 50, 75 and 95% quantiles."""
    return [float(q) for q in np.quantile(values, QUANTILES)]


def draw_boxes(
    axes: Axes,
    boxes: Sequence[Sequence[float]],
    positions: Sequence[float],
    *,
    width: float,
    index: int,
) -> None:
    """Draw one box for each set of quantiles.

    Args:
        axes: where.
        boxes: what `quantiles` returns, one a box.
        positions: their places.
        width: of a box.
        index: which look of the figures they have.
    """
    drawn = look(index)
    names = ("whislo", "q1", "med", "q3", "whishi")
    axes.bxp(
        [{**dict(zip(names, box, strict=True)), "fliers": []} for box in boxes],
        positions=list(positions),
        widths=width,
        patch_artist=True,
        showfliers=False,
        manage_ticks=False,
        boxprops=drawn.area,
        medianprops={"color": INK, "linewidth": 1.4},
        whiskerprops={"color": drawn.colour},
        capprops={"color": drawn.colour},
    )


def draw_heat_map(
    axes: Axes, values: np.ndarray, *, low: float, high: float, digits: int | None = 2
) -> Any:  # noqa: ANN401
    """Draw a matrix, its first row on top; cells that are NaN stay grey.

    Args:
        axes: where.
        values: (rows, columns).
        low: value of the darkest colour.
        high: value of the lightest.
        digits: decimals written into the cells of a small matrix; None for none.

    Returns:
        The image, for a colour bar.
    """
    from matplotlib import colormaps

    colours = colormaps[COLOURS].with_extremes(bad=UNKNOWN)
    image = axes.imshow(
        np.ma.masked_invalid(values),
        cmap=colours,
        vmin=low,
        vmax=high,
        aspect="auto",
        interpolation="nearest",
    )
    axes.grid(visible=False)
    if digits is not None and max(values.shape) <= MAX_WRITTEN:
        size = 8 if max(values.shape) <= 8 else 6
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                is_light = value > low + 0.6 * (high - low)
                axes.text(
                    column,
                    row,
                    f"{value:.{digits}f}",
                    ha="center",
                    va="center",
                    fontsize=size,
                    color=INK if is_light else PAPER,
                )
    return image


def label_blocks(axes: Axes, blocks: Sequence[int], *, along: str) -> None:
    """Write the blocks' numbers along an axis, "x" or "y", every second one where they are many."""
    places = range(0, len(blocks), 1 if len(blocks) <= 20 else 1 + len(blocks) // 20)
    names = [str(blocks[place]) for place in places]
    if along == "x":
        axes.set_xticks(list(places), names)
    else:
        axes.set_yticks(list(places), names)


def spanned(values: np.ndarray) -> tuple[float, float]:
    """Return lowest and highest finite value, a little apart where they are the same."""
    found = values[np.isfinite(values)]
    low, high = (float(found.min()), float(found.max())) if found.size else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
