"""The cost of attention units in any model, against the model without one (Table IV)."""

import copy
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from uvit_dia.analysis.backbone_parts import (
    Batch,
    Loss,
    check_num_images,
    class_loss,
    device_of,
)
from uvit_dia.analysis.cost_figure import describe_costs
from uvit_dia.analysis.cost_measures import Variant, machine_facts, measure_costs
from uvit_dia.analysis.result import AnalysisResult
from uvit_dia.models.other_backbones.hooks import SharedAttention
from uvit_dia.system.errors import InputError


def without_units(model: nn.Module, stages: Iterable[str]) -> nn.Module:
    """Return a copy of a model in which the units of some stages are taken out.

    Args:
        model: with `share_attention`.
        stages: their names.
    """
    copied = copy.deepcopy(model)
    for holder in [part for part in copied.modules() if isinstance(part, SharedAttention)]:
        for stage in stages:
            if stage in holder:
                holder.detach(copied, stage)
    return copied


def compare_costs(
    models: Mapping[str, nn.Module],
    batch: Batch,
    *,
    loss: Loss = class_loss,
    num_rounds: int,
    facts: Mapping[str, object],
    skipped: Mapping[str, str] | None = None,
) -> AnalysisResult:
    """Measure networks beside the one without a unit, as a U-ViT's are measured.

    Args:
        models: by name, `none` first. They are trained by a few steps of AdamW.
        batch: what `loss` takes; the images, 2 or more, come first and are all that the models are
            called with when they predict.
        loss: maps (model, batch) to the mean loss of the images, ().
        num_rounds: how often every network is timed, at least 2.
        facts: what the numbers depend on beside batch and machine.
        skipped: networks that were left out, with the reasons.

    Raises:
        InputError: if there are fewer than two images or rounds, or the loss does not fit.
    """
    check_num_images(len(batch[0]) if batch else 0)
    if num_rounds < 2:
        raise InputError(f"num_rounds={num_rounds}: allowed is 2 or more")
    variants = {name: _make_variant(model, batch, loss) for name, model in models.items()}
    device = device_of(models["none"])
    rows = measure_costs(variants, num_rounds=num_rounds, device=device)
    sizes = {"num_images": len(batch[0]), "num_rounds": num_rounds}
    return describe_costs(rows, dict(skipped or {}), {**facts, **sizes, **machine_facts(device)})


def _make_variant(model: nn.Module, batch: Batch, loss: Loss) -> Variant:
    images = batch[0]

    def predict() -> object:
        return model(images)

    def training_loss() -> Tensor:
        return loss(model, batch)

    return Variant(model, predict, training_loss, batch_size=len(images), device=images.device)
