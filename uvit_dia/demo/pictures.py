"""What the page draws of a moment: grids of images, maps of gates, and the files to take home."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from uvit_dia.data.image_grid import image_grid, png_bytes
from uvit_dia.demo.session import ShownModel
from uvit_dia.demo.unfolding import Moment
from uvit_dia.sampling.animation import write_animation
from uvit_dia.system.files import write_atomically

# From low to high gates; lightness falls evenly, so that it reads without colour vision too.
COLOURS = ("#f3f0e6", "#b9d3c3", "#6fa9b0", "#33749c", "#1f3f78", "#14133f")
GRID_GAP = 8  # pixels between the grids of two models in a file


def figure_html(shown: ShownModel, moment: Moment, columns: int | None) -> str:
    """Return one model's part of the page at a moment: its images, and the gates up to there.

    Args:
        shown: the model.
        moment: of its sampling.
        columns: images of a row; None for a square.
    """
    what = "Samples" if moment.is_last else f"Noised images at call {moment.calls}"
    grid = _data_url(png_bytes(image_grid(moment.images, columns=columns)))
    name = html.escape(shown.name)
    return (
        f'<figure class="model"><figcaption><strong>{name}</strong><br>'
        f"{html.escape(shown.facts)}</figcaption>"
        f'<img class="grid" src="{grid}" alt="{what} of {name}: {len(moment.images)} images">'
        f"{_gates_html(shown, moment)}</figure>"
    )


def _gates_html(shown: ShownModel, moment: Moment) -> str:
    if moment.gates is None:
        return (
            '<p class="no-gates">No gates: this model has no attention unit'
            f"{'' if shown.blocks == () else ' that was called'}.</p>"
        )
    low, high = float(moment.gates.min()), float(moment.gates.max())
    picture = _data_url(png_bytes(gate_map(moment.gates, moment.num_calls)))
    labels = "".join(f"<span>{block}</span>" for block in shown.blocks)
    text = (
        f"Mean gate of each block (rows) at each network call (columns), {moment.calls} of "
        f"{moment.num_calls} calls: from {low:.2f} to {high:.2f}"
    )
    return (
        '<div class="gates"><p class="title">Mean gate of each block along the trajectory</p>'
        f'<div class="map"><div class="rows" aria-hidden="true">{labels}</div>'
        f'<img src="{picture}" alt="{text}"></div>'
        '<p class="axis" aria-hidden="true"><span>noise</span><span>network calls</span>'
        "<span>images</span></p>"
        f'<p class="scale"><span>{low:.2f}</span><span class="bar" aria-hidden="true" style="'
        f'background:linear-gradient(to right,{",".join(COLOURS)})"></span>'
        f"<span>{high:.2f}</span></p></div>"
    )


def gate_map(gates: Tensor, num_calls: int) -> Tensor:
    """Colour gates from their lowest to their highest value, a pixel each.

    Args:
        gates: (n, calls) float, calls at most num_calls.
        num_calls: width of the picture; calls that are still to come are white.

    Returns:
        (3, n, num_calls) uint8.
    """
    low, high = gates.min(), gates.max()
    place = ((gates - low) / (high - low).clamp_min(1e-9)).numpy()  # n calls, in [0, 1]
    stops = np.linspace(0, 1, len(COLOURS))
    levels = np.array([[int(colour[i : i + 2], 16) for colour in COLOURS] for i in (1, 3, 5)])
    coloured = np.stack([np.interp(place, stops, level) for level in levels])
    picture = torch.full((3, len(gates), num_calls), 255, dtype=torch.uint8)
    picture[:, :, : gates.shape[1]] = torch.from_numpy(coloured.round()).to(torch.uint8)
    return picture


def write_files(
    folder: Path, frames: Sequence[Sequence[Tensor]], columns: int | None
) -> tuple[Path, Path, Path]:
    """Write what a visitor may download.

    Args:
        folder: that is there.
        frames: for each moment the images of each model, (N, C, H, W) uint8.
        columns: images of a row; None for a square.

    Returns:
        The last moment's grid as PNG, and all moments as animated WebP and GIF; the grids of two
        models stand side by side.
    """
    grids = torch.stack([_side_by_side(images, columns) for images in frames])  # F C H W
    still, webp, gif = (folder / name for name in ("grid.png", "forming.webp", "forming.gif"))
    write_atomically(still, png_bytes(grids[-1]))
    for path in (webp, gif):
        write_animation(path, grids[:, None], columns=1)
    return still, webp, gif


def _side_by_side(images: Sequence[Tensor], columns: int | None) -> Tensor:
    grids = [image_grid(each, columns=columns) for each in images]
    channels, height, _ = grids[0].shape
    gap = torch.full((channels, height, GRID_GAP), 255, dtype=torch.uint8)
    parts = [part for grid in grids for part in (gap, grid)][1:]
    return torch.cat(parts, dim=2)


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
