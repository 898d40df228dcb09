"""Look inside any model with `share_attention`: the analyses of a U-ViT's maps and gates.

    seen = observe_stage(model, loader, "layer2")
    result = analyse_stage("correlation", model, loader, "layer2")
    result.figure.savefig("correlation.png")

Block i of the results is target i of the stage, in the order of the data. Images have no noise
levels here, so `gates` has no `by_timestep`.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from uvit_dia.analysis.correlation import describe_correlation
from uvit_dia.analysis.gates import describe_gates, gate_statistics
from uvit_dia.analysis.importance import describe_importance
from uvit_dia.analysis.probe import Observations, Output, hooked
from uvit_dia.analysis.result import AnalysisResult
from uvit_dia.models.other_backbones.hooks import SharedAttention
from uvit_dia.models.other_backbones.stage import Stage
from uvit_dia.system.errors import InputError, nearest

STAGE_ANALYSES = {"correlation": 2, "importance": 2, "gates": 1}  # -> targets that it needs
DEFAULT_NUM_IMAGES = 256


def find_stage(model: nn.Module, stage: str | None = None) -> tuple[str, Stage]:
    """Find a stage of a model with `share_attention`.

    Args:
        model: with units.
        stage: its name; None for the only one.

    Returns:
        The stage's name, and the stage.

    Raises:
        InputError: if the model has no unit, or no such stage, or several and none is named.
    """
    found = {
        name: part
        for holder in model.modules()
        if isinstance(holder, SharedAttention)
        for name, part in holder.items()
        if isinstance(part, Stage)
    }
    if not found:
        raise InputError("the model has no attention unit; call share_attention(model, ...) first")
    if stage is None and len(found) > 1:
        raise InputError(f"the model has several stages; name one of {', '.join(found)}")
    name = next(iter(found)) if stage is None else stage
    if name not in found:
        hint = nearest(name, found)
        raise InputError(f"there is no stage {name!r}; allowed is {', '.join(found)}{hint}")
    return name, found[name]


@torch.no_grad()
def observe_stage(
    model: nn.Module,
    loader: Iterable[Tensor | tuple | list],
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
    if num_images < 2:
        raise InputError(f"num_images={num_images}: allowed is 2 or more")
    name, found = find_stage(model, stage)
    count = len(found.target_names)
    maps: list[list[Tensor]] = [[] for _ in range(count)]
    gates: list[list[Tensor]] = [[] for _ in range(count)]

    def keep(unit: Any, inputs: tuple[Any, ...], output: Output) -> None:  # noqa: ANN401
        maps[inputs[2]].append(output[1].float().cpu())
        gates[inputs[2]].append(unit.gate(output[1]).float().cpu())

    units = {id(unit): unit for unit in map(found.unit_of, range(count))}
    seen = 0
    with _evaluation_mode(model), hooked(units.values(), keep):
        for images in _images(loader, num_images, _device(found)):
            model(images)
            seen += len(images)
    if seen < 2:
        raise InputError(f"the loader yields {seen} images; an analysis needs 2 or more")
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
    loader: Iterable[Tensor | tuple | list],
    stage: str | None = None,
    *,
    num_images: int = DEFAULT_NUM_IMAGES,
    seed: int = 0,
) -> AnalysisResult:
    """Analyse a stage of any model with `share_attention`, as a U-ViT's run is analysed.

    Args:
        command: "correlation" (Fig. 2), "importance" (Fig. 11) or "gates".
        model: see `observe_stage`.
        loader: see `observe_stage`.
        stage: see `observe_stage`.
        num_images: see `observe_stage`.
        seed: of the samples and forests of "importance".

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
    name, found = find_stage(model, stage)
    least = STAGE_ANALYSES[command]
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
        "device": _device(found).type,
    }
    if command == "correlation":
        return describe_correlation(seen, facts)
    if command == "importance":
        return describe_importance(seen, facts, seed=seed)
    return describe_gates(gate_statistics(seen, None), facts)


def _device(stage: Stage) -> torch.device:
    """Return where a stage's unit computes; the CPU for one without weights and buffers."""
    tensors = [*stage.parameters(), *stage.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def _images(
    loader: Iterable[Tensor | tuple | list], num_images: int, device: torch.device
) -> Iterator[Tensor]:
    """Yield the first images of a loader, on the device."""
    left = num_images
    for batch in loader:
        images = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(images, Tensor) or images.dim() < 2:
            raise InputError(
                f"the loader yields {type(batch).__name__}; it must yield images (B, ...), or"
                " tuples whose first part they are"
            )
        yield images[:left].to(device)
        left -= len(images)
        if left <= 0:
            return


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, is_training in modes.items():
            module.training = is_training
