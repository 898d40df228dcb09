"""The gradient noise scale of a step, and that looking at it changes nothing."""

import json
from pathlib import Path

import pytest
import torch

from tests.support.runs import (
    log_lines,
    tiny_trainer,
    weights,
)
from tests.support.spies import spy_on_inputs
from uvit_dia import rng


def test_noise_scale_is_that_of_the_gradients_of_each_image(tmp_path: Path) -> None:
    """Both terms follow from half and whole gradient of a step, and training does not notice."""
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
