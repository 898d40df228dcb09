"""The cost of every attention unit against `none` (Sec. VI-B1, Table IV, arXiv:2210.16101).

All variants have the run's own model shape and attention options, and weights as they are
initialised: what is measured doesn't depend on their values. Timings are interleaved, so that a
machine that slows down slows all variants alike: a round times each variant once, in an order that
rotates, and a ratio is that to `none` of the same round.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from uvit_dia.analysis.arguments import AnalysisArguments
from uvit_dia.analysis.cost_figure import HOW_TO_READ, TITLE, draw_costs
from uvit_dia.analysis.result import AnalysisResult
from uvit_dia.analysis.subject import checkpoint_facts
from uvit_dia.config.schema import Config
from uvit_dia.config.units import normalises_over_images
from uvit_dia.models import UViT
from uvit_dia.models.build import make_model
from uvit_dia.models.units.registry import ATTENTION_NAMES
from uvit_dia.rng import integer_rows, normal_rows
from uvit_dia.runs.trained_model import TrainedModel

NUM_WARM_UPS = 2  # untimed calls before the first round
MAX_DEFAULT_BATCH_SIZE = 64
COUNTS = ("weights", "flops_forward", "flops_step")
PEAKS = ("peak_bytes_forward", "peak_bytes_step")  # on CUDA only, whose allocator keeps count
TIMES = ("seconds_forward", "seconds_step")


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


class Variant:
    """A model and its optimizer, which can be run forwards and trained by a step.

    Args:
        model: in training mode.
        inputs: what it is run on.
    """

    def __init__(self, model: UViT, inputs: Inputs) -> None:
        self.model = model
        self.inputs = inputs
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    @torch.no_grad()
    def forward(self) -> None:
        """Predict once, as a sampler does."""
        self.model.eval()
        self.model(self.inputs.x_t, self.inputs.timesteps, self.inputs.class_labels)

    def step(self) -> None:
        """Train by one step: forward, loss, backward, optimizer."""
        self.model.train()
        inputs = self.inputs
        prediction = self.model(
            inputs.x_t, inputs.timesteps, inputs.class_labels, inputs.dropout_seeds
        )
        (prediction.float() - inputs.target).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


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
        variants[name] = Variant(model.to(device), inputs)  # type: ignore[arg-type]
    return variants, skipped


def count_costs(variant: Variant) -> dict[str, int]:
    """Count weights and FLOPs an image and, on CUDA, the peak memory of a batch."""
    batch_size = len(variant.inputs.x_t)
    device = variant.inputs.x_t.device
    flops = {}
    for name, call in (("forward", variant.forward), ("step", variant.step)):
        with FlopCounterMode(display=False) as counter:
            call()
        flops[name] = counter.get_total_flops() // batch_size
    counts = {
        "weights": sum(p.numel() for p in variant.model.parameters()),
        "flops_forward": flops["forward"],
        "flops_step": flops["step"],
    }
    if device.type == "cuda":
        counts |= {
            "peak_bytes_forward": peak_bytes(variant.forward, device),
            "peak_bytes_step": peak_bytes(variant.step, device),
        }
    return counts


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Do the work and return the most bytes that torch's CUDA allocator held for it at a time."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def time_interleaved(
    calls: dict[str, Callable[[], None]], *, num_rounds: int, device: torch.device, label: str
) -> dict[str, np.ndarray]:
    """Time each call once a round, in an order that rotates from round to round.

    Returns:
        (num_rounds,) seconds by name.
    """
    names = list(calls)
    seconds = {name: np.zeros(num_rounds) for name in names}
    for name in names:
        for _ in range(NUM_WARM_UPS):
            calls[name]()
    for index in tqdm(range(num_rounds), unit="round", desc=label):
        first = index % len(names)
        for name in names[first:] + names[:first]:
            _synchronise(device)
            started = time.perf_counter()
            calls[name]()
            _synchronise(device)
            seconds[name][index] = time.perf_counter() - started
    return seconds


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def analyse_cost(
    arguments: AnalysisArguments, trained: TrainedModel, accelerator: Accelerator
) -> AnalysisResult:
    """Measure every variant of a run's model beside `none`."""
    config, device = trained.config, accelerator.device
    batch_size = arguments.batch_size or min(config.train.batch_size, MAX_DEFAULT_BATCH_SIZE)
    inputs = _make_inputs(config, arguments.seed, batch_size, device)
    variants, skipped = make_variants(config, inputs, device)
    rows: dict[str, dict[str, Any]] = {
        name: dict(count_costs(variant))
        for name, variant in tqdm(variants.items(), unit="variant", desc="counting")
    }
    for key, label in zip(TIMES, ("forward", "step"), strict=True):
        calls = {name: getattr(variant, label) for name, variant in variants.items()}
        seconds = time_interleaved(
            calls, num_rounds=arguments.num_rounds, device=device, label=f"timing {label}"
        )
        for name, row in rows.items():
            row[key] = _spread(seconds[name])
            row[f"{key}_ratio"] = _spread(seconds[name] / seconds["none"])
    for row in rows.values():
        for key in (*COUNTS, *PEAKS):
            if key in row:
                row[f"{key}_ratio"] = row[key] / rows["none"][key]
    return AnalysisResult(
        title=TITLE,
        how_to_read=HOW_TO_READ,
        summary=", ".join(
            f"{name} {row['seconds_step_ratio']['median']:.3f}" for name, row in rows.items()
        )
        + " times the training step of none",
        facts={
            **checkpoint_facts(trained),
            "seed": arguments.seed,
            "num_images": batch_size,
            "batch_size": batch_size,
            "timesteps": inputs.timesteps.tolist(),
            "num_rounds": arguments.num_rounds,
            "device": device.type,
            "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "num_threads": torch.get_num_threads(),
        },
        values={"variants": rows, "skipped": skipped},
        figure=draw_costs(rows, skipped),
    )


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


def _spread(values: np.ndarray) -> dict[str, float]:
    """Return median and quartiles."""
    first, median, third = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    return {"median": median, "quartile_1": first, "quartile_3": third}
