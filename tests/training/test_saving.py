"""When a run is saved, and from which checkpoints it may go on."""

import json
from pathlib import Path

import pytest
import torch

from tests.support.runs import (
    tiny_trainer,
    tree,
    weights,
)
from uvit_dia.runs import resume as run_checkpoints
from uvit_dia.system.errors import InputError


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
