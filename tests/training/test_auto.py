"""Precision and compilation that follow the device.

What a run began with holds, and what holds is said.
"""

import json
from pathlib import Path

import pytest

from tests.support.forked import Child, Finished
from tests.support.runs import (
    Changes,
    command,
    result,
    status,
    train,
    train_arguments,
)
from uvit_dia.system.errors import EXIT_BAD_INPUT, EXIT_OK

pytestmark = pytest.mark.faults

CONSTANT: dict[str, object] = {"optimizer.lr_schedule": "constant"}
AUTO: dict[str, object] = {
    **CONSTANT,
    "train.mixed_precision": "auto",
    "train.compile": "auto",
}
BF16: dict[str, object] = {**CONSTANT, "train.mixed_precision": "bf16"}


def train_with(environment: dict[str, str], path: Path, changes: Changes) -> Finished:
    arguments = train_arguments(path, changes)
    return Child(command, "train", arguments, environment=environment).wait()


def env(path: Path) -> dict[str, object]:
    return json.loads((path / "env.json").read_text())


def first_line(finished: Finished) -> str:
    """Return what a training says first of itself, after the line that says what it read."""
    assert finished.exit_code == EXIT_OK, finished.stderr
    read, first = finished.stdout.splitlines()[:2]
    assert read.startswith("data: digits: 1797 images")
    return first


def test_auto_is_float32_and_not_compiled_on_a_cpu(tmp_path: Path) -> None:
    explicit, auto = train(tmp_path / "explicit", CONSTANT), train(tmp_path / "auto", AUTO)
    assert first_line(explicit).endswith("on cpu, float32, not compiled")
    words = "on cpu, float32, not compiled (train.mixed_precision and train.compile = auto)"
    assert first_line(auto).endswith(words)
    assert result(tmp_path / "auto") == result(tmp_path / "explicit")
    for name in ("auto", "explicit"):
        found = env(tmp_path / name)
        assert (found["mixed_precision"], found["compile"]) == ("no", False)
    assert json.loads((tmp_path / "auto" / "config.json").read_text())["train"]["compile"] == "auto"


def test_auto_is_what_the_launcher_asks_for(tmp_path: Path) -> None:
    asked = {"ACCELERATE_MIXED_PRECISION": "bf16"}
    auto = train_with(asked, tmp_path / "auto", AUTO)
    assert "bf16, not compiled" in first_line(auto)
    assert auto.stderr == ""  # nothing is overridden
    assert train(tmp_path / "explicit", BF16).exit_code == EXIT_OK
    assert result(tmp_path / "auto") == result(tmp_path / "explicit")


@pytest.mark.parametrize("has_env", [True, False], ids=["", "of an older version"])
def test_a_run_in_bf16_goes_on_in_bf16_under_auto(tmp_path: Path, has_env: bool) -> None:
    """Here auto alone would mean float32; the run's own config said bf16."""
    assert train(tmp_path / "whole", {**BF16, "train.num_steps": 16}).exit_code == EXIT_OK
    run = tmp_path / "run"
    assert train(run, BF16).exit_code == EXIT_OK
    if not has_env:
        (run / "env.json").write_text(json.dumps({"device": "cuda", "num_processes": 1}))
    longer = train(run, {**AUTO, "train.num_steps": 16})
    assert first_line(longer).startswith("going on at step 12:")
    assert "bf16, not compiled (train.mixed_precision and" in first_line(longer)
    assert result(run, 16) == result(tmp_path / "whole", 16)
    assert env(run)["mixed_precision"] == "bf16"
    # and from now on the config says auto, which still means bf16
    again = train(run, {**AUTO, "train.num_steps": 17})
    assert "bf16" in first_line(again)


def test_a_run_does_not_change_its_precision_under_auto(tmp_path: Path) -> None:
    asked = {"ACCELERATE_MIXED_PRECISION": "bf16"}
    assert train_with(asked, tmp_path, AUTO).exit_code == EXIT_OK
    refused = train(tmp_path, CONSTANT)
    assert refused.exit_code == EXIT_BAD_INPUT
    (line,) = refused.stderr.splitlines()
    assert "train.mixed_precision = 'no': this run has been trained in 'bf16' so far" in line
    assert status(tmp_path)["state"] == "done"
    allowed = train(tmp_path, BF16)
    assert allowed.exit_code == EXIT_OK, allowed.stderr


def test_two_explicit_precisions_are_another_config_as_ever(tmp_path: Path) -> None:
    assert train(tmp_path, BF16).exit_code == EXIT_OK
    refused = train(tmp_path, CONSTANT)
    assert refused.exit_code == EXIT_BAD_INPUT
    assert "train.mixed_precision: 'bf16' -> 'no'" in refused.last_line


def test_what_the_environment_turns_off_is_said(tmp_path: Path) -> None:
    off = {"TORCHDYNAMO_DISABLE": "1"}
    ended = train_with(off, tmp_path, {**CONSTANT, "train.compile": True})
    assert "not compiled" in first_line(ended)
    assert ended.stderr.startswith("warning: TORCHDYNAMO_DISABLE = 1 in the environment")


def test_sampling_says_that_a_launcher_is_not_heard(tmp_path: Path) -> None:
    assert train(tmp_path / "run", CONSTANT).exit_code == EXIT_OK
    arguments = [f"--checkpoint={tmp_path / 'run'}", "--num_images=2", "--num_steps=2"]
    asked = {"ACCELERATE_MIXED_PRECISION": "bf16"}
    output = f"--output={tmp_path / 'grid.png'}"
    sampled = Child(command, "sample", [*arguments, output], environment=asked).wait()
    assert sampled.exit_code == EXIT_OK
    assert "asks for mixed_precision = bf16; this command computes in float32" in sampled.stderr
