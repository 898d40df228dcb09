"""The penalty that an attention unit adds to what is minimised, but not to the logged loss."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.runs import log_lines, tiny_trainer


def step_with(path: Path, penalty: float, accumulation_steps: int) -> tuple[Tensor, float]:
    """Take a step of SPEM; return the gradient of its mixture and the loss that is logged."""
    changes: dict[str, Any] = {
        "model.attention": "spem",
        "model.attention_options.mixture_penalty": penalty,
        "model.attention_options.gate_init": "paper",
        "train.accumulation_steps": accumulation_steps,
        "train.log_every_steps": 1,
        "optimizer.max_grad_norm": 0.0,
    }
    trainer = tiny_trainer(path, changes)
    gradients: list[Tensor] = []
    mixture = trainer.model.attention_unit.mixture
    mixture.register_post_accumulate_grad_hook(lambda p: gradients.append(p.grad.clone()))
    trainer.train_step()
    assert len(gradients) == accumulation_steps
    return gradients[-1], log_lines(path)[0]["loss"]


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_spems_penalty_reaches_the_gradient_and_not_the_loss(
    tmp_path: Path, accumulation_steps: int
) -> None:
    """0.1 (p_1² + p_2²) a block adds 0.2 p a block to the gradient, however the batch is split."""
    (with_it, its_loss), (without, loss) = (
        step_with(tmp_path / str(weight), weight, accumulation_steps) for weight in (0.1, 0.0)
    )
    model_blocks = 3
    expected = torch.full((2,), model_blocks * 0.2 * 0.5)
    torch.testing.assert_close(with_it - without, expected, rtol=1e-5, atol=1e-6)
    assert its_loss == loss
