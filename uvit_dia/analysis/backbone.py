"""Look inside any model with `share_attention`: the analyses of a U-ViT's blocks, of its targets.

    seen = observe_stage(model, loader, "layer2")
    result = analyse_stage("correlation", model, loader, "layer2")
    result.figure.savefig("correlation.png")

Block i of the results is target i of the stage, in the order of the data. Images have no noise
levels here, so `gates` has no `by_timestep`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from uvit_dia.analysis.backbone_cost import compare_costs, without_units
from uvit_dia.analysis.backbone_gradients import target_gradients
from uvit_dia.analysis.backbone_parts import (
    DEFAULT_NUM_IMAGES,
    Loader,
    Loss,
    check_num_images,
    class_loss,
    device_of,
    evaluation_mode,
    find_stage,
    first_batches,
    stages_of,
)
from uvit_dia.analysis.correlation import describe_correlation
from uvit_dia.analysis.gates import describe_gates, gate_statistics
from uvit_dia.analysis.gradients_figure import describe_gradients
from uvit_dia.analysis.importance import describe_importance
from uvit_dia.analysis.probe import Observations, Output, hooked
from uvit_dia.analysis.result import AnalysisResult
from uvit_dia.system.errors import InputError, nearest

MAP_ANALYSES = {"correlation": 2, "importance": 2, "gates": 1}  # -> targets that a stage needs
STAGE_ANALYSES = (*MAP_ANALYSES, "gradients", "cost")
DEFAULT_NUM_ROUNDS = 20


@torch.no_grad()
def observe_stage(
    model: nn.Module,
    loader: Loader,
    stage: str | None = None,
    *,
    num_images: int = DEFAULT_NUM_IMAGES,
) -> Observations:
    """Run images through a model and keep the attention maps and gates of a stage.

    The model is in evaluation mode meanwhile; its modes are put back.

    Args:
        model: with `share_attention`, called as `model(images)`.
        loader: yields images (B, ...), or tuples whose first part they are, as a DataLoader does.
        stage: its name; None for the only one.
        num_images: of the loader's first images, at most.

    Returns:
        Maps and gates (n, N, D) of the stage's n targets and N images.

    Raises:
        InputError: if there is no such stage, the loader yields fewer than two images or something
            else, or a target did not run once for each image.
    """
    name, found = find_stage(model, stage)
    count = len(found.target_names)
    maps: list[list[Tensor]] = [[] for _ in range(count)]
    gates: list[list[Tensor]] = [[] for _ in range(count)]

    def keep(unit: Any, inputs: tuple[Any, ...], output: Output) -> None:  # noqa: ANN401
        maps[inputs[2]].append(output[1].float().cpu())
        gates[inputs[2]].append(unit.gate(output[1]).float().cpu())

    units = {id(unit): unit for unit in map(found.unit_of, range(count))}
    seen = 0
    with evaluation_mode(model), hooked(units.values(), keep):
        for images, *_ in first_batches(loader, num_images, device_of(found)):
            model(images)
            seen += len(images)
    check_num_images(seen)
    for target, parts in zip(found.target_names, maps, strict=True):
        ran = sum(len(part) for part in parts)
        if ran != seen:
            raise InputError(
                f"stage {name!r}: {target} saw {ran} of {seen} images; model(images) must run each"
                " target once"
            )
    return Observations(
        blocks=tuple(range(count)),
        maps=torch.stack([torch.cat(parts) for parts in maps]),
        gates=torch.stack([torch.cat(parts) for parts in gates]),
        timesteps=None,
    )


def analyse_stage(
    command: str,
    model: nn.Module,
    loader: Loader,
    stage: str | None = None,
    *,
    num_images: int = DEFAULT_NUM_IMAGES,
    seed: int = 0,
    loss: Loss = class_loss,
    num_rounds: int = DEFAULT_NUM_ROUNDS,
) -> AnalysisResult:
    """Analyse a stage of any model with `share_attention`, as a U-ViT's run is analysed.

    Args:
        command: "correlation" (Fig. 2), "importance" (Fig. 11), "gates", "gradients" (Fig. 13, see
            `target_gradients`) or "cost" (Table IV): the model against itself without the units,
            on the loader's first batch.
        model: see `observe_stage`; it is not changed.
        loader: see `observe_stage`; of "gradients" and "cost" it yields what `loss` takes.
        stage: its name; None for the only one. Of "gradients" and "cost" None means all stages.
        num_images: see `observe_stage`.
        seed: of the samples and forests of "importance", and of the entries of "gradients".
        loss: of "gradients" and "cost"; maps (model, batch) to the mean loss of the images, ().
        num_rounds: of "cost": how often both networks are timed.

    Returns:
        Numbers, a sentence and a picture, whose blocks are the stage's targets.

    Raises:
        InputError: if the command, the stage or the images do not fit.
    """
    if command not in STAGE_ANALYSES:
        hint = nearest(command, STAGE_ANALYSES)
        raise InputError(
            f"unknown analysis {command!r}; allowed is {', '.join(STAGE_ANALYSES)}{hint}"
        )
    if command in MAP_ANALYSES:
        return _analyse_maps(command, model, loader, stage, num_images=num_images, seed=seed)
    chosen = stages_of(model) if stage is None else dict([find_stage(model, stage)])
    targets = [name for found in chosen.values() for name in found.target_names]
    facts: dict[str, object] = {"stage": stage or "all", "targets": targets, "seed": seed}
    if command == "gradients":
        found = target_gradients(
            model, targets, loader, loss=loss, num_images=num_images, seed=seed
        )
        facts |= {"num_images": found.image_norms.shape[1], "device": device_of(model).type}
        return describe_gradients({f"stage {stage}" if stage else "all stages": found}, facts)
    batch = next(first_batches(loader, num_images, device_of(model)), ())
    models = {"none": without_units(model, chosen), "unit": without_units(model, ())}
    return compare_costs(models, batch, loss=loss, num_rounds=num_rounds, facts=facts)


def _analyse_maps(
    command: str, model: nn.Module, loader: Loader, stage: str | None, *, num_images: int, seed: int
) -> AnalysisResult:
    """Analyse what needs only the maps and gates of a stage."""
    name, found = find_stage(model, stage)
    least = MAP_ANALYSES[command]
    if len(found.target_names) < least:
        raise InputError(
            f"stage {name!r} has {len(found.target_names)} target; {command} needs a stage of"
            f" {least} or more"
        )
    seen = observe_stage(model, loader, name, num_images=num_images)
    facts: dict[str, object] = {
        "stage": name,
        "targets": list(found.target_names),
        "num_images": seen.maps.shape[1],
        "seed": seed,
        "device": device_of(found).type,
    }
    if command == "correlation":
        return describe_correlation(seen, facts)
    if command == "importance":
        return describe_importance(seen, facts, seed=seed)
    return describe_gates(gate_statistics(seen, None), facts)
