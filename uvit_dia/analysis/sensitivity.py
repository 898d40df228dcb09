"""What a trained model loses without the unit in a block, or a third (after Table XV).

Two ways, both without any retraining, so that the rest of the network stays fitted to the unit that
it was trained with; as we read Table XV of arXiv:2210.16101 its networks were trained without the
unit in a stage, so numbers are not comparable:

- "one": the gate is replaced by 1, which takes away attention and scale;
- "mean": the gate is replaced by its mean over images and noise levels, channel by channel (and
  token by token in the units whose gate differs from token to token), which keeps the scale and
  takes away only what the unit makes of the image and its noise: attention proper.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from uvit_dia.analysis.arguments import AnalysisArguments
from uvit_dia.analysis.probe import mean_gates, replaced_gates
from uvit_dia.analysis.result import AnalysisResult
from uvit_dia.analysis.sample_distance import SampleDistance
from uvit_dia.analysis.sensitivity_figure import HOW_TO_READ, TITLE, draw_removals
from uvit_dia.analysis.subject import Subject, make_subject, require_unit
from uvit_dia.runs.trained_model import TrainedModel

WAYS = ("one", "mean")
THIRDS = ("first third", "middle third", "last third")
MAX_DEFAULT_IMAGES = 2048  # as many as Inception has features
EXTRA_SEEDS = 2  # of the unchanged model, which show how far a distance scatters by itself


@dataclass(frozen=True)
class Removal:
    """Where the unit is taken out.

    Attributes:
        name: such as "block 3" or "first third".
        blocks: which lose it.
    """

    name: str
    blocks: tuple[int, ...]


def removals(attention_blocks: list[int], num_blocks: int) -> list[Removal]:
    """Return one removal a block that carries the unit, then one a third of the network.

    Thirds are those of all blocks in the order of the data; where they are not equal, the first
    ones are larger. Where each third has one such block at most, they would only repeat the blocks.
    """
    single = [Removal(f"block {block}", (block,)) for block in attention_blocks]
    thirds = []
    for name, part in zip(THIRDS, np.array_split(np.arange(num_blocks), 3), strict=True):
        blocks = tuple(block for block in part.tolist() if block in attention_blocks)
        if blocks:
            thirds.append(Removal(name, blocks))
    return single + (thirds if any(len(third.blocks) > 1 for third in thirds) else [])


@torch.no_grad()
def image_losses(subject: Subject) -> np.ndarray:
    """Return the training loss of each image, (N,) float64."""
    return torch.cat([subject.losses(b).cpu() for b in subject.batches()]).double().numpy()


def analyse_sensitivity(
    arguments: AnalysisArguments, trained: TrainedModel, accelerator: Accelerator
) -> AnalysisResult:
    """Take the unit out, block by block and third by third, and measure loss and Frechet distance.

    Raises:
        InputError: if the run has no unit, or its extractor is not there.
    """
    require_unit(trained, "sensitivity")
    num_images = arguments.num_images or min(trained.config.eval.num_images, MAX_DEFAULT_IMAGES)
    distance = SampleDistance(trained, arguments, accelerator, num_images=num_images)
    losses_of = min(num_images, len(distance.images))
    subject = make_subject(trained, arguments, accelerator, num_images=losses_of)
    means = mean_gates(subject)
    cases = removals(list(means), trained.model.num_blocks)
    baseline, rows = _measure_all(subject, distance, cases, means)
    values = {
        "metric": distance.metric,
        "retrained": False,
        "baseline": baseline,
        "removals": rows,
    }
    base = baseline["distance"]
    worst = max(rows, key=lambda row: row["distance_change"])
    return AnalysisResult(
        title=TITLE,
        how_to_read=HOW_TO_READ.format(metric=distance.label),
        summary=(
            f"{distance.label} {base:.4g} unchanged; most without {worst['name']} "
            f"(gate {worst['way']}): {worst['distance']:.4g}"
        ),
        facts={
            **subject.facts(),
            "num_images": num_images,
            "loss_num_images": losses_of,
            **distance.facts(),
        },
        values=values,
        figure=draw_removals(values, distance.label),
    )


def _measure_all(
    subject: Subject,
    distance: SampleDistance,
    cases: Sequence[Removal],
    means: Mapping[int, Tensor],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure the unchanged model, under three sampling seeds, and each removal in both ways."""
    rows: list[dict[str, Any]] = []
    measured: dict[tuple[tuple[int, ...], str], dict[str, float]] = {}  # a third may be one block
    with tqdm(total=1 + EXTRA_SEEDS + 2 * len(cases), unit="model", desc="sensitivity") as bar:
        base_losses = image_losses(subject)
        distances = []
        for seed in range(subject.seed, subject.seed + 1 + EXTRA_SEEDS):
            distances.append(distance.measure(seed))
            bar.update()
        for case in cases:
            for way in WAYS:
                if (case.blocks, way) not in measured:
                    gates = {
                        block: means[block].to(subject.device) if way == "mean" else None
                        for block in case.blocks
                    }
                    measured[case.blocks, way] = _measure(subject, distance, gates, base_losses)
                found = measured[case.blocks, way]
                change = found["distance"] - distances[0]
                place = {"name": case.name, "blocks": list(case.blocks), "way": way}
                rows.append({**place, **found, "distance_change": change})
                bar.update()
    baseline = {
        "loss": float(base_losses.mean()),
        "distance": distances[0],
        "distance_of_other_seeds": distances[1:],
    }
    return baseline, rows


def _measure(
    subject: Subject,
    distance: SampleDistance,
    gates: Mapping[int, Tensor | None],
    base_losses: np.ndarray,
) -> dict[str, float]:
    """Measure the model with some gates replaced; the standard error is over images."""
    with replaced_gates(subject.trained.model, gates):
        losses = image_losses(subject)
        value = distance.measure(subject.seed)
    change = losses - base_losses
    return {
        "loss": float(losses.mean()),
        "loss_change": float(change.mean()),
        "loss_change_standard_error": float(change.std(ddof=1) / np.sqrt(len(change))),
        "distance": value,
    }
