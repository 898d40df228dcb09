"""A training step: by hand, in parts, in bf16; the average follows; a trivial task is learnt."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.support.runs import (
    step_folder,
    tiny_config,
    tiny_trainer,
    weights,
)
from tests.support.spies import spy_on_inputs
from uvit_dia import rng
from uvit_dia.data.batches import BatchOrder
from uvit_dia.data.sources import load_image_set
from uvit_dia.models.build import make_model


def alphas_cumprod() -> Tensor:
    """Return alpha-bar of the cosine schedule in float64 (Eq. 17, Nichol and Dhariwal 2021)."""

    def f(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - f((t + 1) / 1000) / f(t / 1000), 0.999) for t in range(1000)]
    return torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), dim=0)


def train_by_hand(config: Any, num_steps: int) -> tuple[nn.Module, list[Tensor], list[float]]:
    """Train as documented, in plain torch; return the model, its averaged weights, the losses."""
    batch_size, seed = config.train.batch_size, config.seed
    images = load_image_set("digits", "", "train", img_size=8, in_chans=1)
    assert images is not None
    model = make_model(config)
    average = [p.detach().clone() for p in model.parameters()]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in model.parameters()]
    alpha_bar = alphas_cumprod()
    losses = []
    for step in range(num_steps):
        rows = range(batch_size)
        chosen = [
            rng.permutation(seed, "batch order", epoch, len(images))[place]
            for epoch, place in (divmod(step * batch_size + row, len(images)) for row in rows)
        ]
        x_0 = images.images[torch.stack(chosen)].float() / 255 * 2 - 1
        if config.data.random_flip:
            flips = rng.integer_rows(seed, "flip", step, rows, batch_size, 2)
            x_0 = torch.stack([x.flip(2) if f else x for x, f in zip(x_0, flips, strict=True)])
        timesteps = rng.integer_rows(seed, "timesteps", step, rows, batch_size, 1000)
        eps = rng.normal_rows(seed, "eps", step, rows, batch_size, (1, 8, 8))
        dropout_seeds = rng.integer_rows(seed, "dropout", step, rows, batch_size, 2**62)
        a = alpha_bar[timesteps].float()[:, None, None, None]
        x_t = a.sqrt() * x_0 + (1 - a).sqrt() * eps
        kind = config.diffusion.prediction_type
        target = {
            "epsilon": eps,
            "sample": x_0,
            "v_prediction": a.sqrt() * eps - (1 - a).sqrt() * x_0,
        }[kind]
        snr = a / (1 - a)
        weight = torch.ones_like(a)
        if config.diffusion.loss_weighting == "min_snr":
            scale = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}[kind]
            weight = snr.clamp(max=config.diffusion.min_snr_gamma) / scale
        prediction = model(x_t, timesteps, dropout_seeds=dropout_seeds)
        loss = (weight * (prediction - target) ** 2).mean()
        losses.append(loss.item())
        grads = torch.autograd.grad(loss, list(model.parameters()))
        norm = torch.sqrt(sum(g.double().pow(2).sum() for g in grads))
        clip = min(1.0, config.optimizer.max_grad_norm / float(norm))
        rate = config.optimizer.learning_rate
        rate *= min(1, (step + 1) / config.optimizer.warmup_steps)
        rate *= (1 + math.cos(math.pi * step / config.train.num_steps)) / 2
        beta_1, beta_2 = config.optimizer.betas
        halflife = config.ema.rampup_ratio * (step + 1) * batch_size
        decay = min(config.ema.decay, 2 ** (-batch_size / halflife))
        with torch.no_grad():
            for p, g, (m, v), e in zip(model.parameters(), grads, moments, average, strict=True):
                p.mul_(1 - rate * config.optimizer.weight_decay)
                m.add_((1 - beta_1) * (clip * g - m))
                v.add_((1 - beta_2) * ((clip * g) ** 2 - v))
                m_hat, v_hat = m / (1 - beta_1 ** (step + 1)), v / (1 - beta_2 ** (step + 1))
                p.sub_(rate * m_hat / (v_hat.sqrt() + config.optimizer.eps))
                e.add_((1 - decay) * (p - e))
    return model, average, losses


@pytest.mark.parametrize(
    "changes",
    [
        {"diffusion.prediction_type": "epsilon"},
        {"diffusion.prediction_type": "v_prediction"},
        {"diffusion.prediction_type": "sample"},
        {"diffusion.prediction_type": "epsilon", "diffusion.loss_weighting": "min_snr"},
        {"diffusion.prediction_type": "v_prediction", "diffusion.loss_weighting": "min_snr"},
        {"diffusion.prediction_type": "sample", "diffusion.loss_weighting": "min_snr"},
        {"model.attention_options.num_cells": 3},
        {"data.random_flip": True, "optimizer.max_grad_norm": 0.05, "optimizer.weight_decay": 0.1},
    ],
    ids=lambda changes: ", ".join(str(value) for value in changes.values()),
)
def test_steps_are_those_written_by_hand(tmp_path: Path, changes: dict[str, object]) -> None:
    # A large eps of Adam: with a tiny one, rounding of a vanishing gradient would move a weight.
    changes = {"optimizer.eps": 1e-3, **changes}
    trainer = tiny_trainer(tmp_path, changes)
    assert not trainer.resume()  # as every run begins
    model, average, losses = train_by_hand(tiny_config(changes), 5)
    start = weights(trainer)
    found = []
    for _ in range(5):
        trainer.train_step()
        found.extend(trainer.log.window()[-1:, 0].tolist())
    assert trainer.step == 5
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = [sum(losses[0:2]) / 2, sum(losses[2:4]) / 2]
    torch.testing.assert_close([line["loss"] for line in lines], logged, rtol=1e-5, atol=0)
    assert found[-1] == pytest.approx(losses[4], rel=1e-5)
    expected = dict(model.named_parameters())
    torch.testing.assert_close(weights(trainer), expected, rtol=0, atol=1e-6)
    averaged = list(trainer.ema.model.parameters())
    torch.testing.assert_close(averaged, average, rtol=0, atol=1e-6)
    moved = torch.cat([(start[n] - p).abs().flatten() for n, p in expected.items()])
    assert moved.max() > 1e-4  # far above the tolerance


def test_accumulation_changes_neither_batch_nor_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for parts in (1, 4):
        changes = {
            "train.accumulation_steps": parts,
            "optimizer.eps": 1e-3,
            "model.attention_options.num_cells": 3,  # with dropout
        }
        trainer = tiny_trainer(tmp_path / str(parts), changes)
        seen = spy_on_inputs(trainer)
        monkeypatch.setattr(trainer, "_noise_scale", lambda *_: {})  # which looks at half a part
        trainer.fit()
        assert [len(x_t) for x_t, _ in seen] == [8 // parts] * (12 * parts)
        found[parts] = (*map(torch.cat, zip(*seen, strict=True)), weights(trainer))
    assert torch.equal(found[1][0], found[4][0])
    assert torch.equal(found[1][1], found[4][1])
    torch.testing.assert_close(found[1][2], found[4][2], rtol=0, atol=1e-6)
    assert any(not torch.equal(found[1][2][n], found[4][2][n]) for n in found[1][2])  # it did split


# ---------------------------------------------------------------- precision, average, learning


def test_bf16_computes_shorter_and_keeps_weights_whole(tmp_path: Path) -> None:
    short = tiny_trainer(tmp_path / "bf16", {"train.mixed_precision": "bf16"})
    inside: list[torch.dtype] = []
    short.model.mid_block.mlp.fc1.register_forward_hook(lambda *a: inside.append(a[2].dtype))
    short.fit()
    whole = tiny_trainer(tmp_path / "no")
    whole.fit()
    assert set(inside) == {torch.bfloat16}
    saved = load_file(step_folder(tmp_path / "bf16", 12) / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    differences = [(w - weights(whole)[n]).abs().max().item() for n, w in weights(short).items()]
    assert 1e-6 < max(differences) < 0.02
    last = [
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1])["loss"]
        for name in ("bf16", "no")
    ]
    assert last[0] == pytest.approx(last[1], rel=0.02)


@pytest.mark.parametrize(
    ("ema", "decay"),
    [
        ({"ema.decay": 0.75, "ema.rampup_ratio": 0.0}, lambda step: 0.75),
        (
            {"ema.decay": 0.0, "ema.halflife_images": 16, "ema.rampup_ratio": 0.0},
            lambda step: 0.5**0.5,
        ),
        (
            {"ema.decay": 0.75, "ema.rampup_ratio": 0.5},
            lambda step: min(0.75, 0.5 ** (1 / (0.5 * (step + 1)))),
        ),
    ],
    ids=["decay", "half-life", "ramp-up"],
)
def test_average_follows_the_updated_weights(
    tmp_path: Path, ema: dict[str, object], decay: Callable[[int], float]
) -> None:
    trainer = tiny_trainer(tmp_path, ema)
    expected = {name: tensor.double() for name, tensor in weights(trainer).items()}
    for step in range(6):
        trainer.train_step()
        for name, tensor in weights(trainer).items():
            expected[name] = decay(step) * expected[name] + (1 - decay(step)) * tensor.double()
    found = {name: p.double() for name, p in trainer.ema.model.named_parameters()}
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert not trainer.ema.model.training
    assert not any(p.requires_grad for p in trainer.ema.model.parameters())


def test_a_trivial_task_is_learnt(tmp_path: Path) -> None:
    changes = {
        "diffusion.prediction_type": "sample",
        "optimizer.learning_rate": 0.01,
        "optimizer.lr_schedule": "constant",
        "train.num_steps": 80,
        "train.log_every_steps": 10,
    }
    trainer = tiny_trainer(tmp_path, changes)
    trainer.batches.images = trainer.batches.images[:1].expand(1797, -1, -1, -1)  # always one image
    trainer.fit()
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert losses[-1] < 0.1 * losses[0]


def test_order_of_batches_is_that_of_the_data_module(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path)
    assert isinstance(trainer.batches.order, BatchOrder)
    seen = spy_on_inputs(trainer)
    trainer.train_step()
    x_0 = trainer.batches.images[trainer.batches.order.indices(0, range(8))].float() / 127.5 - 1
    timesteps = seen[0][1]
    a = alphas_cumprod()[timesteps].float()[:, None, None, None]
    eps = (seen[0][0] - a.sqrt() * x_0) / (1 - a).sqrt()
    expected = rng.normal_rows(0, "eps", 0, range(8), 8, (1, 8, 8))
    assert F.mse_loss(eps, expected) < 1e-6
