"""Analyses of whole networks of saved runs: gradients beside another run's, costs of units."""

import argparse
from collections.abc import Sequence

from torch import nn

from examples.classification import make_network
from examples.classification_data import Batch
from examples.classification_models import make_classifier
from examples.saved_runs import SavedRun
from uvit_dia.analysis.backbone_cost import compare_costs
from uvit_dia.analysis.backbone_gradients import target_gradients
from uvit_dia.analysis.backbone_parts import Loss, find_stage, stages_of
from uvit_dia.analysis.gradients_figure import describe_gradients
from uvit_dia.analysis.result import AnalysisResult
from uvit_dia.models.other_backbones.targets import resolve_targets
from uvit_dia.models.units.registry import ATTENTION_NAMES
from uvit_dia.system.errors import InputError, nearest


def targets_of(run: SavedRun, stage: str | None) -> list[str]:
    """Return the modules that a run's units gate, or would gate if it had some.

    Args:
        run: with units or without.
        stage: of the network; None for all.

    Raises:
        InputError: if there is no such stage.
    """
    arguments = run.arguments
    if arguments.unit != "none":
        found = dict([find_stage(run.task.model, stage)]) if stage else stages_of(run.task.model)
        return [name for each in found.values() for name in each.target_names]
    plain = make_classifier(
        arguments.model,
        run.images,
        depth=arguments.depth,
        has_norm=not arguments.no_norm,
        has_skip=not arguments.no_skip,
    )
    stages = resolve_targets(plain.model, dict(plain.targets))
    if stage is not None and stage not in stages:
        hint = nearest(stage, stages)
        raise InputError(f"there is no stage {stage!r}; allowed is {', '.join(stages)}{hint}")
    return [name for key, names in stages.items() if stage in (None, key) for name in names]


def gradients_of(
    runs: Sequence[SavedRun],
    batches: Sequence[Batch],
    stage: str | None,
    loss: Loss,
    *,
    num_images: int,
    seed: int,
) -> AnalysisResult:
    """Set the gradients of a run beside those of another one of the same data and loss.

    Args:
        runs: one or two.
        batches: the images that both are shown.
        stage: of the networks; None for all.
        loss: that both are trained by.
        num_images: how many images.
        seed: of the entries whose quantiles are taken.

    Raises:
        InputError: if the two have other data or another loss, or there is no such stage.
    """
    first = runs[0].task
    for run in runs[1:]:
        for name in ("data", "train_sha256"):
            if run.task.facts[name] != first.facts[name]:
                raise InputError(f"--compare {run.folder}: was trained on other data (its {name})")
        if run.task.recipe.label_smoothing != first.recipe.label_smoothing:
            raise InputError(f"--compare {run.folder}: has another loss (its label_smoothing)")
    names = [f"{run.task.facts['unit']}, epoch {run.num_epochs}" for run in runs]
    if len(set(names)) < len(names):
        names = [f"{run.folder.name}: {name}" for run, name in zip(runs, names, strict=True)]
    if len(set(names)) < len(names):
        raise InputError(f"--compare {runs[1].folder}: is called as --run is; rename its folder")
    targets = {name: targets_of(run, stage) for name, run in zip(names, runs, strict=True)}
    found = {
        name: target_gradients(
            run.task.model, targets[name], batches, loss=loss, num_images=num_images, seed=seed
        )
        for name, run in zip(names, runs, strict=True)
    }
    return describe_gradients(
        found, {"stage": stage or "all", "targets": targets, "num_images": num_images}
    )


def unit_costs(run: SavedRun, batch: Batch, loss: Loss, *, num_rounds: int) -> AnalysisResult:
    """Measure every unit in a run's network, beside the network without one.

    Args:
        run: whose network, places and options of units are taken; weights are fresh.
        batch: images and labels.
        loss: of the training.
        num_rounds: how often every network is timed.
    """
    models: dict[str, nn.Module] = {}
    skipped: dict[str, str] = {}
    for name in dict.fromkeys((*ATTENTION_NAMES, run.arguments.unit)):
        changes = {"unit": name}
        plain = {"option": [], "unshared": False} if name == "none" else {}
        arguments = argparse.Namespace(**{**vars(run.arguments), **changes, **plain})
        try:
            model, _ = make_network(arguments, run.images)
        except InputError as error:  # options or width that the unit does not fit
            skipped[name] = str(error)
            continue
        models[name] = model.to(batch[0].device)
    return compare_costs(models, batch, loss=loss, num_rounds=num_rounds, facts={}, skipped=skipped)
