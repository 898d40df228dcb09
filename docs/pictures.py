"""The drawings of the docs, made anew by `make pictures`.

The path of the data through a training step, and where the time of one goes.

python docs/pictures.py
"""

import json
from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from uvit_dia.plots.style import INK, figure, look, svg_bytes

FOLDER = Path(__file__).parent / "images"
PROFILE = FOLDER.parents[1] / "results" / "gpu" / "h200" / "profile_f32.json"
PLAIN, NOISE, NET, UNIT = "#f4f5f7", "#dcebf5", "#e3f1ea", "#fbe3d3"
NUM_BLOCKS = 5  # of the quickstart's network
BLOCKS_Y, UNIT_Y, BLOCK_WIDTH, BLOCK_STEP, BLOCK_X = 3.15, 1.5, 1.25, 1.72, 1.95

TURN_Y = 5.05  # where the tokens' way turns back to the first block

Point = tuple[float, float]


def box(axes: Axes, middle: Point, text: str, colour: str, size: Point = (1.6, 0.9)) -> None:
    """Draw a rounded box with text.

    Args:
        axes: where.
        middle: of the box.
        text: in it; lines are broken by hand.
        colour: of its area.
        size: width and height.
    """
    corner = (middle[0] - size[0] / 2, middle[1] - size[1] / 2)
    shape = "round,pad=0,rounding_size=0.1"
    axes.add_patch(
        FancyBboxPatch(corner, *size, boxstyle=shape, facecolor=colour, edgecolor=INK, lw=0.9)
    )
    axes.text(*middle, text, ha="center", va="center", fontsize=8, linespacing=1.35)


def arrow(axes: Axes, start: Point, end: Point, text: str = "", bend: float = 0.0) -> None:
    """Draw an arrow, with text above its middle."""
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=8,
            lw=0.9,
            color=INK,
            shrinkA=0,
            shrinkB=0,
            connectionstyle=f"arc3,rad={bend}",
        )
    )
    if text:
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.07)
        axes.text(*middle, text, ha="center", va="bottom", fontsize=7)


def noising(axes: Axes) -> None:
    """Draw the upper row: image, noise level and noise, noised image, tokens."""
    y = 5.9
    box(axes, (1.0, y), "images x_0\n(B, C, H, W)\nin [-1, 1]", PLAIN)
    box(axes, (4.0, y + 1.1), "t, ε from (seed, step)", NOISE, (2.6, 0.55))
    box(axes, (4.0, y), "x_t = √ᾱ x_0 + √(1-ᾱ) ε\nnoised images", NOISE, (2.6, 0.9))
    box(axes, (7.6, y), "patches, time token\n+ positions\n(B, L, D)", NET, (2.1, 0.9))
    arrow(axes, (1.8, y), (2.7, y))
    arrow(axes, (4.0, y + 0.82), (4.0, y + 0.45))
    arrow(axes, (5.3, y), (6.55, y))
    axes.plot([7.6, 7.6, BLOCK_X], [y - 0.45, TURN_Y, TURN_Y], color=INK, lw=0.9)
    arrow(axes, (BLOCK_X, TURN_Y), (BLOCK_X, BLOCKS_Y + 0.45))


def blocks(axes: Axes) -> None:
    """Draw the row of blocks with their long skips, and the shared unit under it."""
    places = [BLOCK_X + i * BLOCK_STEP for i in range(NUM_BLOCKS)]
    for index, x in enumerate(places):
        text = f"block {index}\nAttn, MLP"
        box(axes, (x, BLOCKS_Y), text, NET, (BLOCK_WIDTH, 0.9))
        arrow(axes, (x - 0.16, BLOCKS_Y - 0.45), (x - 0.16, UNIT_Y + 0.4))
        arrow(axes, (x + 0.16, UNIT_Y + 0.4), (x + 0.16, BLOCKS_Y - 0.45))
        box(axes, (x, UNIT_Y), "cell", UNIT, (BLOCK_WIDTH, 0.8))
    for left, right in pairwise(places):
        ends = (left + BLOCK_WIDTH / 2, right - BLOCK_WIDTH / 2)
        arrow(axes, (ends[0], BLOCKS_Y), (ends[1], BLOCKS_Y))
        arrow(axes, (ends[0], UNIT_Y), (ends[1], UNIT_Y), "h, c")
    for index in range(NUM_BLOCKS // 2):
        start, end = (places[i] + s for i, s in ((index, 0.3), (NUM_BLOCKS - 1 - index, -0.3)))
        top = BLOCKS_Y + 0.46
        arrow(axes, (start, top), (end, top), "", -0.2)
    axes.text(places[2], BLOCKS_Y + 1.5, "long skips", ha="center", fontsize=7.5)
    x = places[0]
    axes.text(x - 0.24, 2.33, "s: mean\nof tokens", ha="right", va="center", fontsize=7)
    axes.text(x + 0.24, 2.33, "gate of D\nchannels", ha="left", va="center", fontsize=7)
    words = "one DIA-LSTM, whose weights all blocks share"
    axes.text(places[2], UNIT_Y - 0.68, words, ha="center", va="center", fontsize=8.5)


def learning(axes: Axes) -> None:
    """Draw the end: prediction, loss, update, average."""
    last = BLOCK_X + (NUM_BLOCKS - 1) * BLOCK_STEP + BLOCK_WIDTH / 2
    x = 11.2
    box(axes, (x, BLOCKS_Y), "prediction\n(B, C, H, W)", NET, (1.5, 0.9))
    arrow(axes, (last, BLOCKS_Y), (x - 0.75, BLOCKS_Y))
    box(axes, (x, 4.6), "loss: squared\ndifference to\nthe target", PLAIN, (1.5, 1.0))
    arrow(axes, (x, BLOCKS_Y + 0.45), (x, 4.1))
    box(axes, (x, 6.0), "gradient, clip,\nAdamW, average", PLAIN, (1.5, 0.9))
    arrow(axes, (x, 5.1), (x, 5.55))


def data_path() -> bytes:
    """Return the drawing of a training step as SVG."""
    with figure(4.8, width=8.2) as drawn:
        axes = drawn.add_subplot()
        axes.set(xlim=(0.1, 12.1), ylim=(0.6, 7.4))
        axes.axis("off")
        noising(axes)
        blocks(axes)
        learning(axes)
        return svg_bytes(drawn)


def step_profile() -> bytes:
    """Return bars of what a step of U-ViT-S/2 does on a GPU, without and with a unit, as SVG."""
    facts = json.loads(PROFILE.read_text())["facts"]
    kinds = list(dict.fromkeys(name.split(maxsplit=2)[2] for name in facts if "total" not in name))
    units = {"none": "no unit", "dia_lstm": "DIA-LSTM"}
    with figure(2.4, width=8.2) as drawn:
        axes = drawn.add_subplot()
        for row, unit in enumerate(units):
            left = 0.0
            for place, kind in enumerate(kinds):
                milliseconds = facts[f"large {unit} {kind}"]
                label = kind.removesuffix(", ms") if row == 0 else None
                area = look(place).area
                axes.barh(row, milliseconds, left=left, height=0.6, label=label, **area)
                left += milliseconds
            axes.text(left + 2, row, f"{left:.0f} ms", va="center", fontsize=9)
        axes.set_yticks(range(len(units)), list(units.values()))
        axes.set_ylim(1.6, -0.6)
        axes.set_xlim(0, 275)
        axes.set_xlabel("milliseconds of a step: U-ViT-S/2, batch 128, float32, one H200")
        drawn.legend(loc="outside upper center", ncols=4, fontsize=8, frameon=False)
        return svg_bytes(drawn)


PICTURES = {"data_path.svg": data_path, "step-profile.svg": step_profile}


def main() -> None:
    """Write all drawings into docs/images."""
    for name, draw in PICTURES.items():
        FOLDER.joinpath(name).write_bytes(draw())


if __name__ == "__main__":
    main()
