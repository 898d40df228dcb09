"""The log of a training run, and the tasks that add to it."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.runs import (
    tiny_trainer,
    weights,
)
from uvit_dia.training.log import TrainLog
from uvit_dia.training.optimizer import learning_rate_at
from uvit_dia.training.tasks import PeriodicTask


def test_log_lines_have_the_documented_keys(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, {"train.num_steps": 5})
    trainer.fit()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 5]  # the last step is always logged
    for line in lines:
        assert list(line) == [
            "step",
            "loss",
            "loss_max",
            "grad_norm",
            "grad_norm_std",
            "grad_norm_min",
            "grad_norm_max",
            "loss_spikes",
            "grad_spikes",
            "images",
            "lr",
            "update_ratio",
            "ema_decay",
            "noise_scale_signal",
            "noise_scale_noise",
            "noise_scale",
            "images_per_second",
            "data_seconds",
        ]
        assert line["images"] == 8 * line["step"]
        assert line["lr"] == learning_rate_at(
            line["step"] - 1, trainer.config.optimizer, trainer.config.train.num_steps
        )
        assert line["ema_decay"] == pytest.approx(0.5 ** (1 / (0.05 * line["step"])))
        ratio = line.pop("noise_scale")  # no number where noise hides the signal
        signal, noise = line["noise_scale_signal"], line["noise_scale_noise"]
        assert ratio == (noise / signal if signal > 0 else None)
        assert all(math.isfinite(value) for value in line.values() if value is not None)
        assert line["images_per_second"] > 0
        assert 0 < line["data_seconds"] < 60


def test_log_line_sums_up_its_window(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, {"train.num_steps": 4, "train.log_every_steps": 4})
    norms, losses = [], []
    for _ in range(3):
        trainer.train_step()
    for loss, norm in trainer.log.window().double().tolist():
        losses.append(loss)
        norms.append(norm)
    before = weights(trainer)
    trainer.log.write = lambda step, **values: captured.update(values)
    captured: dict[str, float] = {}
    trainer.train_step()
    loss, norm = trainer.log.window()[-1].double().tolist()
    losses.append(loss)
    norms.append(norm)
    after = weights(trainer)
    change = sum((after[n] - before[n]).double().pow(2).sum() for n in before)
    size = sum(before[n].double().pow(2).sum() for n in before)
    assert captured["update_ratio"] == pytest.approx(float((change / size).sqrt()), rel=1e-5)
    del trainer.log.write
    trainer.log.write(4)
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    mean = sum(norms) / 4
    assert line["loss"] == pytest.approx(sum(losses) / 4)
    assert line["loss_max"] == pytest.approx(max(losses))
    assert line["grad_norm"] == pytest.approx(mean)
    assert line["grad_norm_std"] == pytest.approx((sum((n - mean) ** 2 for n in norms) / 4) ** 0.5)
    assert line["grad_norm_min"] == pytest.approx(min(norms))
    assert line["grad_norm_max"] == pytest.approx(max(norms))
    assert trainer.log.window().shape == (0, 2)


def test_restored_window_lies_where_training_does(tmp_path: Path) -> None:
    accelerator = SimpleNamespace(is_main_process=False, device=torch.device("meta"))
    folder: Any = None
    log = TrainLog(accelerator, folder, batch_size=8, num_steps=4, show_progress=False)
    log.restore(torch.ones(2, 2))
    log.add(torch.ones((), device="meta"), torch.ones((), device="meta"))
    assert log.window().shape == (3, 2)


def test_gradient_norm_is_logged_as_it_was_before_clipping(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, {"train.num_steps": 6, "train.log_every_steps": 6})
    add = trainer.log.add
    clipped = []

    def added(loss: Tensor, grad_norm: Tensor) -> None:
        clipped.append(grad_norm.item())
        add(loss, grad_norm)

    trainer.log.add = added
    loss = trainer.diffusion.loss
    trainer.diffusion.loss = lambda *a: loss(*a) * (1e6 if trainer.step == 3 else 1)
    trainer.fit()  # a spike is no divergence: it is clipped, and seen in the log
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line["grad_norm_max"] == pytest.approx(max(clipped)) == pytest.approx(clipped[3])
    assert clipped[3] > 1e4
    assert all(torch.isfinite(tensor).all() for tensor in weights(trainer).values())


def test_tasks_get_the_average_at_their_steps(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, {"train.num_steps": 6})
    calls: list[tuple[int, bool]] = []

    def measure(step: int, model: nn.Module) -> dict[str, object]:
        calls.append((step, model is trainer.ema.model))
        return {"fd": 1.5, "name": "digits"}

    never: Any = pytest.fail
    trainer.tasks = (PeriodicTask(3, measure), PeriodicTask(0, never))
    trainer.fit()
    assert calls == [(3, True), (6, True)]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line for line in lines if "fd" in line] == [
        {"step": 3, "fd": 1.5, "name": "digits"},
        {"step": 6, "fd": 1.5, "name": "digits"},
    ]
