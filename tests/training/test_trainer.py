"""The training loop: one step by hand, and what it does when a number is not finite."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.support.runs import (
    checkpoint_hashes,
    log_lines,
    step_folder,
    tiny_config,
    tiny_trainer,
    tree,
    weights,
)
from uvit_dia import rng
from uvit_dia.config.schema import OptimizerConfig
from uvit_dia.data.batches import BatchOrder
from uvit_dia.data.sources import load_image_set
from uvit_dia.models.build import make_model
from uvit_dia.runs import resume as run_checkpoints
from uvit_dia.runs.folder import RunFolder
from uvit_dia.system.errors import EXIT_DIVERGED, DivergedError, InputError
from uvit_dia.training.build import make_trainer
from uvit_dia.training.log import TrainLog
from uvit_dia.training.noised_batch import rows_of_rank
from uvit_dia.training.optimizer import learning_rate_at
from uvit_dia.training.trainer import PeriodicTask, Trainer

# ---------------------------------------------------------------- a step by hand


def alphas_cumprod() -> Tensor:
    """Return alpha-bar of the cosine schedule (Nichol and Dhariwal 2021, Eq. 17; betas cut at 0.999), in float64."""

    def f(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - f((t + 1) / 1000) / f(t / 1000), 0.999) for t in range(1000)]
    return torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), dim=0)


def train_by_hand(config: Any, num_steps: int) -> tuple[nn.Module, list[Tensor], list[float]]:
    """Train as the documents say, in plain torch; return the model, the average of its weights and the losses."""
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
    # A large eps of Adam: with a tiny one, rounding of a vanishing gradient would decide a weight's direction.
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


# ---------------------------------------------------------------- learning rate


def optimizer(lr_schedule: str = "constant", warmup_steps: int = 0) -> OptimizerConfig:
    return replace(
        tiny_config().optimizer,
        learning_rate=0.2,
        lr_schedule=lr_schedule,
        warmup_steps=warmup_steps,
    )


@pytest.mark.parametrize("warmup_steps", [0, 1, 10])
def test_learning_rate_warms_up_and_stays(warmup_steps: int) -> None:
    chosen = optimizer(warmup_steps=warmup_steps)
    rates = [learning_rate_at(step, chosen, 100) for step in range(100)]
    expected = [
        0.2 * (step + 1) / 10 if step < min(warmup_steps, 10) - 1 else 0.2 for step in range(100)
    ]
    assert rates == pytest.approx(expected)
    assert rates[0] > 0  # the first step is no wasted one


def test_cosine_falls_to_zero_at_the_end() -> None:
    chosen = optimizer("cosine", warmup_steps=10)
    assert learning_rate_at(9, chosen, 100) == pytest.approx(0.2 * math.cos(math.pi * 9 / 200) ** 2)
    assert learning_rate_at(50, chosen, 100) == pytest.approx(0.1)
    assert learning_rate_at(25, chosen, 100) == pytest.approx(0.2 * (1 + 0.5**0.5) / 2)
    assert learning_rate_at(99, chosen, 100) == pytest.approx(0.2 * math.sin(math.pi / 200) ** 2)
    assert learning_rate_at(100, chosen, 100) == pytest.approx(0, abs=1e-12)


# ---------------------------------------------------------------- parts of a batch


def spy_on_inputs(trainer: Trainer) -> list[tuple[Tensor, Tensor]]:
    seen: list[tuple[Tensor, Tensor]] = []
    trainer.model.register_forward_pre_hook(lambda _, inputs: seen.append((inputs[0], inputs[1])))
    return seen


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


@pytest.mark.parametrize(("num_processes", "parts"), [(1, 1), (2, 1), (3, 2), (4, 6)])
def test_ranks_share_a_batch_without_gap_or_overlap(num_processes: int, parts: int) -> None:
    shares = [rows_of_rank(48, parts, rank, num_processes) for rank in range(num_processes)]
    assert [row for share in shares for row in share] == list(range(48))
    assert len({len(share) for share in shares}) == 1


@pytest.mark.parametrize(
    ("batch_size", "parts", "num_processes"), [(9, 1, 2), (8, 3, 1), (12, 4, 2)]
)
def test_a_batch_that_cannot_be_shared_is_refused(
    batch_size: int, parts: int, num_processes: int
) -> None:
    with pytest.raises(InputError) as raised:
        rows_of_rank(batch_size, parts, 0, num_processes)
    message = str(raised.value)
    assert (
        f"train.batch_size = {batch_size} is not divisible by {num_processes} processes" in message
    )
    assert f"train.accumulation_steps = {parts}" in message


def test_srm_needs_two_images_a_process_and_accumulation_step(tmp_path: Path) -> None:
    config = tiny_config({"model.attention": "srm", "train.accumulation_steps": 4})  # of 8 images
    launch: Any = SimpleNamespace(num_processes=2)  # all that is asked for before data are read
    with pytest.raises(InputError, match=r"is 1 image for each of 2 processes x train.acc.* = 4;"):
        make_trainer(config, RunFolder(tmp_path), launch)
    with pytest.raises(
        InputError, match=r"train.batch_size = 1 is 1 image for each of 1 processes"
    ):
        tiny_config({"model.attention": "srm", "train.batch_size": 1})
    tiny_config({"train.batch_size": 1})  # another unit


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


# ---------------------------------------------------------------- the log


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
    log = TrainLog(accelerator, None, batch_size=8, num_steps=4, show_progress=False)  # type: ignore[arg-type]
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

    trainer.tasks = (PeriodicTask(3, measure), PeriodicTask(0, pytest.fail))  # type: ignore[arg-type]
    trainer.fit()
    assert calls == [(3, True), (6, True)]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line for line in lines if "fd" in line] == [
        {"step": 3, "fd": 1.5, "name": "digits"},
        {"step": 6, "fd": 1.5, "name": "digits"},
    ]


# ---------------------------------------------------------------- values that are not finite


def spoil(trainer: Trainer, kind: str, step: int) -> None:
    """Make the loss, or one number of the gradient, non-finite at a step."""
    value = {"nan": math.nan, "inf": math.inf}[kind.split()[1]]
    if kind.startswith("loss"):
        loss = trainer.diffusion.loss
        trainer.diffusion.loss = lambda *a: loss(*a) + (value if trainer.step == step else 0)  # type: ignore[method-assign]
        return

    def hook(grad: Tensor) -> Tensor:
        if trainer.step != step:
            return grad
        grad = grad.clone()
        grad.flatten()[0] = value
        return grad

    next(trainer.model.parameters()).register_hook(hook)


def assert_finite_on_disk(run: Path) -> None:
    for path in run.rglob("*.safetensors"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(path).values()), path
    for line in (run / "metrics.jsonl").read_text().splitlines():
        assert all(math.isfinite(value) for value in json.loads(line).values() if value is not None)


KINDS = ("loss nan", "loss inf", "gradient nan", "gradient inf")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [0, 5, 7, 11])  # the first, one off a log step, on one, the last
@pytest.mark.reliability("G11", "NaN, Inf in loss or gradient: stop before the update")
def test_nothing_non_finite_reaches_the_weights(tmp_path: Path, kind: str, step: int) -> None:
    clean = tiny_trainer(tmp_path / "clean")
    for _ in range(step):
        clean.train_step()
    trainer = tiny_trainer(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").touch()
    spoil(trainer, kind, step)
    with pytest.raises(DivergedError, match=f"non-finite at step {step};") as raised:
        trainer.fit()
    assert raised.value.exit_code == EXIT_DIVERGED == 3
    torch.testing.assert_close(weights(trainer), weights(clean), rtol=0, atol=0)
    assert_finite_on_disk(tmp_path / "run")
    last = step // 4 * 4
    if last:
        assert str(raised.value).endswith(str(step_folder(tmp_path / "run", last)))
        again = tiny_trainer(tmp_path / "run")
        assert again.resume()
        assert again.step == last
    else:
        assert str(raised.value).endswith("Last checkpoint: none")
        assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_on_an_accelerator_the_optimizer_skips_until_the_log_step(
    tmp_path: Path, kind: str
) -> None:
    changes = {"train.log_every_steps": 4, "train.checkpoint_every_steps": 4}
    clean = tiny_trainer(tmp_path / "clean", changes)
    for _ in range(5):
        clean.train_step()
    trainer = tiny_trainer(tmp_path / "run", changes)
    trainer._fused_skips_updates = True
    spoil(trainer, kind, 5)
    for _ in range(7):  # step 6 is good again, and skipped too: the host has not looked yet
        trainer.train_step()
    torch.testing.assert_close(weights(trainer), weights(clean), rtol=0, atol=0)
    for p, q in zip(trainer.model.parameters(), clean.model.parameters(), strict=True):
        torch.testing.assert_close(trainer.optimizer.state[p], clean.optimizer.state[q])
    with pytest.raises(DivergedError, match="non-finite at step 5;"):
        trainer.train_step()
    with pytest.raises(DivergedError, match="non-finite at step 5;"):
        trainer.save()
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert_finite_on_disk(tmp_path / "run")


def test_good_steps_are_the_same_whoever_skips(tmp_path: Path) -> None:
    found = []
    for skips in (False, True):
        trainer = tiny_trainer(tmp_path / str(skips))
        trainer._fused_skips_updates = skips
        trainer.fit()
        found.append(checkpoint_hashes(step_folder(tmp_path / str(skips), 12)))
    assert found[0] == found[1]


def test_tasks_never_see_a_diverged_model(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, {"train.log_every_steps": 12})
    trainer._fused_skips_updates = True
    spoil(trainer, "loss nan", 1)
    trainer.tasks = (PeriodicTask(3, lambda *_: pytest.fail("called")),)
    with pytest.raises(DivergedError, match="at step 1;"):
        trainer.fit()
    assert trainer.step == 3


@pytest.mark.parametrize("place", ["weight", "average", "moment"])
@pytest.mark.reliability("G11", "non-finite state: not saved")
def test_a_checkpoint_never_holds_a_non_finite_value(tmp_path: Path, place: str) -> None:
    trainer = tiny_trainer(tmp_path)
    for _ in range(4):
        trainer.train_step()
    trainer.save()
    parameter = next(trainer.model.parameters())
    tensor, name = {
        "weight": (parameter, "model tensor pos_embed"),
        "average": (next(trainer.ema.model.parameters()), "ema tensor pos_embed"),
        "moment": (trainer.optimizer.state[parameter]["exp_avg_sq"], "pos_embed.exp_avg_sq"),
    }[place]
    trainer.step += 1
    tensor.data.flatten()[0] = math.inf  # as broken memory might
    with pytest.raises(DivergedError, match=f"{name} became non-finite by step 5") as raised:
        trainer.save()
    assert str(step_folder(tmp_path, 4)) in str(raised.value)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000004"]
    assert_finite_on_disk(tmp_path)


# ---------------------------------------------------------------- a run that lies there


def test_trainer_saves_on_time_and_at_the_end(tmp_path: Path) -> None:
    changes = {"train.num_steps": 7, "train.checkpoint_every_steps": 3, "train.keep_checkpoints": 3}
    trainer = tiny_trainer(tmp_path, changes)
    trainer.fit()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step_00000003", "step_00000006", "step_00000007"]
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["step"], status["num_steps"]) == (7, 7)
    before = tree(tmp_path)
    again = tiny_trainer(tmp_path, changes)
    assert again.resume()
    again.fit()  # nothing is left to do
    assert tree(tmp_path) == before


def test_another_architecture_is_refused_and_the_model_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_trainer(tmp_path).fit()
    before = tree(tmp_path)
    other = tiny_trainer(tmp_path, {"model.depth": 4})
    monkeypatch.setattr(run_checkpoints, "forbidden_changes", lambda *_: [])
    start = weights(other)
    with pytest.raises(InputError, match=r"of another architecture, .* tensors differ"):
        other.resume()
    torch.testing.assert_close(weights(other), start, rtol=0, atol=0)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"optimizer.weight_decay": 0.5}, {"model.depth": 4}]
)
def test_a_checkpoint_of_another_config_is_refused(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    tiny_trainer(tmp_path).fit()  # a Trainer writes no config.json into the run's folder
    before = tree(tmp_path)
    key = next(iter(changes))
    with pytest.raises(InputError, match=f"is of another config .*{key}: .* -> "):
        tiny_trainer(tmp_path, changes).resume()
    assert tree(tmp_path) == before


def test_other_library_versions_are_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = tiny_trainer(tmp_path)
    trainer.fit()
    again = tiny_trainer(tmp_path)
    capsys.readouterr()
    assert again.resume()
    assert "warning" not in capsys.readouterr().err
    monkeypatch.setattr("uvit_dia.runs.resume.versions", lambda: {"torch": "0.1"})
    assert again.resume()
    assert "made with other library versions" in capsys.readouterr().err


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


# ---------------------------------------------------------------- the noise scale


def test_noise_scale_is_that_of_the_gradients_of_each_image(tmp_path: Path) -> None:
    """The two terms of a step follow from its half and whole gradient, and training does not notice."""
    trainer = tiny_trainer(tmp_path / "a", {"train.log_every_steps": 1, "train.num_steps": 1})
    quiet = tiny_trainer(tmp_path / "b", {"train.log_every_steps": 1, "train.num_steps": 1})
    quiet._noise_scale = lambda *_: {}  # type: ignore[method-assign]
    start = [p.detach().clone() for p in trainer.model.parameters()]
    seen = spy_on_inputs(trainer)
    trainer.fit()
    quiet.fit()
    torch.testing.assert_close(weights(trainer), weights(quiet), rtol=0, atol=0)
    line = json.loads((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[0])
    with torch.no_grad():
        for parameter, value in zip(trainer.model.parameters(), start, strict=True):
            parameter.copy_(value)
    x_t, timesteps = seen[0]
    x_0 = trainer.batches.x_0(0, trainer.rows)
    eps = rng.normal_rows(trainer.config.seed, "eps", 0, trainer.rows, 8, tuple(x_0.shape[1:]))
    target = trainer.diffusion.target(x_0, eps, timesteps)
    squared = {}
    for size in (4, 8):
        prediction = trainer.model(x_t[:size], timesteps[:size])
        loss = (prediction - target[:size]).square().mean()
        gradients = torch.autograd.grad(loss, list(trainer.model.parameters()))
        squared[size] = float(sum(g.square().sum() for g in gradients))
    assert line["noise_scale_signal"] == pytest.approx(2 * squared[8] - squared[4], rel=1e-4)
    assert line["noise_scale_noise"] == pytest.approx(8 * (squared[4] - squared[8]), rel=1e-4)


SRM: dict[str, object] = {"model.attention": "srm"}  # which normalises over the batch


def test_looking_more_often_changes_nothing(tmp_path: Path) -> None:
    found = []
    for interval in (1, 100):
        trainer = tiny_trainer(
            tmp_path / str(interval),
            {**SRM, "train.log_every_steps": interval, "train.num_steps": 5},
        )
        trainer.fit()
        found.append((trainer.model.state_dict(), trainer.ema.model.state_dict()))
    assert any(name.endswith("running_var") for name in found[0][0])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize(("batch_size", "is_measured"), [(2, False), (3, False), (4, True)])
def test_noise_scale_needs_two_images_to_normalise_by(
    tmp_path: Path, batch_size: int, is_measured: bool
) -> None:
    changes = {**SRM, "train.batch_size": batch_size, "train.num_steps": 2}
    tiny_trainer(tmp_path, changes).fit()
    (line,) = log_lines(tmp_path)
    assert ("noise_scale" in line) == is_measured
