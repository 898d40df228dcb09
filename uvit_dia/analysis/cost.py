"""The cost of every attention unit against `none` (Sec. VI-B1, Table IV, arXiv:2210.16101).

All variants have the run's own model shape and attention options, and weights as they are
initialised: what is measured doesn't depend on their values. `cost_measures` says how it is timed.
"""

from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator

from uvit_dia.analysis.arguments import AnalysisArguments
from uvit_dia.analysis.cost_figure import describe_costs
from uvit_dia.analysis.cost_measures import Variant, machine_facts, measure_costs
from uvit_dia.analysis.result import AnalysisResult
from uvit_dia.analysis.subject import checkpoint_facts
from uvit_dia.config.schema import Config
from uvit_dia.config.units import normalises_over_images
from uvit_dia.models import UViT
from uvit_dia.models.build import make_model
from uvit_dia.models.units.registry import ATTENTION_NAMES
from uvit_dia.rng import integer_rows, normal_rows
from uvit_dia.runs.trained_model import TrainedModel

MAX_DEFAULT_BATCH_SIZE = 64


@dataclass(frozen=True)
class Inputs:
    """One batch of noise: times and sizes don't depend on what an image shows.

    Attributes:
        x_t: (B, C, H, W) float32.
        timesteps: (B,) int64.
        target: (B, C, H, W) float32.
        dropout_seeds: (B,) int64.
        class_labels: (B,) int64, for a conditional network; else None.
    """

    x_t: torch.Tensor
    timesteps: torch.Tensor
    target: torch.Tensor
    dropout_seeds: torch.Tensor
    class_labels: torch.Tensor | None = None


def _make_variant(model: UViT, inputs: Inputs) -> Variant:
    def predict() -> torch.Tensor:
        return model(inputs.x_t, inputs.timesteps, inputs.class_labels)

    def loss() -> torch.Tensor:
        prediction = model(inputs.x_t, inputs.timesteps, inputs.class_labels, inputs.dropout_seeds)
        return (prediction.float() - inputs.target).square().mean()

    return Variant(model, predict, loss, batch_size=len(inputs.x_t), device=inputs.x_t.device)


def make_variants(
    config: Config, inputs: Inputs, device: torch.device
) -> tuple[dict[str, Variant], dict[str, str]]:
    """Make every variant that the run's model shape and options, and the number of images, allow.

    Returns:
        The variants by name, and the reasons why others were left out.
    """
    variants, skipped = {}, {}
    for name in dict.fromkeys((*ATTENTION_NAMES, config.model.attention)):
        if normalises_over_images(name) and len(inputs.x_t) == 1:
            skipped[name] = f"{name} normalises over the batch: training needs at least 2 images"
            continue
        try:
            model = make_model(replace(config, model=replace(config.model, attention=name)))
        except ValueError as error:  # options or width that the unit does not fit
            skipped[name] = " ".join(str(error).split())
            continue
        # diffusers' decorator hides the signature of `to`
        variants[name] = _make_variant(model.to(device), inputs)  # type: ignore[arg-type]
    return variants, skipped


def analyse_cost(
    arguments: AnalysisArguments, trained: TrainedModel, accelerator: Accelerator
) -> AnalysisResult:
    """Measure every variant of a run's model beside `none`."""
    config, device = trained.config, accelerator.device
    batch_size = arguments.batch_size or min(config.train.batch_size, MAX_DEFAULT_BATCH_SIZE)
    inputs = _make_inputs(config, arguments.seed, batch_size, device)
    variants, skipped = make_variants(config, inputs, device)
    rows = measure_costs(variants, num_rounds=arguments.num_rounds, device=device)
    facts = {
        **checkpoint_facts(trained),
        "seed": arguments.seed,
        "num_images": batch_size,
        "batch_size": batch_size,
        "timesteps": inputs.timesteps.tolist(),
        "num_rounds": arguments.num_rounds,
        **machine_facts(device),
    }
    return describe_costs(rows, skipped, facts)


def _make_inputs(config: Config, seed: int, batch_size: int, device: torch.device) -> Inputs:
    rows = range(batch_size)
    place = (0, rows, batch_size)
    shape = (config.model.in_chans, config.model.img_size, config.model.img_size)
    total = config.diffusion.num_train_timesteps
    labels = None
    if config.is_conditional:
        labels = integer_rows(seed, "cost labels", *place, config.num_data_classes).to(device)
    return Inputs(
        x_t=normal_rows(seed, "cost x_t", *place, shape).to(device),
        timesteps=integer_rows(seed, "cost timesteps", *place, total).to(device),
        target=normal_rows(seed, "cost target", *place, shape).to(device),
        dropout_seeds=integer_rows(seed, "cost dropout", *place, 2**62).to(device),
        class_labels=labels,
    )
