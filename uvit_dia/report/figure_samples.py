"""A figure of what the cells sample: one preview a variant and batch size, all of one seed."""

import math
import re
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, UnidentifiedImageError

from uvit_dia.plots.style import GRID, WIDTH, figure
from uvit_dia.report.results import SweepResults
from uvit_dia.sweep.cell_files import SAMPLE_NAME
from uvit_dia.sweep.record import CellRecord
from uvit_dia.system.records import number

LABEL_POINTS = 9.0
MAX_SIDE = 4096  # pixels; a larger preview is not read
MAX_COLUMNS = 4  # of variants, where there is but one batch size
MAX_TILES = 5  # images a row and column of a preview that are shown
GRID_MARGIN = 2  # pixels between the images of a preview, as the trainer writes it
MIN_GRID_SIDE = 32  # pixels to which the trainer enlarges smaller images


def samples_figure(results: SweepResults) -> Figure | None:
    """Draw a montage of the newest previews: batch sizes across, variants down.

    Where there is but one batch size, the variants stand across, and go on in further rows.
    """
    sizes, variants = results.plan.batch_sizes, results.plan.variants
    seed = _seed_with_most_previews(results)
    if seed is None:
        return None
    cells = {(c.cell.variant, c.cell.batch_size): c for c in results.cells if c.cell.seed == seed}
    shown = [cells.get((variant, size)) for variant in variants for size in sizes]
    is_single = len(sizes) == 1
    columns = min(MAX_COLUMNS, len(variants)) if is_single else len(sizes)
    rows = -(-len(shown) // columns)
    side = (WIDTH - 0.4) / max(columns, 2)
    with figure(0.5 + (side + 0.12) * rows, width=0.4 + side * columns) as drawn:
        grid = drawn.subplots(rows, columns, squeeze=False)
        for place, axes in enumerate(grid.flat):
            if place >= len(shown):
                axes.remove()
                continue
            _draw_preview(axes, shown[place])
            if is_single:
                axes.set_title(_wrapped(variants[place], side), fontsize=LABEL_POINTS)
            elif place < columns:
                axes.set_title(str(sizes[place]), fontsize=9.5)
            if not is_single and place % columns == 0:
                axes.set_ylabel(_wrapped(variants[place // columns], side), fontsize=LABEL_POINTS)
        drawn.suptitle(f"batch size {sizes[0]}" if is_single else "batch size", fontsize=9.5)
    return drawn


def _wrapped(name: str, side: float) -> str:
    """Break a name after underscores, where it is longer than so many inches."""
    # a letter of DejaVu Sans is 0.62 of its height wide, on average
    letters = int(side * 72 / (0.62 * LABEL_POINTS))
    lines = [""]
    for part in re.findall(r"[^_]*_?", name):
        if lines[-1] and len(lines[-1]) + len(part) > letters:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _seed_with_most_previews(results: SweepResults) -> int | None:
    """Return the training seed that most cells have a preview of; the smallest of several."""
    counts = {
        seed: sum(1 for c in results.cells if c.cell.seed == seed and c.sample is not None)
        for seed in results.plan.seeds
    }
    seed = max(counts, key=lambda s: (counts[s], -s))
    return seed if counts[seed] else None


def _draw_preview(axes: Axes, cell: CellRecord | None) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(GRID)
    image = None if cell is None or cell.sample is None else _read_preview(cell, cell.sample)
    if image is None or cell is None or cell.sample is None:
        state = "not planned" if cell is None else cell.state
        axes.set_aspect("equal")
        axes.text(0.5, 0.5, f"no preview\n({state})", ha="center", va="center", fontsize=8)
        return
    axes.imshow(image, interpolation="none", cmap="gray", vmin=0, vmax=255)
    name = SAMPLE_NAME.fullmatch(cell.sample.name)
    step = int(name[1]) if name else 0
    if step != cell.cell.num_steps:
        axes.set_xlabel(f"step {step} of {cell.cell.num_steps}", fontsize=7.5)


def _read_preview(cell: CellRecord, path: Path) -> np.ndarray | None:
    """Return the upper left images of a preview, (H, W, 3) uint8; None where it cannot be read."""
    try:
        with Image.open(path) as picture:
            if max(picture.size) > MAX_SIDE:
                return None
            pixels = np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError):
        return None
    pitch, columns = _tiling(cell)
    if columns > MAX_TILES and pixels.shape[1] == columns * pitch + GRID_MARGIN:
        end = MAX_TILES * pitch + GRID_MARGIN
        pixels = pixels[:end, :end]
    return pixels


def _tiling(cell: CellRecord) -> tuple[int, int]:
    """Return the distance of a preview's images in pixels and their number a row; 0 if unknown."""
    model, sample = cell.config.get("model"), cell.config.get("sample")
    if not isinstance(model, dict) or not isinstance(sample, dict):
        return 0, 0
    side, count = number(model.get("img_size")), number(sample.get("grid_images"))
    if not (side >= 1 and count >= 1):
        return 0, 0
    scale = max(1, math.ceil(MIN_GRID_SIDE / side))
    return int(side) * scale + GRID_MARGIN, math.ceil(math.sqrt(count))
