"""How a batch is shared among processes, and the learning rate of a step."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.runs import (
    tiny_config,
)
from uvit_dia.config.schema import OptimizerConfig
from uvit_dia.runs.folder import RunFolder
from uvit_dia.system.errors import InputError
from uvit_dia.training.build import make_trainer
from uvit_dia.training.noised_batch import rows_of_rank
from uvit_dia.training.optimizer import learning_rate_at


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


# ---------------------------------------------------------------- shares of a batch


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
