"""What networks cost: weights, FLOPs, memory and time, of any kind of network.

Timings are interleaved, so that a machine that slows down slows all variants alike: a round times
each variant once, in an order that rotates, and a ratio is that to `none` of the same round.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

NUM_WARM_UPS = 2  # untimed calls before the first round
COUNTS = ("weights", "flops_forward", "flops_step")
PEAKS = ("peak_bytes_forward", "peak_bytes_step")  # on CUDA only, whose allocator keeps count
TIMES = ("seconds_forward", "seconds_step")


class Variant:
    """A model and its optimizer, which can be run forwards and trained by a step.

    Args:
        model: whose weights are measured and changed.
        predict: calls the model on a batch, as it is used once it is trained.
        loss: calls the model on the batch and returns its training loss, ().
        batch_size: images of the batch.
        device: where it lies.
    """

    def __init__(
        self,
        model: nn.Module,
        predict: Callable[[], object],
        loss: Callable[[], Tensor],
        *,
        batch_size: int,
        device: torch.device,
    ) -> None:
        self.model, self.batch_size, self.device = model, batch_size, device
        self._predict, self._loss = predict, loss
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    @torch.no_grad()
    def forward(self) -> None:
        """Predict once, in evaluation mode."""
        self.model.eval()
        self._predict()

    def step(self) -> None:
        """Train by one step: forward, loss, backward, optimizer."""
        self.model.train()
        self._loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def measure_costs(
    variants: Mapping[str, Variant], *, num_rounds: int, device: torch.device
) -> dict[str, dict[str, Any]]:
    """Measure variants beside `none`, which is one of them.

    Returns:
        Of each variant its counts and, as median and quartiles, its times; under `KEY_ratio` the
        same as ratios to `none`.
    """
    rows: dict[str, dict[str, Any]] = {
        name: dict(count_costs(variant))
        for name, variant in tqdm(variants.items(), unit="variant", desc="counting")
    }
    for key, label in zip(TIMES, ("forward", "step"), strict=True):
        calls = {name: getattr(variant, label) for name, variant in variants.items()}
        seconds = time_interleaved(
            calls, num_rounds=num_rounds, device=device, label=f"timing {label}"
        )
        for name, row in rows.items():
            row[key] = _spread(seconds[name])
            row[f"{key}_ratio"] = _spread(seconds[name] / seconds["none"])
    for row in rows.values():
        for key in (*COUNTS, *PEAKS):
            if key in row:
                row[f"{key}_ratio"] = row[key] / rows["none"][key]
    return rows


def machine_facts(device: torch.device) -> dict[str, object]:
    """Return what times depend on beside the network."""
    return {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "num_threads": torch.get_num_threads(),
    }


def count_costs(variant: Variant) -> dict[str, int]:
    """Count weights and FLOPs an image and, on CUDA, the peak memory of a batch."""
    device = variant.device
    flops = {}
    for name, call in (("forward", variant.forward), ("step", variant.step)):
        with FlopCounterMode(display=False) as counter:
            call()
        flops[name] = counter.get_total_flops() // variant.batch_size
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


def _spread(values: np.ndarray) -> dict[str, float]:
    """Return median and quartiles."""
    first, median, third = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    return {"median": median, "quartile_1": first, "quartile_3": third}
