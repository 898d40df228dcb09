"""The gates of a run: what multiplies the channels, by block, by channel and by noise level.

The gate is exact: the attention map itself with `gate_init = "paper"`, and `1 + tanh(4 (map -
map_start))` with "identity" (`AttentionUnit.gate`). Its spread has two sources, which are told
apart: channels differ on average, and images (with their noise levels) differ in the same channel.
The second is what makes it attention rather than a scale.
"""

from itertools import pairwise

import numpy as np
from accelerate import Accelerator
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uvit_dia.analysis.arguments import AnalysisArguments
from uvit_dia.analysis.probe import Observations, observe
from uvit_dia.analysis.result import AnalysisResult
from uvit_dia.analysis.subject import make_subject, require_unit
from uvit_dia.plots.parts import (
    BOX_SENTENCE,
    QUANTILES,
    draw_boxes,
    draw_heat_map,
    explain,
    label_blocks,
    quantiles,
    spanned,
)
from uvit_dia.plots.style import INK, WIDTH, style
from uvit_dia.runs.trained_model import TrainedModel

NUM_LEVELS = 10  # equal parts of the training timesteps
TITLE = "What multiplies the channels: the gates"
HOW_TO_READ = (
    f"1 leaves a channel as it is. Top: gates of all images and channels. {BOX_SENTENCE} Middle:"
    " mean over images, channels sorted by their mean over the blocks; stripes are a fixed scale"
    " of channels."
)
HOW_TO_READ_NOISE = (
    " Bottom: mean over images and channels by noise level, from little noise to pure"
    " noise (tenths of the training timesteps); a row of one colour doesn't look at the noise."
)


def gate_statistics(seen: Observations, num_train_timesteps: int | None) -> dict[str, object]:
    """Return mean and spread of the gates by block, by channel and by noise level.

    Args:
        seen: what the units gave.
        num_train_timesteps: T; None of images without noise, which have no `by_timestep`.

    Returns:
        `by_block`: (n,) mean, std over all, std_between_channels (of the channels' means) and
        std_between_images (within a channel, root mean square over the channels), whose squares add
        up to that of std; and quantiles. `by_channel`: (n, D) mean and std over images.
        `by_timestep`: (n, levels) mean and std over images and channels, NaN where no image has
        such a level.
    """
    gates = seen.gates.double().numpy()  # n N D
    channel_means = gates.mean(axis=1)  # n D
    channel_stds = gates.std(axis=1)  # n D
    statistics: dict[str, object] = {
        "blocks": list(seen.blocks),
        "by_block": {
            "mean": gates.mean(axis=(1, 2)),
            "std": gates.std(axis=(1, 2)),
            "std_between_channels": channel_means.std(axis=1),
            "std_between_images": np.sqrt((channel_stds**2).mean(axis=1)),
            "quantile_levels": list(QUANTILES),
            "quantiles": [quantiles(block) for block in gates],
        },
        "by_channel": {"mean": channel_means, "std": channel_stds},
    }
    if seen.timesteps is not None and num_train_timesteps is not None:
        levels = seen.timesteps.numpy() * NUM_LEVELS // num_train_timesteps  # N
        statistics["by_timestep"] = _by_timestep(gates, levels, num_train_timesteps)
    return statistics


def _by_timestep(gates: np.ndarray, levels: np.ndarray, total: int) -> dict[str, object]:
    """Return mean and spread of gates (n, N, D) in each tenth of the `total` timesteps."""
    parts = [gates[:, levels == k] for k in range(NUM_LEVELS)]
    unknown = np.full(len(gates), np.nan)
    return {
        "timestep_edges": [-(-k * total // NUM_LEVELS) for k in range(NUM_LEVELS + 1)],
        "num_images": [part.shape[1] for part in parts],
        "mean": np.stack([p.mean(axis=(1, 2)) if p.size else unknown for p in parts], axis=1),
        "std": np.stack([p.std(axis=(1, 2)) if p.size else unknown for p in parts], axis=1),
    }


def analyse_gates(
    arguments: AnalysisArguments, trained: TrainedModel, accelerator: Accelerator
) -> AnalysisResult:
    """Describe the gates of a run.

    Raises:
        InputError: if the run has no unit.
    """
    require_unit(trained, "gates")
    subject = make_subject(trained, arguments, accelerator)
    values = gate_statistics(observe(subject), trained.config.diffusion.num_train_timesteps)
    options = trained.config.model.attention_options
    return describe_gates(values, {**subject.facts(), "gate_init": options.gate_init})


def describe_gates(values: dict[str, object], facts: dict[str, object]) -> AnalysisResult:
    """Draw what `gate_statistics` found in any network."""
    by_block: dict = values["by_block"]  # type: ignore[assignment]
    mean, std = float(by_block["mean"].mean()), float(by_block["std_between_images"].mean())
    return AnalysisResult(
        title=TITLE,
        how_to_read=_how_to_read(values),
        summary=f"mean gate {mean:.3f}; between images a channel's gate varies by {std:.3f} (std)",
        facts=facts,
        values=values,
        figure=_draw(values),
    )


def _how_to_read(values: dict) -> str:
    return HOW_TO_READ + HOW_TO_READ_NOISE * ("by_timestep" in values)


def _draw(values: dict) -> Figure:
    blocks = values["blocks"]
    with style():
        if "by_timestep" in values:
            figure = Figure(figsize=(WIDTH, 8.0), layout="constrained")
            top, middle, bottom = figure.subplots(3, 1, height_ratios=[1.1, 1, 1])
        else:
            figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
            top, middle = figure.subplots(2, 1, height_ratios=[1.1, 1])
        boxes = values["by_block"]["quantiles"]
        draw_boxes(top, boxes, range(len(blocks)), width=0.6, index=0)
        top.axhline(1.0, color=INK, linestyle=(0, (4, 3)), linewidth=1.0)
        top.set_xlim(-0.6, len(blocks) - 0.4)
        label_blocks(top, blocks, along="x")
        top.grid(visible=False, axis="x")
        top.set(xlabel="block", ylabel="gate")
        means = values["by_channel"]["mean"]
        _heat(middle, means[:, np.argsort(means.mean(axis=0), kind="stable")], blocks)
        middle.set_xlabel("channels, sorted by mean gate")
        if "by_timestep" in values:
            _draw_noise(bottom, values["by_timestep"], blocks)
        explain(figure, TITLE, _how_to_read(values))
    return figure


def _draw_noise(axes: Axes, by_timestep: dict, blocks: list[int]) -> None:
    _heat(axes, by_timestep["mean"], blocks)
    names = [f"{a}–{b - 1}" for a, b in pairwise(by_timestep["timestep_edges"])]
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_xlabel("timestep (noise grows to the right)")


def _heat(axes: Axes, means: np.ndarray, blocks: list[int]) -> None:
    low, high = spanned(means)
    image = draw_heat_map(axes, means, low=low, high=high)
    axes.figure.colorbar(image, ax=axes, label="mean gate")
    label_blocks(axes, blocks, along="y")
    axes.set_ylabel("block")
