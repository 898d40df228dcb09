"""How figures look, and how they are saved: the same bytes each time, legible without colour and on dark pages.

Colours are Okabe and Ito's (2008), which people with the common colour blindnesses tell apart; every series also has
a marker, a line style and a hatch of its own, so that it reads in black and white. Text is drawn as outlines, so a
figure looks the same wherever it is opened.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

INK = "#1b1f24"  # text and axes; becomes the page's text colour where a figure stands in a page
GRID = "#d3d7dc"
PAPER = "#fffffe"  # a white that no data has, so that a page can take it out
DOTS_PER_INCH = 200
WIDTH = 6.8  # inches, of every figure
LINE_LETTERS = 78  # that a legend's line may hold
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
    """Draw and save within this context."""
    with rc_context(RC):
        yield


def log_axis(axes: Axes, ratio: float) -> None:
    """Make the vertical axis logarithmic, with plain numbers; ratio is that of its largest to its smallest value."""
    axes.set_yscale("log")
    subs = (1, 2, 5) if ratio > 30 else (1, 2, 3, 5) if ratio > 6 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def add_legend(figure: Figure, handles: Sequence[Any]) -> None:
    """Put one legend above a figure, in as many columns as fit its width."""
    labels = [handle.get_label() for handle in handles]
    columns = next(
        n for n in range(len(labels), 0, -1) if n == 1 or _width(labels, n) <= LINE_LETTERS
    )
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


def page_svg(svg: bytes, *, prefix: str, label: str) -> str:
    """Return an SVG as an element of an HTML page.

    Its names get a prefix, since several figures share the page; ink and paper take the page's colours, so that the
    figure follows a dark page and a print of it; nothing in it points outside the page.

    Args:
        svg: as `svg_bytes` gives it.
        prefix: letters, other for each figure of a page.
        label: what the figure shows, for those who cannot see it; plain text.
    """
    from html import escape

    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(|href=")#([^")]*)', text))
    text = re.sub(
        r'\sid="([^"]*)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", text
    )
    text = re.sub(r"url\(#", f"url(#{prefix}-", text)
    text = re.sub(r'\b(?:xlink:)?href="#', f'href="#{prefix}-', text)
    text = text.replace("xlink:href", "href")
    text = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", text)
    text = text.replace(INK, "currentColor").replace(GRID, "var(--grid)")
    text = text.replace(PAPER, "var(--paper)")
    opening, rest = text.split(">", 1)
    width = re.search(r'\bwidth="([\d.]+)pt"', opening)
    opening = re.sub(r'\s(?:width|height)="[^"]*pt"', "", opening)
    size = f' style="max-width:{float(width[1]) * 4 / 3:.0f}px"' if width else ""
    return f'{opening} role="img" aria-label="{escape(label)}"{size}>{rest}'
