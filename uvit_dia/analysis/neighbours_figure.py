"""The picture of `neighbours`: samples beside their nearest training images, and the distances."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from uvit_dia.data.image_grid import image_grid
from uvit_dia.plots.parts import explain
from uvit_dia.plots.style import WIDTH, look, style

ROWS = 6
LABELS = {
    "pixels": "root mean square difference of pixels, in [0, 1]",
    "features": "distance in features",
}


def draw_neighbours(
    samples: Tensor,
    training: Tensor,
    values: Mapping[str, Mapping[str, Any]],
    *,
    compared: str,
    title: str,
    sentence: str,
) -> Figure:
    """Draw the spaces side by side.

    Args:
        samples: (n, C, H, W) uint8.
        training: (N, C, H, W) uint8.
        values: what `neighbours` records, by space.
        compared: whose distances stand beside those of the samples.
        title: of the picture.
        sentence: that says how to read it.
    """
    with style():
        figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
        axes = figure.subplots(2, 2, height_ratios=[1.7, 1])
        for (upper, lower), (space, record) in zip(axes.T, values.items(), strict=True):
            _draw_images(upper, samples, training, record)
            upper.set_title(f"sample, then nearest in {space}")
            for index, (name, key) in enumerate(
                (("samples", "distances"), (compared, "compared_distances"))
            ):
                drawn = look(index)
                rising = np.sort(record[key])
                shares = np.arange(1, len(rising) + 1) / len(rising)
                lower.plot(rising, shares, color=drawn.colour, linestyle=drawn.line, label=name)
            lower.set(xlabel=LABELS[space], ylim=(0, 1), xlim=(0, None))
        axes[1][0].set_ylabel("share of images")
        explain(figure, title, sentence, axes[1][0].get_legend_handles_labels()[0])
    return figure


def _draw_images(axes: Axes, samples: Tensor, training: Tensor, record: Mapping[str, Any]) -> None:
    """Draw the samples nearest to a training image, a row each, with their neighbours."""
    order = np.argsort(record["distances"], kind="stable")[:ROWS]
    neighbours = record["neighbours"]
    rows = [image for n in order for image in (samples[n], *training[neighbours[n]])]
    grid = image_grid(torch.stack(rows), columns=1 + neighbours.shape[1]).permute(1, 2, 0).numpy()
    axes.imshow(grid[..., 0] if grid.shape[2] == 1 else grid, cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()
