"""Trackers of others: stand-ins of wandb and trackio that write down what they are told."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from accelerate.utils import LoggerType

import train
from tests.support.runs import tiny_trainer, train_arguments
from uvit_dia.system.errors import InputError
from uvit_dia.training import trackers
from uvit_dia.training.trackers import start_trackers, usable_tracker

CHANGES: dict[str, object] = {
    "train.sample_every_steps": 6,
    "train.eval_every_steps": 6,
    "train.held_out_every_steps": 6,
    "data.held_out_images": 100,
    "sample.num_steps": 3,
    "sample.grid_images": 4,
    "eval.num_images": 70,
}


class Tracker:
    """What a stand-in was told, over all starts."""

    def __init__(self) -> None:
        self.inits: list[dict[str, Any]] = []
        self.configs: list[dict[str, Any]] = []
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0

    def install(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        tracker = self

        class Run:
            def log(self, values: dict[str, Any], step: int, **options: Any) -> None:
                tracker.rows.append((step, values))

            def finish(self) -> None:
                tracker.finished += 1

        class Image:
            def __init__(self, value: np.ndarray, **options: Any) -> None:
                self.value = value

        class Config:
            def update(self, values: dict[str, Any], **options: Any) -> None:
                tracker.configs.append(values)

        module: Any = ModuleType(name)
        module.__spec__ = __import__("importlib.machinery").machinery.ModuleSpec(name, None)
        module.__version__ = "9.9.9"
        module.Image, module.config = Image, Config()

        def init(**options: Any) -> Run:
            tracker.inits.append(options)
            return Run()

        module.init = init
        monkeypatch.setitem(sys.modules, name, module)
        # what Accelerate asks whether the package is there
        monkeypatch.setattr("accelerate.tracking._available_trackers", [LoggerType(name)])

    def images(self) -> list[tuple[int, np.ndarray]]:
        found = []
        for step, values in self.rows:
            for value in values.values():
                for each in value if isinstance(value, list) else [value]:
                    if hasattr(each, "value"):
                        found.append((step, each.value))
        return found

    def numbers(self) -> list[tuple[int, str]]:
        return [
            (step, name)
            for step, values in self.rows
            for name, value in values.items()
            if isinstance(value, int | float)
        ]


@pytest.fixture(params=["wandb", "trackio"])
def told(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Tracker]:
    tracker = Tracker()
    tracker.install(request.param, monkeypatch)
    return request.param, tracker


def test_metrics_config_and_grids_are_those_of_the_run(
    told: tuple[str, Tracker], tmp_path: Path
) -> None:
    name, tracker = told
    run = tmp_path / "my_run"
    train.main(["train.py", *train_arguments(run, {**CHANGES, "train.tracker": name})])
    (init,) = tracker.inits
    assert init["project"] == "uvit_dia" and init["name"].startswith("my_run")
    assert tracker.configs[0]["train.batch_size"] == 8 and tracker.finished == 1
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    wanted = [
        (row["step"], key)
        for row in logged
        for key, value in row.items()
        if key != "step" and isinstance(value, int | float)
    ]
    assert sorted(tracker.numbers()) == sorted(wanted)
    assert {"loss", "fd", "held_out_loss"} <= {key for _, key in tracker.numbers()}
    images = tracker.images()
    assert [step for step, _ in images] == [6, 12]
    assert images[0][1].shape == (70, 70, 1 if name == "wandb" else 3)


def test_a_resumed_run_is_one_run_and_shows_each_step_once(
    told: tuple[str, Tracker], tmp_path: Path
) -> None:
    name, tracker = told
    changes = {**CHANGES, "train.tracker": name, "train.eval_every_steps": 0}
    first = tiny_trainer(tmp_path / "run", changes)
    first.accelerator.log_with = [LoggerType(name)]
    start_trackers(first.accelerator, first.config, first.log.folder, step=0, warn=first.log.warn)
    while first.step < 4:
        first.train_step()
    first.save()
    while first.step < 8:  # is shown, and lost
        first.train_step()
    second = tiny_trainer(tmp_path / "run", changes)
    second.accelerator.log_with = [LoggerType(name)]
    assert second.resume() and second.step == 4
    start_trackers(second.accelerator, second.config, second.log.folder, step=4, warn=print)
    second.fit()
    numbers = tracker.numbers()
    assert len(numbers) == len(set(numbers))
    assert {step for step, key in numbers if key == "loss"} == {2, 4, 6, 8, 10, 12}
    one, other = tracker.inits
    key = "id" if name == "wandb" else "name"
    assert one[key] == other[key] and other["resume"] == "allow"
    # the first start tells the config; Trackio drops it if a later one does not
    assert len(tracker.configs) == (2 if name == "trackio" else 1)
    assert all(each["train.batch_size"] == 8 for each in tracker.configs)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_missing_package_is_refused_before_training(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda asked: None)
    with pytest.raises(InputError, match=f"needs the package {name}; pip install {name}"):
        train.main(["train.py", *train_arguments(tmp_path / "run", {"train.tracker": name})])
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert usable_tracker("none", print) == "none"


def test_a_tracker_that_does_not_start_ends_no_training(
    told: tuple[str, Tracker],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, _ = told

    def init(**options: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(sys.modules[name], "init", init)
    train.main(["train.py", *train_arguments(tmp_path / "run", {"train.tracker": name})])
    assert f"train.tracker = {name} does not work here (ConnectionError" in capsys.readouterr().err
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 6
