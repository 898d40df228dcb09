"""What the page draws: grids as PNG within the page, gates as a heat map, and the files to take."""

import base64
import csv
import html
import io
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from uvit_dia.data.image_grid import image_grid, png_bytes
from uvit_dia.demo.unfolding import Frame
from uvit_dia.sampling.animation import write_grids
from uvit_dia.system.files import write_atomically

NOISED, MEANT = "noised x_t", "predicted x_0"  # what the network sees, and what it makes of it
VIEWS = (NOISED, MEANT)
MEAN, CHANGE = "mean", "change along the run"
GATE_VIEWS = (MEAN, CHANGE)
GAP = 8  # pixels between the grids of two models in one file

# matplotlib's viridis (CC0) at ten places: lighter means more, without colour too.
VIRIDIS = (
    *("#440154", "#482878", "#3e4989", "#31688e", "#26828e"),
    *("#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"),
)
# ColorBrewer's RdBu, from less to more; its middle is no change.
LESS_OR_MORE = ("#2166ac", "#67a9cf", "#d1e5f0", "#f7f7f7", "#fddbc7", "#ef8a62", "#b2182b")
# Of the heat map, in units that are about a pixel on a phone.
WIDTH, LEFT, TOP, ROW, BELOW = 360, 34, 22, 16, 50
NAMED_ROWS = 13  # of more blocks every second, third ... is named
HEADINGS = {
    MEAN: "mean gate over images and channels",
    CHANGE: "the same, relative to the block's average",
}


def shown_images(frame: Frame, view: str) -> Tensor:
    """Return the images of a frame that a view shows, (N, C, H, W) uint8."""
    return frame.x_t if view == NOISED else frame.x_0


def picture(frame: Frame, view: str, labels: Tensor | None, model: str) -> str:
    """Return a frame's grid as HTML that loads nothing.

    Args:
        frame: of a model.
        view: one of `VIEWS`.
        labels: classes of the images, (N,) int64, for the grid's rows.
        model: its name, for who cannot see it.
    """
    images = shown_images(frame, view)
    data = base64.b64encode(png_bytes(image_grid(images, labels))).decode()
    what = "the images" if math.isnan(frame.timestep) else f"{view}, at {place_of(frame)}"
    text = html.escape(f"{model}: grid of {len(images)}, {what}", quote=True)
    return f'<img class="grid" alt="{text}" src="data:image/png;base64,{data}">'


def place_of(frame: Frame) -> str:
    """Say in words where in the run a frame is."""
    if math.isnan(frame.timestep):
        return f"the end, after {frame.call} calls of the network"
    return f"call {frame.call}, timestep {frame.timestep:.0f}"


def gates_of(frames: Sequence[Frame]) -> Tensor | None:
    """Return the gates along a trajectory, (n, calls); None without a unit."""
    found = [frame.gates for frame in frames if frame.gates is not None]
    return torch.stack(found, dim=1) if found else None


def heat_map(
    frames: Sequence[Frame],
    blocks: Sequence[int],
    *,
    columns: int,
    view: str = MEAN,
    chosen: int | None = None,
) -> str:
    """Return the gates of each block along a trajectory as SVG: a row a block, a column a call.

    Args:
        frames: of one model, so far.
        blocks: the blocks that carry its unit, ascending.
        columns: how many calls there will be about; those to come stay empty.
        view: one of `GATE_VIEWS`.
        chosen: the place of the frame that is marked.
    """
    gates = gates_of(frames)
    if gates is None:
        return '<p class="no-gates">This model has no attention unit, and so no gates.</p>'
    values, colours, low, high = _scaled(gates, view)
    columns = max(columns, gates.shape[1])
    wide, bottom = (WIDTH - LEFT - 2) / columns, TOP + ROW * len(blocks)
    parts = [
        f'<text x="{LEFT - 5}" y="12" text-anchor="end">block</text>',
        f'<text x="{LEFT}" y="12">{HEADINGS[view]}</text>',
        f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - 2}" height="{ROW * len(blocks)}" '
        'class="to-come"/>',
    ]
    for row, block in enumerate(blocks):
        y = TOP + ROW * row
        if row % -(-len(blocks) // NAMED_ROWS) == 0:
            parts.append(f'<text x="{LEFT - 5}" y="{y + 12}" text-anchor="end">{block}</text>')
        for column, value in enumerate(values[row].tolist()):
            share = (value - low) / (high - low)
            parts.append(
                f'<rect x="{LEFT + wide * column:.2f}" y="{y}" width="{wide + 0.2:.2f}" '
                f'height="{ROW - 1}" fill="{colour_at(share, colours)}"/>'
            )
    if chosen is not None and chosen < gates.shape[1]:
        parts.append(
            f'<rect x="{LEFT + wide * chosen:.2f}" y="{TOP - 2}" width="{wide:.2f}" '
            f'height="{bottom - TOP + 3}" class="chosen"/>'
        )
    parts += _axis(frames, bottom, LEFT + wide * gates.shape[1])
    parts += _colour_bar(bottom + 24, colours, low, high, view)
    text = (
        f"Gates of {len(blocks)} blocks over {gates.shape[1]} calls of the network: "
        f"{HEADINGS[view]}, from {_number(values.min(), view)} to {_number(values.max(), view)}"
    )
    return (
        f'<svg class="gates" role="img" aria-label="{html.escape(text, quote=True)}" '
        f'shape-rendering="crispEdges" viewBox="0 0 {WIDTH} {bottom + BELOW}">'
        f"{''.join(parts)}</svg>"
    )


def _scaled(gates: Tensor, view: str) -> tuple[Tensor, Sequence[str], float, float]:
    """Return what is drawn, its colours, and the values at their ends."""
    if view == MEAN:
        low, high = float(gates.min()), float(gates.max())
        return gates, VIRIDIS, low, max(high, low + 1e-3)
    average = gates.mean(dim=1, keepdim=True)
    change = 100 * (gates / average - 1)
    end = max(float(change.abs().max()), 0.1)
    return change, LESS_OR_MORE, -end, end


def colour_at(share: float, colours: Sequence[str]) -> str:
    """Return the colour at a share in [0, 1] of the way through a list of colours."""
    place = min(max(share, 0.0), 1.0) * (len(colours) - 1)
    first = min(int(place), len(colours) - 2)
    part = place - first
    ends = [bytes.fromhex(colours[first + end][1:]) for end in (0, 1)]
    mixed = (round(a + (b - a) * part) for a, b in zip(*ends, strict=True))
    return "#" + bytes(mixed).hex()


def _axis(frames: Sequence[Frame], y: float, right: float) -> list[str]:
    told = [frame for frame in frames if frame.gates is not None]
    first, last = (f"{frame.timestep:.0f}" for frame in (told[0], told[-1]))
    texts = [
        f'<text x="{LEFT}" y="{y + 14}">timestep {first}</text>',
    ]
    if len(told) > 1 and right > LEFT + 110:
        texts.append(f'<text x="{right:.1f}" y="{y + 14}" text-anchor="end">{last}</text>')
    return texts


def _colour_bar(y: float, colours: Sequence[str], low: float, high: float, view: str) -> list[str]:
    pieces, wide, x = 40, 120, LEFT + 120
    bar = [
        f'<rect x="{x + wide * k / pieces:.1f}" y="{y}" width="{wide / pieces + 0.2:.1f}" '
        f'height="9" fill="{colour_at(k / (pieces - 1), colours)}"/>'
        for k in range(pieces)
    ]
    return [
        f'<text x="{x - 6}" y="{y + 9}" text-anchor="end">{_number(low, view)}</text>',
        *bar,
        f'<text x="{x + wide + 6}" y="{y + 9}">{_number(high, view)}</text>',
    ]


def _number(value: float | Tensor, view: str) -> str:
    return f"{float(value):.2f}" if view == MEAN else f"{float(value):+.1f}%"


# ---------------------------------------------------------------- files


def write_files(
    folder: Path,
    steps: Sequence[Sequence[Frame]],
    *,
    view: str,
    labels: Tensor | None,
    models: Sequence[tuple[str, Sequence[int]]],
) -> list[Path]:
    """Write what a visitor may take along: the grid, animations, the gates.

    Args:
        folder: that is there.
        steps: of a run: for each step the frames of the models.
        view: which images the animation shows before its end, one of `VIEWS`.
        labels: classes of the images, for the grid's rows.
        models: name and blocks of each.

    Returns:
        `grid.png`, `unfolding.gif`, `unfolding.webp`, and `gates.csv` if a model has a unit.
    """
    grids = [
        side_by_side([image_grid(shown_images(f, view), labels) for f in frames])
        for frames in steps
    ]
    paths = [folder / name for name in ("grid.png", "unfolding.gif", "unfolding.webp")]
    write_atomically(paths[0], png_bytes(grids[-1]))
    for path in paths[1:]:
        write_grids(path, grids)
    rows = gate_rows(steps, models)
    if rows:
        paths.append(folder / "gates.csv")
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(("model", "block", "call", "timestep", "mean_gate"))
        table.writerows(rows)
        write_atomically(paths[-1], text.getvalue().encode())
    return paths


def gate_rows(
    steps: Sequence[Sequence[Frame]], models: Sequence[tuple[str, Sequence[int]]]
) -> list[tuple[str, int, int, float, float]]:
    """Return the gates as rows: model, block, call, timestep, mean gate."""
    return [
        (name, block, frames[place].call, round(frames[place].timestep, 3), round(value, 6))
        for place, (name, blocks) in enumerate(models)
        for frames in steps
        if (gates := frames[place].gates) is not None
        for block, value in zip(blocks, gates.tolist(), strict=True)
    ]


def side_by_side(grids: Sequence[Tensor]) -> Tensor:
    """Return grids, (C, height, width) uint8, next to each other on white."""
    gap = torch.full((*grids[0].shape[:2], GAP), 255, dtype=torch.uint8)
    parts = [part for grid in grids for part in (gap, grid)][1:]
    return torch.cat(parts, dim=2)
