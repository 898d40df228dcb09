"""Random-forest importance of earlier attention maps for later ones (Fig. 11, arXiv:2210.16101).

For each block t after the first that carries the unit, a random forest predicts h_t from h_1 ..
h_{t-1}:

- samples: (image, channel) pairs, at most `MAX_SAMPLES`, the same for all t, drawn without repeats
  by the seed;
- features: one a preceding block s, the number h_s of that image and channel;
- target: the number h_t of that image and channel.

The importance of block s is scikit-learn's `feature_importances_`, the mean decrease in impurity
("Gini importance"; of a regression the impurity is the variance). A row sums to 1. R² on the
samples that a tree was not grown from says how far the forest predicts at all: where it is near 0,
the importances mean nothing.
"""

import numpy as np
from accelerate import Accelerator
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from uvit_dia.analysis.arguments import AnalysisArguments
from uvit_dia.analysis.probe import Observations, observe
from uvit_dia.analysis.result import AnalysisResult
from uvit_dia.analysis.subject import make_subject, require_unit
from uvit_dia.plots.parts import draw_heat_map, explain, label_blocks
from uvit_dia.plots.style import WIDTH, look, style
from uvit_dia.rng import permutation, position_seed
from uvit_dia.runs.trained_model import TrainedModel

MAX_SAMPLES = 4096
NUM_TREES = 100
MIN_SAMPLES_LEAF = 5
CONSTANT = 1e-6  # a target with less spread than this is rounding, not a pattern
TITLE = "Which earlier blocks an attention map depends on"
HOW_TO_READ = (
    "Left: one row a block t; the numbers of a row say how much a random forest draws on each"
    " earlier block's map to predict that of t, and sum to 1. A row filled to the left draws on"
    " many earlier blocks, one filled at its right end on the last one only; grey is not earlier."
    " Right: how well the forest predicts (R², 1 is perfect); rows near 0 mean nothing."
)


def map_importances(maps: Tensor, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Measure how much each block's map helps to predict those of later blocks.

    Args:
        maps: (n, N, D) attention maps of n blocks and N images.
        seed: of the samples and the forests.

    Returns: (n - 1, n - 1) importances, row t - 1 that of the features of block t, NaN where there
        is none; and (n - 1,) R². A target that is constant gives NaN only.
    """
    from sklearn.ensemble import RandomForestRegressor

    everything = maps.flatten(1)  # n samples
    chosen = permutation(seed, "importance samples", 0, everything.shape[1])[:MAX_SAMPLES]
    table = everything[:, chosen].numpy().T  # samples n
    num_targets = table.shape[1] - 1
    importances = np.full((num_targets, num_targets), np.nan)
    scores = np.full(num_targets, np.nan)
    for t in tqdm(range(1, num_targets + 1), unit="block", desc="random forests"):
        if table[:, t].std() <= CONSTANT:
            continue
        forest = RandomForestRegressor(
            n_estimators=NUM_TREES,
            criterion="squared_error",
            min_samples_leaf=MIN_SAMPLES_LEAF,
            max_features=1.0,
            bootstrap=True,
            oob_score=True,
            n_jobs=-1,
            random_state=position_seed(seed, "forest", t) % 2**32,
        ).fit(table[:, :t], table[:, t])
        importances[t - 1, :t] = forest.feature_importances_
        scores[t - 1] = forest.oob_score_
    return importances, scores


def analyse_importance(
    arguments: AnalysisArguments, trained: TrainedModel, accelerator: Accelerator
) -> AnalysisResult:
    """Measure the importances in a run.

    Raises:
        InputError: if fewer than two blocks carry a unit.
    """
    require_unit(trained, "importance", num_blocks=2)
    subject = make_subject(trained, arguments, accelerator)
    return describe_importance(observe(subject), subject.facts(), seed=subject.seed)


def describe_importance(
    seen: Observations, facts: dict[str, object], *, seed: int
) -> AnalysisResult:
    """Measure importances among maps observed in any network with two blocks or more."""
    importances, scores = map_importances(seen.maps, seed=seed)
    last = np.array([row[t] for t, row in enumerate(importances)])  # of the block just before
    share = float(last[1:][np.isfinite(last[1:])].mean()) if np.isfinite(last[1:]).any() else None
    values = {
        "targets": list(seen.blocks[1:]),
        "sources": list(seen.blocks[:-1]),
        "importances": importances,
        "r2_out_of_bag": scores,
        "mean_importance_of_the_block_before": share,
        "num_samples": min(MAX_SAMPLES, seen.maps[0].numel()),
        "num_trees": NUM_TREES,
        "min_samples_leaf": MIN_SAMPLES_LEAF,
    }
    said = (
        "undefined for blocks with two earlier ones"
        if share is None
        else f"{share:.2f} on average, where there are two or more earlier blocks"
    )
    return AnalysisResult(
        title=TITLE,
        how_to_read=HOW_TO_READ,
        summary=f"importance of the block just before: {said}",
        facts=facts,
        values=values,
        figure=_draw(importances, scores, seen.blocks),
    )


def _draw(importances: np.ndarray, scores: np.ndarray, blocks: tuple[int, ...]) -> Figure:
    with style():
        figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[2.2, 1], sharey=True)
        image = draw_heat_map(left, importances, low=0.0, high=1.0)
        figure.colorbar(image, ax=left, label="importance", shrink=0.9)
        label_blocks(left, blocks[:-1], along="x")
        label_blocks(left, blocks[1:], along="y")
        left.set(xlabel="earlier block s (feature)", ylabel="block t (target)")
        drawn = look(0)
        rows = np.arange(len(scores))
        lengths = np.nan_to_num(scores)
        right.barh(rows, lengths, color=drawn.fill, edgecolor=drawn.colour, height=0.6)
        right.grid(visible=False, axis="y")
        right.set(xlabel="R² out of bag", xlim=(min(0.0, float(lengths.min())), 1.0))
        explain(figure, TITLE, HOW_TO_READ)
    return figure
