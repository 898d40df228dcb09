"""The examples' training loop: an interrupted run is the same run, and folders are not mixed up."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from examples.training import MAX_GRAD_NORM, fit, load_weights
from uvit_dia.system.errors import InputError


class Line:
    """Fits a line, with dropout, so that the draws of an epoch matter; may fail or diverge."""

    seed = 5
    num_epochs = 4
    batch_size = 6
    eval_every_epochs = 1
    max_grad_norm = MAX_GRAD_NORM

    def __init__(self, *, fails_at: int | None = None, diverges_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.facts = {"name": "line", "seed": self.seed, "widths": (3, 8)}
        self.fails_at, self.diverges_at = fails_at, diverges_at
        self.factors: list[float] = []
        self.epoch = -1

    def make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)

    def lr_factor(self, epoch: float) -> float:
        self.factors.append(epoch)
        return 1 / (1 + epoch)

    def num_batches(self) -> int:
        return 3

    def batches(self, epoch: int, accelerator: Accelerator) -> Iterator[tuple[Tensor, Tensor]]:
        self.epoch = epoch
        draw = torch.Generator().manual_seed(epoch)
        for _ in range(3):
            x = torch.randn(6, 3, generator=draw)
            yield x, x.sum(dim=1, keepdim=True)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        loss = (model(x) - y).square().mean()
        return loss * float("nan") if self.epoch == self.diverges_at else loss

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, object]:
        assert not model.training
        assert not torch.is_grad_enabled()
        if self.epoch == self.fails_at:
            raise KeyboardInterrupt
        return {"bias": float(model[2].bias[0])}


def weights(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "state.pt", weights_only=True)["model"]


def without_times(folder: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def test_an_interrupted_run_is_the_same_run(tmp_path: Path) -> None:
    fit(Line(), tmp_path / "whole", Accelerator())
    with pytest.raises(KeyboardInterrupt):
        fit(Line(fails_at=2), tmp_path / "cut", Accelerator())
    assert len(without_times(tmp_path / "cut")) == 2
    record = fit(Line(), tmp_path / "cut", Accelerator())
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert without_times(tmp_path / "whole") == without_times(tmp_path / "cut")
    assert record["epoch"] == 4
    assert json.loads((tmp_path / "cut" / "record.json").read_text())["bias"] == record["bias"]


def test_the_learning_rate_follows_the_task(tmp_path: Path) -> None:
    task = Line()
    fit(task, tmp_path / "run", Accelerator())
    assert task.factors == pytest.approx([i / 3 for i in range(12)])


def test_evaluations_may_be_rarer(tmp_path: Path) -> None:
    task = Line()
    task.num_epochs, task.eval_every_epochs = 5, 2
    fit(task, tmp_path / "run", Accelerator())
    lines = without_times(tmp_path / "run")
    assert [line["epoch"] for line in lines if "bias" in line] == [2, 4, 5]


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = fit(Line(), tmp_path / "run", Accelerator())
    task = Line()
    again = fit(task, tmp_path / "run", Accelerator())
    assert task.factors == []
    assert again["bias"] == first["bias"]


def test_a_loss_that_is_not_finite_is_a_result(tmp_path: Path) -> None:
    record = fit(Line(diverges_at=1), tmp_path / "run", Accelerator())
    assert record["diverged"] is True
    assert record["train_loss"] is None
    assert record["epoch"] == 2
    again = fit(Line(), tmp_path / "run", Accelerator())
    assert again["epoch"] == 2  # and it stays one


def test_other_folders_are_refused(tmp_path: Path) -> None:
    fit(Line(), tmp_path / "run", Accelerator())
    other = Line()
    other.facts = {**other.facts, "widths": (3, 9)}
    with pytest.raises(InputError, match=r"its widths is \[3, 8\], not \[3, 9\]"):
        fit(other, tmp_path / "run", Accelerator())
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        fit(Line(), tmp_path / "files", Accelerator())
    assert (tmp_path / "files" / "thesis.txt").read_text() == "mine"


def test_weights_are_loaded(tmp_path: Path) -> None:
    fit(Line(), tmp_path / "run", Accelerator())
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    load_weights(tmp_path / "run", model)
    assert torch.equal(model[0].weight, weights(tmp_path / "run")["0.weight"])
    with pytest.raises(InputError, match=r"holds no run"):
        load_weights(tmp_path, model)
