"""The two marks that a metric is held against: the floor, and a Gaussian in pixels."""

from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from uvit_dia.plots.style import DASHED, INK, log_axis

LOG_RATIO = 20.0  # an axis is logarithmic where its largest value is so many times its smallest
SQUASHED = 0.45  # an axis is broken where its values would fill less of it than this
DOTTED: dict[str, Any] = {**DASHED, "linestyle": (0, (1, 2))}


@dataclass(frozen=True)
class Floor:
    """Real images against real images: what a perfect sampler can expect, with its spread or 0."""

    value: float
    spread: float


def axes_with_floor(drawn: Figure, low: float, high: float, floor: Floor | None) -> Axes:
    """Return axes for values with the floor in them, or under a break where it would squash them.

    Args:
        drawn: the figure that the axes become part of.
        low: the lowest value.
        high: the highest.
        floor: to be drawn, if there is one.
    """
    bottom = low if floor is None else min(low, floor.value)
    is_log = bottom > 0 and high / low > LOG_RATIO
    span = high - low
    if floor is None or is_log or span <= 0 or span >= SQUASHED * (max(high, floor.value) - bottom):
        axes = drawn.add_subplot()
        if is_log:
            log_axis(axes, high / bottom)
        if floor is not None:
            _draw_floor(axes, floor)
        return axes
    upper, lower = drawn.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [8, 1], "hspace": 0.04}
    )
    _draw_floor(upper, floor)  # not seen there, but named in the legend
    _draw_floor(lower, floor)
    upper.set_ylim(low - 0.08 * span, high + 0.08 * span)
    _break_below(upper, lower, floor)
    return upper


def _break_below(upper: Axes, lower: Axes, floor: Floor) -> None:
    """Make two axes look like one with a break, the floor in the lower part."""
    half = max(0.5 * abs(floor.value), 1.5 * floor.spread, 1e-6)
    lower.set_ylim(floor.value - half, floor.value + half)
    lower.yaxis.set_major_locator(FixedLocator([floor.value]))
    lower.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    lower.grid(visible=False, axis="y")
    upper.spines["bottom"].set_visible(False)
    upper.tick_params(bottom=False)
    slash: dict[str, Any] = {"marker": [(-1, -0.6), (1, 0.6)], "markersize": 9, "linestyle": "none"}
    slash |= {"color": INK, "markeredgecolor": INK, "clip_on": False}
    upper.plot([0], [0], transform=upper.transAxes, **slash)
    lower.plot([0], [1], transform=lower.transAxes, **slash)


def _draw_floor(axes: Axes, floor: Floor) -> None:
    axes.axhline(floor.value, label="floor: real against real", **DASHED)
    if floor.spread > 0:
        ends = (floor.value - floor.spread, floor.value + floor.spread)
        axes.axhspan(*ends, color=INK, alpha=0.12, linewidth=0)


def draw_gaussian_mark(axes: Axes, value: float) -> None:
    """Draw the second mark if it lies in the axes or near; else name it in the legend alone."""
    low, high = axes.get_ylim()
    is_near = low - 0.5 * (high - low) <= value <= high + 0.5 * (high - low)
    label = f"Gaussian in pixels: {value:.3g}"
    if is_near:
        axes.axhline(value, label=label, **DOTTED)
    else:
        where = "above" if value > high else "below"
        axes.plot([], [], label=f"{label} ({where} the axis)", **DOTTED)
