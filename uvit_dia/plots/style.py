"""How figures look and how they are saved: the same bytes on every machine, legible without colour.

Colours are Okabe and Ito's (2008), which people with the common colour blindnesses tell apart.
Every series also has a marker, a line style and a hatch of its own, so that it reads in black and
white. Text is drawn as outlines, so that a figure looks the same wherever it is opened.

Begin a figure with `figure`: neither the user's matplotlibrc nor MPLBACKEND changes it.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

INK = "#1b1f24"  # text and axes
GRID = "#d3d7dc"
PAPER = "#ffffff"
DASHED: dict[str, Any] = {"color": INK, "linestyle": (0, (4, 3)), "linewidth": 1.2}
DOTS_PER_INCH = 200
WIDTH = 6.8  # inches, of every figure
LINE_LETTERS = 78  # that a legend's line may hold in a figure of that width
RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.facecolor": PAPER,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "lines.linewidth": 1.6,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "path",
    "svg.hashsalt": "uvit_dia",
    "text.color": INK,
    "text.parse_math": False,  # a name may hold a dollar sign
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}


@dataclass(frozen=True)
class Look:
    """How a variant is drawn in every figure.

    Attributes:
        colour: of Okabe and Ito's palette.
        marker: matplotlib's letter.
        line: matplotlib's line style.
        hatch: pattern of filled areas.
        fill: colour of filled areas, under the hatch.
    """

    colour: str
    marker: str
    line: Any
    hatch: str
    fill: str = "none"

    @property
    def area(self) -> dict[str, Any]:
        """How a filled area is drawn: a bar, a box, its entry in a legend."""
        return {"facecolor": self.fill, "edgecolor": self.colour, "hatch": self.hatch}


LOOKS = (
    Look("#0072B2", "o", "-", "", fill="#0072B266"),
    Look("#D55E00", "s", (0, (5, 1.5)), "////"),
    Look("#009E73", "^", (0, (1.2, 1.2)), "...."),
    Look("#CC79A7", "D", (0, (6, 1.5, 1.2, 1.5)), "xxxx"),
    Look("#E69F00", "v", (0, (3, 1, 1, 1, 1, 1)), "||||"),
    Look("#56B4E9", "P", (0, (9, 2)), "----"),
    Look("#7F7F7F", "X", (0, (2, 3)), "++++"),
)


def look(index: int) -> Look:
    """Return the look of the variant at a place in the sweep's order."""
    return LOOKS[index % len(LOOKS)]


@contextmanager
def style() -> Iterator[None]:
    """Draw and save within this context: matplotlib's own defaults, then `RC`."""
    with rc_context():
        rcdefaults()
        rcParams.update(RC)
        yield


@contextmanager
def figure(height: float, *, width: float = WIDTH) -> Iterator[Figure]:
    """Begin a figure; draw it within the context.

    Args:
        height: inches.
        width: inches.

    Yields:
        An empty figure with a canvas of its own, which needs no display and no pyplot.
    """
    with style():
        drawn = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(drawn)
        yield drawn


def log_axis(axes: Axes, ratio: float) -> None:
    """Make the vertical axis logarithmic, with plain numbers.

    Args:
        axes: where.
        ratio: of the largest to the smallest value that it shows.
    """
    axes.set_yscale("log")
    subs = (1, 2, 5) if ratio > 30 else (1, 2, 3, 5) if ratio > 6 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def add_legend(figure: Figure, handles: Sequence[Any]) -> None:
    """Put one legend above a figure, in as many columns as fit its width."""
    if not handles:
        return
    labels = [handle.get_label() for handle in handles]
    letters = LINE_LETTERS * figure.get_figwidth() / WIDTH
    columns = next(n for n in range(len(labels), 0, -1) if n == 1 or _width(labels, n) <= letters)
    rows = -(-len(labels) // columns)
    figure.legend(handles=handles, loc="outside upper center", ncols=-(-len(labels) // rows))


def _width(labels: Sequence[str], columns: int) -> int:
    """Return the width of a legend in letters; matplotlib fills it column by column."""
    rows = -(-len(labels) // columns)
    parts = [labels[start : start + rows] for start in range(0, len(labels), rows)]
    return sum(max(map(len, part)) + 8 for part in parts)


def png_bytes(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    return _save(figure, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})


def svg_bytes(figure: Figure) -> bytes:
    """Return a figure as SVG, without a date."""
    none = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    return _save(figure, format="svg", metadata=none)


def _save(figure: Figure, **options: Any) -> bytes:  # noqa: ANN401
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, bbox_inches="tight", pad_inches=0.06, **options)
    return buffer.getvalue()
