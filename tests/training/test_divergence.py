"""Values that are not finite reach neither weights nor disk."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.support.runs import (
    checkpoint_hashes,
    step_folder,
    tiny_trainer,
    weights,
)
from uvit_dia.system.errors import EXIT_DIVERGED, DivergedError
from uvit_dia.training.tasks import PeriodicTask
from uvit_dia.training.trainer import Trainer


def spoil(trainer: Trainer, kind: str, step: int) -> None:
    """Make the loss, or one number of the gradient, non-finite at a step."""
    value = {"nan": math.nan, "inf": math.inf}[kind.split()[1]]
    if kind.startswith("loss"):
        loss = trainer.diffusion.loss
        diffusion: Any = trainer.diffusion
        diffusion.loss = lambda *a: loss(*a) + (value if trainer.step == step else 0)
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
    trainer.guard.skips_updates = True
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
        trainer.guard.skips_updates = skips
        trainer.fit()
        found.append(checkpoint_hashes(step_folder(tmp_path / str(skips), 12)))
    assert found[0] == found[1]


def test_tasks_never_see_a_diverged_model(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, {"train.log_every_steps": 12})
    trainer.guard.skips_updates = True
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
