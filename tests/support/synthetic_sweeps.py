"""Sweep folders made of invented numbers, for the tests of the report."""

import json
import math
from pathlib import Path

import numpy as np
from PIL import Image

EXTRACTOR = "a" * 64
REFERENCE = "b" * 64
BUDGET_IMAGES = 64_000


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_lines(path: Path, lines: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def sweep_config(
    variants: tuple[str, ...],
    batch_sizes: tuple[int, ...],
    seeds: tuple[int, ...],
    **changes: object,
) -> dict:
    config = {
        "base": "configs/digits_uvit_dia.py",
        "variants": {name: {} for name in variants},
        "batch_sizes": list(batch_sizes),
        "seeds": list(seeds),
        "budget": "images",
        "budget_amount": BUDGET_IMAGES,
        "lr_rule": "sqrt",
        "reference_batch_size": 64,
        "ema_rule": "halflife_images",
        "ema_halflife_images": 5000,
        "eval": {
            "num_images": 500,
            "sampler": "dpmpp_2m",
            "num_steps": 50,
            "seed": 0,
            "num_repeats": 2,
            "extractor": "digits",
            "weights": "",
        },
        "threads_per_cell": 1,
        "held_constant": "images seen; learning rate by the square root of the batch size",
    }
    return config | changes


def evaluation(step: int, value: float, seed: int, /, **changes: object) -> dict:
    line = {
        "metric": "fd",
        "value": value,
        "fd": value,
        "kd": value / 100,
        "precision": 0.8,
        "recall": 0.6,
        "floor": 0.3,
        "floor_num_images": 500,
        "floor_split": "train",
        "num_images": 500,
        "nfe": 50,
        "extractor": "digits",
        "extractor_sha256": EXTRACTOR,
        "reference": "digits",
        "reference_sha256": REFERENCE,
        "sampler": "dpmpp_2m",
        "num_steps": 50,
        "eta": 0.0,
        "variance_type": "fixed_large",
        "clip_sample": True,
        "seed": seed,
        "batch_size": 250,
        "weights": "ema",
        "weights_sha256": "c" * 64,
        "step": step,
    }
    return line | changes


def log_lines(
    num_steps: int, batch_size: int, rng: np.random.Generator, *, level: float, lines: int = 60
) -> list[dict]:
    """A loss that falls to a level, and gradient norms that are larger at small batches."""
    steps = sorted({max(1, round(num_steps * (k + 1) / lines)) for k in range(lines)})
    noise = 0.6 / math.sqrt(batch_size)
    made = []
    for step in steps:
        share = step / num_steps
        loss = level + 0.9 * math.exp(-12 * share) + noise * 0.05 * rng.standard_normal()
        norm = (0.5 + 2 * math.exp(-8 * share)) * math.exp(noise * rng.standard_normal())
        made.append(
            {
                "step": step,
                "loss": loss,
                "loss_max": loss * 1.4,
                "grad_norm": norm,
                "grad_norm_std": norm * noise,
                "grad_norm_min": norm * 0.6,
                "grad_norm_max": norm * (1 + 4 * noise),
                "images": step * batch_size,
                "lr": 1e-3,
                "update_ratio": 1e-3,
                "ema_decay": 0.99,
                "images_per_second": 1000 * rng.random(),
                "data_seconds": rng.random(),
                "noise_scale_signal": 0.05 + 0.05 * rng.standard_normal(),
                "noise_scale_noise": 2.0,
                "noise_scale": None,
                "loss_spikes": int(rng.random() < 0.1),
                "grad_spikes": int(rng.random() < 0.2),
            }
        )
    return made


def write_preview(path: Path, seed: int, tiles: int = 8, side: int = 32) -> None:
    """A grid of blurred blobs, laid out as the trainer lays out its previews."""
    rng = np.random.default_rng(seed)
    pitch = side + 2
    grid = np.full((tiles * pitch + 2, tiles * pitch + 2), 255, dtype=np.uint8)
    y, x = np.mgrid[0:side, 0:side] / side
    for row in range(tiles):
        for column in range(tiles):
            a, b = rng.uniform(0.2, 0.8, 2)
            blob = 255 * np.exp(-30 * ((y - a) ** 2 + (x - b) ** 2))
            top, left = row * pitch + 2, column * pitch + 2
            grid[top : top + side, left : left + side] = blob.astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid).save(path)


def write_cell(
    folder: Path,
    cell: dict,
    values: list[float],
    *,
    state: str = "done",
    previews: bool = True,
    env: dict | None = None,
) -> None:
    """One run folder; `values` are the metric by sample seed."""
    home = folder / "cells" / cell["name"]
    rng = np.random.default_rng([cell["seed"], cell["batch_size"], len(cell["variant"])])
    lines = log_lines(cell["num_steps"], cell["batch_size"], rng, level=0.3 + 0.01 * cell["seed"])
    step = cell["num_steps"]
    if state != "done":
        lines = lines[: len(lines) // 3]
        step = lines[-1]["step"]
    facts = {}
    if state == "diverged":  # two steps into the next log window
        step += 2
        facts = {"reason": f"loss became non-finite at step {step}"}
        lines.append({"step": step, "nonfinite": 1, "nonfinite_step": step})
    write_json(
        home / "status.json",
        {"state": state, "step": step, "num_steps": cell["num_steps"], **facts},
    )
    write_json(home / "cell.json", {"state": state, **facts})
    write_json(
        home / "config.json",
        {
            "seed": cell["seed"],
            "model": {"img_size": 8},
            "train": {"batch_size": cell["batch_size"], "num_steps": cell["num_steps"]},
            "sample": {"grid_images": 64},
        },
    )
    write_json(
        home / "env.json",
        env
        or {
            "versions": {"torch": "2.15.0", "uvit-dia": "0.1.0"},
            "python": "3.12.1",
            "platform": "Linux-6.1-x86_64",
            "commit": "0123456789abcdef0123456789abcdef01234567",
            "device": "cpu",
            "num_processes": 1,
        },
    )
    write_lines(home / "metrics.jsonl", lines)
    if state == "done":
        write_lines(
            home / "eval.jsonl",
            [evaluation(cell["num_steps"], value, seed) for seed, value in enumerate(values)],
        )
    if previews and state == "done":
        write_preview(home / "samples" / f"step_{cell['num_steps']:08d}.png", cell["seed"])


def make_cells(
    variants: tuple[str, ...], batch_sizes: tuple[int, ...], seeds: tuple[int, ...]
) -> list[dict]:
    return [
        {
            "name": f"{variant}-b{batch_size:04d}-s{seed}",
            "variant": variant,
            "batch_size": batch_size,
            "seed": seed,
            "num_steps": -(-BUDGET_IMAGES // batch_size),
            "images": -(-BUDGET_IMAGES // batch_size) * batch_size,
            "learning_rate": 1e-3 * math.sqrt(batch_size / 64),
        }
        for variant in variants
        for batch_size in batch_sizes
        for seed in seeds
    ]


def make_sweep(
    folder: Path,
    *,
    variants: tuple[str, ...] = ("uvit", "dia_lstm"),
    batch_sizes: tuple[int, ...] = (8, 16, 32, 64),
    seeds: tuple[int, ...] = (0, 1, 2),
    means: dict[tuple[str, int], float] | None = None,
    spread: float = 0.1,
    states: dict[str, str] | None = None,
    previews: bool = False,
    **changes: object,
) -> list[dict]:
    """A sweep folder; the metric is normal around `means` (default 2.0), its deviation `spread`."""
    cells = make_cells(variants, batch_sizes, seeds)
    write_json(
        folder / "sweep.json",
        {
            "config": sweep_config(variants, batch_sizes, seeds, **changes),
            "hash": "d" * 64,
            "cells": cells,
        },
    )
    rng = np.random.default_rng(7)
    for cell in cells:
        mean = (means or {}).get((cell["variant"], cell["batch_size"]), 2.0)
        value = mean + spread * rng.standard_normal()
        values = [value + 0.02 * rng.standard_normal() for _ in range(2)]
        state = (states or {}).get(cell["name"], "done")
        if state != "waiting":
            write_cell(folder, cell, values, state=state, previews=previews)
    return cells
