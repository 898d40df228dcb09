"""Pearson correlation of the attention maps of different blocks (Fig. 2, arXiv:2210.16101).

For an image, the correlation of two blocks is that of their attention maps over the D channels. A
map that is the same number in all channels, as that of a unit which starts as the identity and was
never trained, has none.
"""

import numpy as np
import torch
from accelerate import Accelerator
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
    "Left: mean over images of the Pearson correlation of two blocks' attention maps, over the"
    " channels; 1 means that both weigh the channels alike, 0 that they have nothing in common;"
    " grey is undefined (a map without a pattern). Right: the same correlations before averaging,"
    " one an image and pair of blocks; the dashed line is their mean."
)


def map_correlations(maps: Tensor) -> Tensor:
    """Correlate the maps of every two blocks, image by image.

    Args:
        maps: (n, N, D) attention maps of n blocks and N images.

    Returns:
        (N, n, n) float64; NaN where a map is constant over the channels.
    """
    values = maps.double().transpose(0, 1)  # N n D
    centred = values - values.mean(dim=-1, keepdim=True)
    norms = centred.norm(dim=-1, keepdim=True)  # N n 1
    is_constant = norms <= CONSTANT * values.norm(dim=-1, keepdim=True)
    unit_vectors = centred / torch.where(is_constant, torch.nan, norms)
    return (unit_vectors @ unit_vectors.transpose(1, 2)).clamp(-1, 1)


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
    }
    said = f"mean {mean:.3f}" if defined.size else "undefined, all maps are constant"
    return AnalysisResult(
        title=TITLE,
        how_to_read=HOW_TO_READ,
        summary=(
            f"correlation between blocks: {said}; {seen.maps.shape[1]} images, {len(seen.blocks)}"
            " blocks"
        ),
        facts=facts,
        values=values,
        figure=_draw(matrix, counts, edges, mean, seen.blocks),
    )


def _mean_over_images(correlations: np.ndarray) -> np.ndarray:
    """Average over the images where a correlation is defined; NaN where it is for none."""
    is_defined = np.isfinite(correlations)
    count = is_defined.sum(axis=0)
    total = np.where(is_defined, correlations, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _draw(
    matrix: np.ndarray, counts: np.ndarray, edges: np.ndarray, mean: float, blocks: tuple[int, ...]
) -> Figure:
    with style():
        figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
        low = -1.0 if np.nanmin(matrix, initial=0.0) < 0 else 0.0
        image = draw_heat_map(left, matrix, low=low, high=1.0)
        figure.colorbar(image, ax=left, label="mean correlation", shrink=0.9)
        label_blocks(left, blocks, along="x")
        label_blocks(left, blocks, along="y")
        left.set(xlabel="block", ylabel="block")
        drawn = look(0)
        shares = counts / max(1, counts.sum())
        right.stairs(shares, edges, fill=True, facecolor=drawn.fill, edgecolor=drawn.colour)
        if np.isfinite(mean):
            right.axvline(mean, color=INK, linestyle=(0, (4, 3)), linewidth=1.2)
        filled = edges[:-1][counts > 0]  # lower edges; single images go below the means on the left
        lowest = float(filled.min(initial=0.0))
        right.set(xlabel="correlation", ylabel="share of image-pair values", xlim=(lowest, 1.0))
        explain(figure, TITLE, HOW_TO_READ)
    return figure
