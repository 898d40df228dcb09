"""An interrupted run is the same run.

The same command again, and every bit is as if nothing had happened.
"""

import errno
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.forked import Child, Finished
from tests.support.runs import (
    ROOT,
    Fault,
    before_draw,
    checkpoint_hashes,
    command,
    log_lines,
    result,
    start_train,
    status,
    step_folder,
    tiny_trainer,
    train,
    train_arguments,
    tree,
)
from uvit_dia.models.units.registry import ATTENTION_NAMES
from uvit_dia.system.errors import (
    EXIT_BAD_INPUT,
    EXIT_BUG,
    EXIT_DIVERGED,
    EXIT_IO_ERROR,
    EXIT_OK,
    EXIT_STOPPED_EARLY,
)
from uvit_dia.system.messages import shorten_paths
from uvit_dia.system.signals import SAME_REQUEST_SECONDS
from uvit_dia.training import trainer

# ---------------------------------------------------------------- every kind of training, in this
# process


class Interrupted(Exception):
    """Stands for the end of a process."""


def train_in_two_parts(path: Path, changes: dict[str, object], stop_at: int) -> None:
    """Train up to a step without saving, forget everything but the run's folder, and go on."""

    def interrupt(step: int) -> None:
        if step == stop_at:
            raise Interrupted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "draw_batch", trainer.draw_batch)  # put back afterwards
        before_draw(interrupt)
        with pytest.raises(Interrupted):
            tiny_trainer(path, changes).fit()
    second = tiny_trainer(path, changes)
    assert second.resume() == (stop_at >= 4)
    assert second.step == stop_at // 4 * 4
    second.fit()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model.attention_options.num_cells": 3},  # dropout
        {"model.attention_options.num_cells": 3, "train.accumulation_steps": 4},
        {"model.attention_options.num_cells": 3, "train.gradient_checkpointing": True},
        {"train.mixed_precision": "bf16"},
        {"diffusion.loss_weighting": "min_snr"},
        {"optimizer.lr_schedule": "constant", "optimizer.weight_decay": 0.1},
        {"optimizer.warmup_steps": 10},
        {"data.random_flip": True, "train.batch_size": 300},  # epochs end within the run
        {"model.attention_options.shared": False},
        {"ema.decay": 0.0, "ema.halflife_images": 100, "ema.rampup_ratio": 0.0},
    ],
    ids=lambda changes: ", ".join(f"{k.split('.')[-1]}={v}" for k, v in changes.items()) or "as is",
)
@pytest.mark.reliability("G1", "settings with which a resumed run is identical")
def test_resumed_run_is_the_same_run(tmp_path: Path, changes: dict[str, object]) -> None:
    tiny_trainer(tmp_path / "whole", changes).fit()
    train_in_two_parts(tmp_path / "parts", changes, stop_at=7)
    assert result(tmp_path / "parts") == result(tmp_path / "whole")


@pytest.mark.parametrize("attention", ATTENTION_NAMES)
@pytest.mark.reliability("G1", "attention units with which a resumed run is identical")
def test_resumed_run_with_every_unit(tmp_path: Path, attention: str) -> None:
    """In bf16, with parts and weighted losses.

    What a unit keeps of its own must come back bit for bit.
    """
    changes: dict[str, object] = {
        "model.attention": attention,
        "train.mixed_precision": "bf16",
        "train.accumulation_steps": 2,
        "diffusion.loss_weighting": "min_snr",
    }
    tiny_trainer(tmp_path / "whole", changes).fit()
    train_in_two_parts(tmp_path / "parts", changes, stop_at=7)
    assert result(tmp_path / "parts") == result(tmp_path / "whole")


@pytest.mark.parametrize("log_every_steps", [3, 5, 12])
def test_a_checkpoint_in_the_middle_of_a_log_window(tmp_path: Path, log_every_steps: int) -> None:
    changes: dict[str, object] = {"train.log_every_steps": log_every_steps}
    tiny_trainer(tmp_path / "whole", changes).fit()
    train_in_two_parts(tmp_path / "parts", changes, stop_at=11)
    assert result(tmp_path / "parts") == result(tmp_path / "whole")


@pytest.mark.parametrize("stop_at", [0, 3, 4, 8])
def test_wherever_it_was_interrupted(tmp_path: Path, stop_at: int) -> None:
    tiny_trainer(tmp_path / "whole").fit()
    train_in_two_parts(tmp_path / "parts", {}, stop_at)
    assert result(tmp_path / "parts") == result(tmp_path / "whole")


def test_interval_of_checkpoints_and_log_may_change(tmp_path: Path) -> None:
    tiny_trainer(tmp_path / "whole").fit()
    train_in_two_parts(tmp_path / "parts", {}, stop_at=7)
    shutil.rmtree(step_folder(tmp_path / "parts", 12))
    changes = {"train.checkpoint_every_steps": 3, "train.log_every_steps": 4}
    again = tiny_trainer(tmp_path / "parts", changes)
    assert again.resume()
    assert again.step == 8
    again.fit()
    hashes = checkpoint_hashes(step_folder(tmp_path / "parts", 12))
    assert hashes == checkpoint_hashes(step_folder(tmp_path / "whole", 12))
    assert [line["step"] for line in log_lines(tmp_path / "parts")] == [2, 4, 6, 8, 12]


def test_a_finished_run_at_a_constant_rate_goes_on(tmp_path: Path) -> None:
    constant = {"optimizer.lr_schedule": "constant"}
    tiny_trainer(tmp_path / "whole", constant).fit()
    tiny_trainer(tmp_path / "parts", {**constant, "train.num_steps": 6}).fit()
    longer = tiny_trainer(tmp_path / "parts", constant)
    assert longer.resume()
    assert longer.step == 6
    longer.fit()
    assert result(tmp_path / "parts") == result(tmp_path / "whole")


# ---------------------------------------------------------------- kill -9


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that nothing happened to."""
    path = tmp_path_factory.mktemp("whole")
    finished = train(path)
    assert finished.exit_code == 0, finished.stderr
    assert status(path)["state"] == "done"
    return path


def assert_same_run(path: Path, whole: Path) -> None:
    assert result(path) == result(whole)
    found = status(path)
    assert (found["state"], found["step"]) == ("done", 12)
    assert sorted(p.name for p in (path / "checkpoints").iterdir()) == [
        "step_00000008",
        "step_00000012",
    ]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("draw", 0),
        Fault("draw", 5),
        Fault("draw", 11),
        Fault("update", 6),
        Fault("update", 11),
        Fault("log", 2),
        Fault("log", 10),
        Fault("log", 12),
        Fault("saved", 4),
        Fault("saved", 12),
        *(Fault("commit", operation) for operation in (0, 3, 12, 25, 30)),
    ],
    ids=lambda fault: f"{fault.place} {fault.at}",
)
def test_a_killed_run_is_the_same_run(tmp_path: Path, whole: Path, fault: Fault) -> None:
    killed = train(tmp_path, fault=fault)
    assert killed.exit_code in (-signal.SIGKILL, 137)
    if (tmp_path / "status.json").exists():
        assert status(tmp_path)["state"] == "running"
    again = train(tmp_path)
    assert again.exit_code == 0, again.stderr
    assert_same_run(tmp_path, whole)


def test_a_run_that_is_killed_again_and_again(tmp_path: Path, whole: Path) -> None:
    reached = []
    for fault in (Fault("update", 5), Fault("log", 6), Fault("draw", 9), Fault("commit", 20)):
        assert train(tmp_path, fault=fault).exit_code in (-signal.SIGKILL, 137)
        reached.append(status(tmp_path)["step"])
    assert reached == sorted(reached)  # the run never goes back
    assert train(tmp_path).exit_code == 0
    assert_same_run(tmp_path, whole)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen]]:
    processes: list[subprocess.Popen] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_the_real_command_killed_from_outside(
    tmp_path: Path, started: list[subprocess.Popen]
) -> None:
    changes: dict[str, object] = {"train.num_steps": 200, "train.checkpoint_every_steps": 10}
    assert train(tmp_path / "whole", changes).exit_code == 0
    path = tmp_path / "killed"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}

    def start() -> subprocess.Popen:
        arguments = [sys.executable, "train.py", *train_arguments(path, changes)]
        started.append(
            subprocess.Popen(arguments, cwd=ROOT, env=environment, stderr=subprocess.PIPE)
        )
        return started[-1]

    first = start()
    log = path / "metrics.jsonl"
    while not log.exists() or log.read_bytes().count(b"\n") < 10:
        assert first.poll() is None
        time.sleep(0.005)
    first.kill()
    first.wait()
    assert not step_folder(path, 200).exists()
    second = start()
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert result(path, 200) == result(tmp_path / "whole", 200)


# ---------------------------------------------------------------- signals that ask it to stop


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2],
    ids=lambda n: n.name,
)
def test_a_signal_ends_the_step_and_loses_none(
    tmp_path: Path, whole: Path, number: signal.Signals
) -> None:
    stopped = train(tmp_path, fault=Fault("draw", 5, number))
    assert stopped.exit_code == EXIT_STOPPED_EARLY == 75
    assert f"stopped by {number.name} at step " in stopped.last_line
    assert "resume with the same command" in stopped.last_line
    found = status(tmp_path)
    assert found["state"] == "preempted"
    assert found["step"] in (6, 7)  # the signal came within the step that followed the question
    assert step_folder(tmp_path, found["step"]).is_dir()
    again = train(tmp_path)
    assert again.exit_code == 0, again.stderr
    assert f"going on at step {found['step']}:" in again.stdout
    assert result(tmp_path) == result(whole)
    assert status(tmp_path)["state"] == "done"


def test_a_signal_while_it_saves(tmp_path: Path, whole: Path) -> None:
    assert train(tmp_path, fault=Fault("saved", 8, signal.SIGTERM)).exit_code == 75
    assert status(tmp_path)["step"] == 9
    assert train(tmp_path).exit_code == 0
    assert result(tmp_path) == result(whole)


def test_a_signal_in_the_last_step_changes_nothing(tmp_path: Path, whole: Path) -> None:
    assert train(tmp_path, fault=Fault("draw", 11, signal.SIGTERM)).exit_code == 0
    assert_same_run(tmp_path, whole)


def test_the_same_request_passed_on_twice_is_one(tmp_path: Path, whole: Path) -> None:
    stopped = train(tmp_path, fault=Fault("draw", 5, signal.SIGTERM, times=2))
    assert stopped.exit_code == EXIT_STOPPED_EARLY
    assert status(tmp_path)["state"] == "preempted"
    assert train(tmp_path).exit_code == 0
    assert result(tmp_path) == result(whole)


def test_a_second_signal_ends_it_at_once(tmp_path: Path, whole: Path) -> None:
    fault = Fault("draw", 5, signal.SIGTERM, times=2, pause_seconds=SAME_REQUEST_SECONDS + 0.1)
    stopped = train(tmp_path, fault=fault)
    assert stopped.exit_code == EXIT_STOPPED_EARLY
    assert "second signal: leaving without saving" in stopped.stderr
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000004"]
    assert train(tmp_path).exit_code == 0
    assert_same_run(tmp_path, whole)


# ---------------------------------------------------------------- refusals


def assert_refused(finished: Finished, *words: str) -> None:
    """Check that a command ended with exit code 2 and one line, after warnings at most."""
    assert finished.exit_code == EXIT_BAD_INPUT, finished.stderr
    lines = [line for line in finished.stderr.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, finished.stderr
    for word in words:
        assert word in lines[0]


def test_a_changed_config_is_refused_key_by_key(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    before = tree(tmp_path)
    refused = train(tmp_path, {"seed": 1, "optimizer.weight_decay": 0.5})
    assert_refused(refused, "seed: 0 -> 1", "optimizer.weight_decay: 0.0 -> 0.5", "--workdir")
    refused = train(tmp_path, {"train.num_steps": 24})
    assert_refused(refused, "train.num_steps: 12 -> 24")  # a cosine would have bent elsewhere
    assert tree(tmp_path) == before


def test_a_changed_config_is_refused_even_where_the_old_one_was_deleted(
    tmp_path: Path, whole: Path
) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").unlink()
    before = tree(tmp_path)
    assert_refused(train(tmp_path, {"seed": 1}), "step_00000012", "seed: 0 -> 1")
    assert tree(tmp_path) == before


def test_a_refused_start_leaves_no_config_behind(tmp_path: Path, whole: Path) -> None:
    refused = train(tmp_path, {"train.batch_size": 2000})
    assert_refused(refused, "train.batch_size = 2000 is larger than the data set", "1797")
    assert tree(tmp_path) == {}
    assert train(tmp_path).exit_code == 0
    assert_same_run(tmp_path, whole)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "window.safetensors", "manifest.json"])
def test_a_corrupted_newest_checkpoint_is_passed_over(
    tmp_path: Path, whole: Path, name: str
) -> None:
    train(tmp_path, fault=Fault("draw", 10))
    flip(step_folder(tmp_path, 8) / name)
    again = train(tmp_path)
    assert again.exit_code == 0, again.stderr
    warnings = [line for line in again.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert str(step_folder(tmp_path, 8) / name) in warnings[0]
    assert "going on at step 4:" in again.stdout
    assert_same_run(tmp_path, whole)


def test_nothing_is_overwritten_where_all_checkpoints_are_corrupted(tmp_path: Path) -> None:
    train(tmp_path, fault=Fault("draw", 10))
    for step in (4, 8):
        flip(step_folder(tmp_path, step) / "optimizer.safetensors")
    before = tree(tmp_path)
    refused = train(tmp_path)
    assert_refused(refused, "no checkpoint in", "is undamaged (2 tried)")
    assert refused.stderr.count("warning: ") == 2
    assert tree(tmp_path) == before


def test_a_second_run_in_the_folder_is_refused_and_the_first_goes_on(
    tmp_path: Path, whole: Path
) -> None:
    first = start_train(tmp_path, fault=Fault("draw", 6, signal.SIGSTOP))
    while not step_folder(tmp_path, 4).exists():
        assert first.is_alive()
        time.sleep(0.01)
    assert_refused(train(tmp_path), "in use by another run", f"process {first.pid}")
    first.send(signal.SIGCONT)
    assert first.wait().exit_code == 0
    assert_same_run(tmp_path, whole)


# ---------------------------------------------------------------- other ends


def _train_on_full_disk(arguments: list[str], step: int) -> None:
    from uvit_dia.runs import commit

    save_file = commit.save_file

    def full(tensors: dict, path: Path) -> None:
        if path.name == "ema.safetensors" and f"step_{step:08d}" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path)

    commit.save_file = full
    command("train", arguments)


def test_a_full_disk_ends_it_with_what_it_had(tmp_path: Path, whole: Path) -> None:
    ended = Child(_train_on_full_disk, train_arguments(tmp_path), 8).wait()
    assert ended.exit_code == EXIT_IO_ERROR, ended.stderr
    assert "need space for" in ended.last_line
    assert status(tmp_path)["state"] == "failed"
    assert "space" in status(tmp_path)["reason"]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000004"]
    assert train(tmp_path).exit_code == 0  # room was made
    assert_same_run(tmp_path, whole)


def _train_where_the_folder_goes_away(arguments: list[str], run: Path) -> None:
    before_draw(lambda step: shutil.rmtree(run) if step == 5 else None)
    command("train", arguments)


def test_a_folder_that_goes_away_ends_it_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "run"
    ended = Child(_train_where_the_folder_goes_away, train_arguments(path), path).wait()
    assert ended.exit_code == EXIT_IO_ERROR, ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert "cannot write" in ended.last_line


def _train_with_little_space(arguments: list[str], free: int) -> None:
    shutil.disk_usage = lambda _: shutil._ntuple_diskusage(10**6, 0, free)  # type: ignore[attr-defined]
    command("train", arguments)


def test_a_disk_for_less_than_three_checkpoints_is_refused(tmp_path: Path, whole: Path) -> None:
    files = step_folder(whole, 12).glob("*.safetensors")
    needed = 3 * sum(path.stat().st_size for path in files)
    refused = Child(_train_with_little_space, train_arguments(tmp_path), int(0.8 * needed)).wait()
    assert refused.exit_code == EXIT_IO_ERROR, refused.stderr
    assert "no space for checkpoints" in refused.last_line
    assert not (tmp_path / "checkpoints").exists()
    enough = Child(_train_with_little_space, train_arguments(tmp_path), needed).wait()
    assert enough.exit_code == 0, enough.stderr


def _train_with_nan(arguments: list[str], bad_step: int) -> None:
    draw = trainer.draw_batch

    def spoilt(*arguments: Any, step: int, **named: Any) -> Any:
        batch = draw(*arguments, step=step, **named)
        return replace(batch, target=batch.target * (float("nan") if step == bad_step else 1))

    trainer.draw_batch = spoilt  # type: ignore[assignment]
    command("train", arguments)


@pytest.mark.reliability("G11", "diverged runs: exit 3, and the same again")
def test_a_diverged_run_says_so_and_again(tmp_path: Path) -> None:
    for _ in range(2):  # the same command reproduces it
        ended = Child(_train_with_nan, train_arguments(tmp_path), 6).wait()
        assert ended.exit_code == EXIT_DIVERGED, ended.stderr
        assert "non-finite at step 6" in ended.last_line
        found = status(tmp_path)
        assert (found["state"], found["step"]) == ("diverged", 6)
        assert shorten_paths(f"train.py: {found['reason']}") == ended.last_line
        assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000004"]
        assert [line["step"] for line in log_lines(tmp_path)] == [2, 4, 6, 6]
        assert log_lines(tmp_path)[-1] == {"step": 6, "nonfinite": 1, "nonfinite_step": 6}


@pytest.mark.parametrize("at", [2, 7])  # before the first checkpoint, and after it
def test_tensorboard_shows_each_step_once(tmp_path: Path, at: int) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    changes = {"train.tracker": "tensorboard", "train.log_every_steps": 1}
    assert train(tmp_path, changes, fault=Fault("draw", at)).exit_code == -signal.SIGKILL
    assert train(tmp_path, changes).exit_code == EXIT_OK
    events = EventAccumulator(str(tmp_path / "tensorboard" / "train")).Reload()
    shown = events.Scalars("loss")
    assert [event.step for event in shown] == list(range(1, 13))
    logged = [line["loss"] for line in log_lines(tmp_path)]
    assert [event.value for event in shown] == pytest.approx(logged)
    assert len(list(tmp_path.glob("tensorboard/**/hparams.yml"))) == 1


def _train_and_raise(arguments: list[str], error: Exception) -> None:
    from uvit_dia.training.trainer import Trainer

    def fail(self: Any, stop_requested: bool = False) -> bool:
        raise error

    Trainer.train_step = fail  # type: ignore[method-assign]
    command("train", arguments)


def test_out_of_memory_is_told_with_advice(tmp_path: Path) -> None:
    import torch

    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
    ended = Child(_train_and_raise, train_arguments(tmp_path), error).wait()
    assert_refused(
        ended,
        "train.batch_size = 8",
        "data.on_device = False, or in another --workdir",
        "train.accumulation_steps above 1 (same global batch)",
        "train.gradient_checkpointing",
    )
    assert status(tmp_path)["state"] == "failed"
    assert "out of memory" in status(tmp_path)["reason"]


def _train_without_memory(arguments: list[str], module: str, name: str) -> None:
    """Train, with a class or function of a module of ours that finds no memory."""
    import torch

    def fail(*arguments: object, **named: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")

    setattr(importlib.import_module(f"uvit_dia.{module}"), name, fail)
    command("train", arguments)


@pytest.mark.parametrize(
    ("module", "name", "advice"),
    [
        ("training.build", "replace", "for the training images; data.on_device = False"),
        ("training.networks", "EMA", "for weights, average and optimizer; with another --workdir"),
        (
            "training.tasks",
            "write_grid",
            "in a preview; the same run may go on with a lower sample.grid_i",
        ),
        (
            "training.tasks",
            "make_evaluator",
            "in an evaluation; the same run may go on with a lower sample.batch",
        ),
    ],
)
def test_out_of_memory_is_told_wherever_it_happens(
    tmp_path: Path, module: str, name: str, advice: str
) -> None:
    changes = {"train.sample_every_steps": 6, "train.eval_every_steps": 12, "eval.num_images": 64}
    if name == "make_evaluator":
        changes["train.sample_every_steps"] = 0
    ended = Child(_train_without_memory, train_arguments(tmp_path, changes), module, name).wait()
    assert_refused(ended, f"out of memory {advice}")
    if module == "training.tasks":
        assert (status(tmp_path)["state"], status(tmp_path)["reason"][:13]) == (
            "failed",
            "out of memory",
        )


def test_a_bug_keeps_its_traceback(tmp_path: Path) -> None:
    ended = Child(_train_and_raise, train_arguments(tmp_path), ZeroDivisionError("ours")).wait()
    assert ended.exit_code == EXIT_BUG
    assert "Traceback" in ended.stderr
    found = status(tmp_path)
    assert (found["state"], found["reason"]) == ("failed", "ZeroDivisionError: ours")
    env = json.loads((tmp_path / "env.json").read_text())
    assert (env["device"], env["num_processes"]) == ("cpu", 1)
