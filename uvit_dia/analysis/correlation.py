"""Pearson correlation of the attention maps of different blocks (Fig. 2, arXiv:2210.16101).

For an image, the correlation of two blocks is that of their attention maps over the D channels. A
map that is the same number in all channels, as that of a unit which starts as the identity and was
never trained, has none.

A map is a pattern that all images have, its mean over images, and what an image adds to it. Maps
may be alike in the first alone, which needs no attention, so both are also correlated by
themselves; this is ours, not the paper's.
"""

from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from uvit_dia.analysis.arguments import AnalysisArguments
from uvit_dia.analysis.probe import Observations, observe
from uvit_dia.analysis.result import AnalysisResult
from uvit_dia.analysis.subject import make_subject, require_unit
from uvit_dia.plots.parts import (
    QUANTILES,
    draw_heat_map,
    explain,
    label_blocks,
    quantiles,
)
from uvit_dia.plots.style import INK, WIDTH, look, style
from uvit_dia.runs.trained_model import TrainedModel

NUM_BINS = 40  # of the distribution, from -1 to 1
CONSTANT = (
    1e-6  # a map whose deviations are smaller than this part of it is rounding, not a pattern
)
TITLE = "Correlation of attention maps between blocks"
HOW_TO_READ = (
    "Top left: mean over images of the Pearson correlation of two blocks' attention maps, over the"
    " channels; 1 means that both weigh the channels alike, 0 that they have nothing in common;"
    " grey is undefined (a map without a pattern). Top right: the same correlations before"
    " averaging, one an image and pair of blocks; the dashed line is their mean. Bottom: the same"
    " of two parts of the maps: their mean over images (left), and what each image adds to it"
    " (right, mean over images). The right one alone needs attention."
)


def map_correlations(maps: Tensor, static: Tensor | None = None) -> Tensor:
    """Correlate the maps of every two blocks, image by image.

    Args:
        maps: (n, N, D) attention maps of n blocks and N images.
        static: (n, 1, D), what is taken off the maps first; None for nothing.

    Returns:
        (N, n, n) float64; NaN where what is left of a map is constant over the channels, up to
        rounding of the map.
    """
    values = maps.double().transpose(0, 1)  # N n D
    left = values if static is None else values - static.double().transpose(0, 1)
    centred = left - left.mean(dim=-1, keepdim=True)
    norms = centred.norm(dim=-1, keepdim=True)  # N n 1
    is_constant = norms <= CONSTANT * values.norm(dim=-1, keepdim=True)
    unit_vectors = centred / torch.where(is_constant, torch.nan, norms)
    return (unit_vectors @ unit_vectors.transpose(1, 2)).clamp(-1, 1)


def split_correlations(maps: Tensor) -> dict[str, np.ndarray]:
    """Correlate apart what all images have in common and what varies between them.

    Args:
        maps: (n, N, D) attention maps of n blocks and N images.

    Returns:
        `static_matrix`: (n, n), of the maps' means over images. `varying_matrix`: (n, n), mean over
        images of the correlation of what an image adds to that mean. `varying_share`: (n,) part of
        the pattern over channels, in squares, that varies between images. NaN where something has
        no pattern.
    """
    static = maps.double().mean(dim=1, keepdim=True)  # n 1 D
    whole = maps.double() - maps.double().mean(dim=2, keepdim=True)  # n N D
    added = whole - whole.mean(dim=1, keepdim=True)
    size = whole.square().sum(dim=(1, 2))  # n
    floor = CONSTANT**2 * maps.double().square().sum(dim=(1, 2))
    share = added.square().sum(dim=(1, 2)) / torch.where(size > floor, size, torch.nan)
    return {
        "static_matrix": map_correlations(static)[0].numpy(),
        "varying_matrix": _mean_over_images(map_correlations(maps, static).numpy()),
        "varying_share": share.numpy(),
    }


def analyse_correlation(
    arguments: AnalysisArguments, trained: TrainedModel, accelerator: Accelerator
) -> AnalysisResult:
    """Correlate the attention maps of a run.

    Raises:
        InputError: if fewer than two blocks carry a unit.
    """
    require_unit(trained, "correlation", num_blocks=2)
    subject = make_subject(trained, arguments, accelerator)
    return describe_correlation(observe(subject), subject.facts())


def describe_correlation(seen: Observations, facts: dict[str, object]) -> AnalysisResult:
    """Correlate attention maps that were observed in any network with two blocks or more."""
    correlations = map_correlations(seen.maps).numpy()
    pairs = np.triu_indices(len(seen.blocks), k=1)
    between = correlations[:, pairs[0], pairs[1]]  # N pairs
    defined = between[np.isfinite(between)]
    counts, edges = np.histogram(defined, bins=NUM_BINS, range=(-1, 1))
    mean = float(defined.mean()) if defined.size else float("nan")
    matrix = _mean_over_images(correlations)
    parts = split_correlations(seen.maps)
    means = {name: _mean_of(parts[f"{name}_matrix"][pairs]) for name in ("static", "varying")}
    values = {
        "blocks": list(seen.blocks),
        "matrix": matrix,
        "mean": mean,
        "std": float(defined.std()) if defined.size else float("nan"),
        "quantile_levels": list(QUANTILES),
        "quantiles": quantiles(defined) if defined.size else None,
        "histogram_edges": edges,
        "histogram_counts": counts,
        "undefined_share": 1 - defined.size / between.size,
        **parts,
        **{f"{name}_mean": value for name, value in means.items()},
    }
    said = f"mean {mean:.3f}" if defined.size else "undefined, all maps are constant"
    for name, value in means.items():
        said += f", {name} {value:.3f}" if np.isfinite(value) else ""
    return AnalysisResult(
        title=TITLE,
        how_to_read=HOW_TO_READ,
        summary=(
            f"correlation between blocks: {said}; {seen.maps.shape[1]} images, {len(seen.blocks)}"
            " blocks"
        ),
        facts=facts,
        values=values,
        figure=_draw(values),
    )


def _mean_over_images(correlations: np.ndarray) -> np.ndarray:
    """Average over the images where a correlation is defined; NaN where it is for none."""
    is_defined = np.isfinite(correlations)
    count = is_defined.sum(axis=0)
    total = np.where(is_defined, correlations, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _mean_of(values: np.ndarray) -> float:
    """Average what is defined; NaN where nothing is."""
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if defined.size else float("nan")


def _draw(values: dict[str, Any]) -> Figure:
    blocks = values["blocks"]
    with style():
        figure = Figure(figsize=(WIDTH, 8.4), layout="constrained")
        upper, lower = figure.subplots(2, 2, width_ratios=[1.1, 1])
        places = (
            (upper[0], "matrix", "maps"),
            (lower[0], "static_matrix", "mean over images"),
            (lower[1], "varying_matrix", "what images add to it"),
        )
        least = min(np.nanmin(values[key], initial=0.0) for _, key, _ in places)
        low = -1.0 if least < 0 else 0.0  # one scale for all three
        for axes, key, title in places:
            image = draw_heat_map(axes, values[key], low=low, high=1.0)
            figure.colorbar(image, ax=axes, label="correlation", shrink=0.9)
            label_blocks(axes, blocks, along="x")
            label_blocks(axes, blocks, along="y")
            axes.set(xlabel="block", ylabel="block", title=title)
        _draw_distribution(upper[1], values)
        explain(figure, TITLE, HOW_TO_READ)
    return figure


def _draw_distribution(axes: Axes, values: dict[str, Any]) -> None:
    drawn = look(0)
    counts, edges = values["histogram_counts"], values["histogram_edges"]
    shares = counts / max(1, counts.sum())
    axes.stairs(shares, edges, fill=True, facecolor=drawn.fill, edgecolor=drawn.colour)
    if np.isfinite(values["mean"]):
        axes.axvline(values["mean"], color=INK, linestyle=(0, (4, 3)), linewidth=1.2)
    filled = edges[:-1][counts > 0]  # lower edges; single images go below the means on the left
    lowest = float(filled.min(initial=0.0))
    axes.set(xlabel="correlation", ylabel="share of image-pair values", xlim=(lowest, 1.0))
    axes.set_title("maps, image by image")
