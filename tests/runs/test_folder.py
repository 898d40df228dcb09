"""A run's folder: one owner, one config, a whole status, a log that survives a kill."""

import json
import os
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.forked import Child
from tests.support.runs import tiny_config
from uvit_dia.config.files import RESUMABLE_CHANGES
from uvit_dia.config.schema import RULES
from uvit_dia.runs import folder as run_folder
from uvit_dia.runs.folder import STATES, RunFolder, read_metrics, source_commit, versions
from uvit_dia.system.errors import EXIT_BAD_INPUT, InputError, StorageError

# ---------------------------------------------------------------- the folder itself


def test_folder_is_made_with_its_parents_and_holds_nothing(tmp_path: Path) -> None:
    RunFolder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("regular")
    broken = tmp_path / "broken"
    broken.symlink_to(tmp_path / "nowhere" / "at all")
    for path, reason in (
        (file / "run", "Not a directory"),
        (file, "File exists"),
        (broken, "File exists"),
        (tmp_path / ("x" * 5000), "File name too long"),
    ):
        with pytest.raises(InputError, match=f"--workdir: cannot write to .*: {reason}") as raised:
            RunFolder(path)
        assert len(str(raised.value)) <= 200
        assert raised.value.exit_code == EXIT_BAD_INPUT
    assert file.read_text() == "regular"


def test_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: Path, content: bytes) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", read_only)
    with pytest.raises(InputError, match="Read-only file system"):
        RunFolder(tmp_path)


# ---------------------------------------------------------------- the lock


def _hold(path: Path, release: Path) -> None:
    folder = RunFolder(path)
    folder.lock()
    print("mine", flush=True)
    while not release.exists():
        time.sleep(0.01)


def _wait_for_owner(path: Path, child: Child) -> None:
    while f"process {child.pid}\n" not in _owner(path):
        assert child.is_alive()
        time.sleep(0.01)


def _owner(path: Path) -> str:
    file = path / ".lock-owner"
    return file.read_text() if file.exists() else ""


def test_lock_is_refused_until_its_owner_is_killed(tmp_path: Path) -> None:
    owner = Child(_hold, tmp_path, tmp_path / "never")
    _wait_for_owner(tmp_path, owner)
    folder = RunFolder(tmp_path)
    started = time.monotonic()
    with pytest.raises(InputError, match=f"in use by another run .*process {owner.pid}"):
        folder.lock()
    assert time.monotonic() - started < 2
    owner.send(signal.SIGKILL)
    assert owner.wait().exit_code == -signal.SIGKILL
    folder.lock()
    assert f"process {os.getpid()}\n" in _owner(tmp_path)
    folder.unlock()
    RunFolder(tmp_path).lock()


def test_of_many_starts_one_wins(tmp_path: Path) -> None:
    children = [Child(_hold, tmp_path, tmp_path / "release") for _ in range(4)]
    while sum(child.is_alive() for child in children) > 1:
        time.sleep(0.01)
    (tmp_path / "release").touch()
    finished = [child.wait() for child in children]
    assert sorted(done.exit_code for done in finished) == [0, 1, 1, 1]
    assert sum("mine" in done.stdout for done in finished) == 1
    assert sum("is in use by another run" in done.stderr for done in finished) == 3


@pytest.mark.parametrize("owner", [b"\xff\xfe", b"two\nlines", b"x" * 10_000, None])
def test_a_damaged_name_of_the_owner_is_no_bug(tmp_path: Path, owner: bytes | None) -> None:
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    first.lock()
    if owner is None:
        (tmp_path / ".lock-owner").unlink()
    else:
        (tmp_path / ".lock-owner").write_bytes(owner)
    with pytest.raises(InputError, match="in use by another run") as raised:
        second.lock()
    assert len(str(raised.value)) < 300
    assert "\n" not in str(raised.value)


def test_a_lock_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(InputError, match="cannot lock"):
        RunFolder(tmp_path).lock()


def test_a_folder_that_went_away_is_one_line(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    (tmp_path / "run").rmdir()
    for write in (
        lambda: folder.set_status("running", 1),
        lambda: folder.append_metrics({"step": 1}),
        folder.write_env,
    ):
        with pytest.raises(StorageError, match=r"cannot write .*: No such file or directory"):
            write()


# ---------------------------------------------------------------- the config

OTHER: dict[str, object] = {  # another allowed value of every key
    "seed": 1,
    "model.patch_size": 4,
    "model.embed_dim": 32,
    "model.depth": 4,
    "model.num_heads": 4,
    "model.mlp_ratio": 2.0,
    "model.qkv_bias": True,
    "model.mlp_time_embed": False,
    "model.conv": True,
    "model.skip": False,
    "model.residual": False,
    "model.layer_norm": False,
    "model.attention": "none",
    "model.attention_options.shared": False,
    "model.attention_options.reduction": 2,
    "model.attention_options.groups": 4,
    "model.attention_options.activation": "tanh",
    "model.attention_options.num_cells": 2,
    "model.attention_options.pool": "patches",
    "model.attention_options.blocks": "0,1",
    "model.attention_options.gate_init": "paper",
    "model.attention_options.place": "mlp_output",
    "model.attention_options.time_first_state": True,
    "model.attention_options.forget_bias": 2.0,
    "model.attention_options.linear_init": "torch",
    "data.background": "black",
    "data.skip_unreadable": True,
    "data.held_out_images": 360,
    "diffusion.num_train_timesteps": 500,
    "diffusion.beta_schedule": "linear",
    "diffusion.beta_start": 0.001,
    "diffusion.beta_end": 0.01,
    "diffusion.prediction_type": "epsilon",
    "diffusion.loss_weighting": "min_snr",
    "diffusion.min_snr_gamma": 1.0,
    "data.resize": True,
    "data.random_flip": True,
    "data.on_device": False,
    "data.path": "elsewhere",
    "optimizer.learning_rate": 1e-3,
    "optimizer.lr_schedule": "constant",
    "optimizer.warmup_steps": 4,
    "optimizer.betas": (0.9, 0.999),
    "optimizer.eps": 1e-6,
    "optimizer.weight_decay": 0.1,
    "optimizer.max_grad_norm": 2.0,
    "ema.decay": 0.9,
    "ema.rampup_ratio": 0.1,
    "train.batch_size": 16,
    "train.num_steps": 24,
    "train.accumulation_steps": 2,
    "train.mixed_precision": "bf16",
    "train.compile": True,
    "train.gradient_checkpointing": True,
    "train.log_every_steps": 3,
    "train.checkpoint_every_steps": 5,
    "train.keep_checkpoints": 3,
    "train.sample_every_steps": 7,
    "train.eval_every_steps": 7,
    "train.tracker": "tensorboard",
    "sample.sampler": "ddim",
    "sample.num_steps": 10,
    "sample.eta": 1.0,
    "sample.variance_type": "fixed_small",
    "sample.clip_sample": False,
    "sample.seed": 1,
    "sample.batch_size": 10,
    "sample.grid_images": 16,
    "eval.num_images": 100,
    "eval.metrics": ("fid",),
    "eval.extractor": "inception-v3-compat",
    "eval.weights": "elsewhere",
    "eval.batch_size": 10,
}
NOT_CHANGED_ALONE = {  # needs another image set, or another key with it, to be allowed
    "model.img_size",
    "model.in_chans",
    "model.num_classes",
    "data.name",
    "ema.halflife_images",
    "train.held_out_every_steps",
    "train.label_dropout",
    "data.memory_map",
    "data.stream_images",
    "data.stream_all",
    "data.vae",
    "diffusion.process",
    "diffusion.time_sampling",
    "diffusion.logit_mean",
    "diffusion.logit_std",
    "diffusion.time_labels",
    "sample.guidance_scale",
    "sample.guidance_low",
    "sample.guidance_high",
    "model.attention_options.constant",
    "model.attention_options.gate_form",
    "model.attention_options.normalisation",
    "model.attention_options.mixture_penalty",
    "model.attention_options.variance",
}


def test_every_key_is_tried() -> None:
    assert set(OTHER) | NOT_CHANGED_ALONE == set(RULES)


@pytest.mark.parametrize("key", OTHER)
def test_a_change_of_what_a_run_is_is_refused(tmp_path: Path, key: str) -> None:
    folder = RunFolder(tmp_path)
    folder.compare_config(tiny_config())  # nothing lies there yet
    folder.write_config(tiny_config())
    before = (tmp_path / "config.json").read_bytes()
    folder.compare_config(tiny_config())
    changed = tiny_config({key: OTHER[key]})
    is_allowed = key.startswith(RESUMABLE_CHANGES) and key != "train.num_steps"  # cosine bends
    if is_allowed:
        folder.compare_config(changed)
    else:
        with pytest.raises(InputError, match=f"another config .*{key}: .* -> .*--workdir"):
            folder.compare_config(changed)
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_run_at_a_constant_rate_may_go_on_longer(tmp_path: Path) -> None:
    constant = {"optimizer.lr_schedule": "constant"}
    folder = RunFolder(tmp_path)
    folder.write_config(tiny_config(constant))
    folder.compare_config(tiny_config({**constant, "train.num_steps": 100}))


def test_a_run_may_measure_the_held_out_loss_from_now_on(tmp_path: Path) -> None:
    apart = {"data.held_out_images": 100}
    folder = RunFolder(tmp_path)
    folder.write_config(tiny_config(apart))
    folder.compare_config(tiny_config({**apart, "train.held_out_every_steps": 7}))


def test_all_changes_are_listed_key_by_key(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_config(tiny_config())
    with pytest.raises(InputError) as raised:
        folder.compare_config(
            tiny_config({"seed": 7, "train.batch_size": 4, "sample.num_steps": 9})
        )
    assert "(seed: 0 -> 7; train.batch_size: 8 -> 4)" in str(raised.value)


@pytest.mark.parametrize("content", ["", "[]", "{}", "nonsense", "{" * 10_000, '{"seed": 1e400}'])
def test_a_config_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        RunFolder(tmp_path).compare_config(tiny_config())
    assert (tmp_path / "config.json").read_text() == content


# ---------------------------------------------------------------- status and environment


def test_status_says_what_and_when(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for state in STATES:
        folder.set_status(state, 3, reason="why")
        status = json.loads((tmp_path / "status.json").read_text())
        age = datetime.now(UTC) - datetime.fromisoformat(status.pop("time"))
        assert 0 <= age.total_seconds() < 60
        assert status == {"state": state, "step": 3, "reason": "why"}
    with pytest.raises(ValueError, match="finished"):
        folder.set_status("finished", 3)


def test_status_is_old_or_new_where_writing_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    folder.set_status("running", 1)
    before = (tmp_path / "status.json").read_bytes()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("fsync", "rename", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, stop)
            if name != "rename":
                with pytest.raises(KeyboardInterrupt):
                    folder.set_status("done", 2)
                assert (tmp_path / "status.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_a_reader_never_sees_half_a_status(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.set_status("running", 0, reason="x" * 100_000)
    is_over = threading.Event()
    seen: list[int] = []

    def read() -> None:
        ended = False
        while not ended:
            ended = is_over.is_set()  # before the last look, which then finds the last status
            seen.append(json.loads((tmp_path / "status.json").read_text())["step"])

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(1, 100):
        folder.set_status("running", step, reason="x" * (step * 1000))
    is_over.set()
    reader.join()
    assert len(seen) > 10
    assert seen == sorted(seen)  # a torn read would have ended the thread early
    assert seen[-1] == 99


def test_environment_is_recorded(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_env(device="cpu", num_processes=3)
    env = json.loads((tmp_path / "env.json").read_text())
    assert env["versions"]["torch"] == versions()["torch"]
    assert env["command"] == sys.argv
    assert (env["device"], env["num_processes"]) == ("cpu", 3)


def test_outside_a_repository_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "__file__", "/nowhere/uvit_dia/runs/folder.py")
    assert source_commit() is None


# ---------------------------------------------------------------- the log


def test_log_lines_come_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    lines = [{"step": step, "loss": 0.1 + step} for step in (2, 4, 6)]
    for line in lines:
        folder.append_metrics(line)
    assert read_metrics(tmp_path / "metrics.jsonl") == lines
    with pytest.raises(ValueError, match="JSON compliant"):
        folder.append_metrics({"step": 8, "loss": float("nan")})
    assert read_metrics(tmp_path / "metrics.jsonl") == lines


@pytest.mark.parametrize(
    "torn",
    ['{"step": 8, "lo', '{"step": 8, "loss": 1.5', "{", "12", '"step"', "\udcff", "[1, 2]", "{}"],
)
def test_a_torn_last_line_is_dropped(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = '{"step": 2, "loss": 1.5}\n{"step": 4, "loss": 1.25}\n'
    path.write_bytes((whole + torn).encode(errors="surrogateescape"))
    assert [line["step"] for line in read_metrics(path)] == [2, 4]
    RunFolder(tmp_path).truncate_metrics(100)
    assert path.read_text() == whole


def test_lines_after_the_step_are_dropped(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.truncate_metrics(0)  # there is no log yet
    for step in (2, 4, 4, 6):  # a measurement and an evaluation after step 4
        folder.append_metrics({"step": step, "loss": 1 / 3})
    before = (tmp_path / "metrics.jsonl").read_text().splitlines()
    folder.truncate_metrics(5)
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == before[:3]  # every digit kept
    folder.truncate_metrics(4)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 3
    folder.truncate_metrics(0)
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_last_line_without_its_end_of_line_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2}\n{"step": 4}')
    folder = RunFolder(tmp_path)
    folder.truncate_metrics(4)
    folder.append_metrics({"step": 6})
    assert [line["step"] for line in read_metrics(path)] == [2, 4, 6]


@pytest.mark.parametrize("damaged", ['{"step": 4, "lo', "", "null", '{"loss": 1}', "[" * 100_000])
def test_a_damaged_line_in_the_middle_is_an_error(tmp_path: Path, damaged: str) -> None:
    path = tmp_path / "metrics.jsonl"
    content = f'{{"step": 2}}\n{damaged}\n{{"step": 6}}\n'
    path.write_text(content)
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2 is damaged"):
        RunFolder(tmp_path).truncate_metrics(6)
    assert path.read_text() == content
