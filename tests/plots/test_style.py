"""The style of all figures: what is drawn does not depend on the user's matplotlib."""

import io
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from uvit_dia.plots.style import LOOKS, WIDTH, add_legend, figure, png_bytes, svg_bytes

OF_THE_USER: dict[str, Any] = {
    "text.usetex": True,
    "lines.markersize": 20,
    "axes.titleweight": "bold",
    "axes.prop_cycle": mpl.cycler(color=["red"]),
    "axes.formatter.limits": (0, 0),
    "axes.xmargin": 0.4,
    "figure.dpi": 30,
    "figure.subplot.left": 0.3,
    "font.family": "serif",
    "image.cmap": "gray",
    "legend.fontsize": 30,
    "savefig.bbox": "standard",
    "savefig.dpi": 20,
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "other",
}


@pytest.fixture
def users_settings() -> Iterator[None]:
    with mpl.rc_context(OF_THE_USER):
        yield


def draw() -> tuple[bytes, bytes]:
    with figure(height=3.0) as drawn:
        axes = drawn.add_subplot()
        axes.plot([0, 1e6], [1, 2], "o", label="a line")
        axes.imshow(np.eye(2), extent=(0, 1e6, 1, 2), aspect="auto")
        axes.set_title("a title")
        add_legend(drawn, axes.get_legend_handles_labels()[0])
    return png_bytes(drawn), svg_bytes(drawn)


PLAIN = draw()


@pytest.mark.usefixtures("users_settings")
def test_the_users_settings_change_no_figure() -> None:
    assert draw() == PLAIN


@pytest.mark.usefixtures("users_settings")
def test_the_users_settings_are_there_again_afterwards() -> None:
    before = dict(mpl.rcParams)
    draw()
    assert dict(mpl.rcParams) == before


def test_a_figure_needs_no_pyplot_and_has_the_width_of_all() -> None:
    with figure(height=2.0) as drawn:
        drawn.add_subplot()
    assert type(drawn.canvas).__name__ == "FigureCanvasAgg"
    assert drawn.get_size_inches() == pytest.approx([WIDTH, 2.0])
    with Image.open(io.BytesIO(png_bytes(drawn))) as picture:
        assert picture.info["dpi"][0] == pytest.approx(200, abs=1)


def test_looks_differ_in_colour_marker_line_and_hatch() -> None:
    for attribute in ("colour", "marker", "line", "hatch"):
        assert len({str(getattr(one, attribute)) for one in LOOKS}) == len(LOOKS), attribute


def test_a_legend_of_nothing_is_none() -> None:
    with figure(height=2.0) as drawn:
        add_legend(drawn, [])
    assert not drawn.legends
