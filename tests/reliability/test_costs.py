"""What safety costs: time of a commit, work that a kill can take, and the wait for a message."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from configs.digits_uvit_dia import get_config
from configs.sweeps.digits_batch_size import get_config as get_sweep_config
from tests.support.figures import RecordFigure
from tests.support.runs import CONFIG, ROOT, tiny_trainer
from uvit_dia.system.files import fsync_path

pytestmark = pytest.mark.reliability

LOST_SECONDS = 600  # of work at most, on a hard kill


def seconds_of(call: Callable[[], Any]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


def save_plainly(trainer: Any, folder: Path) -> None:
    """Save what ours does.

    save_state knows nothing of the average, which a hook would save beside it.
    """
    trainer.accelerator.save_state(str(folder))
    save_file(trainer.ema.model.state_dict(), folder / "ema.safetensors")
    for path in (*folder.iterdir(), folder):
        fsync_path(path)


def test_a_wrong_config_is_told_before_torch_is_imported(record_figure: RecordFigure) -> None:
    command = [sys.executable, "train.py", f"--config={CONFIG}", "--config.seed=-1"]
    fastest = min(
        seconds_of(lambda: subprocess.run(command, cwd=ROOT, capture_output=True, check=False))
        for _ in range(3)
    )
    record_figure("G6", "message for a wrong config (s)", fastest, "<= 0.7", is_timing=True)


def test_work_between_two_checkpoints(record_figure: RecordFigure) -> None:
    """Of the configs whose cost was measured; on other machines.

    `docs/preemption.md`, "how often to save".
    """
    sweep, config = get_sweep_config(), get_config()
    every = sweep.overrides.train.checkpoint_every_steps
    lost = [
        (config.train.checkpoint_every_steps, config.train.batch_size),
        *((every, batch_size) for batch_size in sweep.batch_sizes),
    ]
    seconds = [
        steps * (batch_size * sweep.seconds_per_image + sweep.seconds_per_step)
        for steps, batch_size in lost
    ]
    assert min(seconds) > 0
    name = "work lost at most, digits on 2 cores (s)"
    record_figure("G17", name, max(seconds), f"<= {LOST_SECONDS}")


@pytest.mark.slow
def test_a_commit_beside_plain_accelerate(tmp_path: Path, record_figure: RecordFigure) -> None:
    """The same content, on the disk.

    Ours is hashed, checked for non-finite values, renamed, and an old one removed.
    """
    changes = {"model.embed_dim": 256, "model.depth": 6, "model.num_heads": 4}  # 80 MB
    trainer = tiny_trainer(tmp_path / "run", changes)
    trainer.train_step()
    ours, plain = [], []
    for trial in range(9):
        trainer.step = trial + 1
        ours.append(seconds_of(trainer.save))
        folder = tmp_path / "plain" / str(trial)
        plain.append(seconds_of(partial(save_plainly, trainer, folder)))
    ratio = statistics.median(ours) / statistics.median(plain)
    record_figure("G16", "commit beside plain save_state (ratio)", ratio, "<= 2", is_timing=True)


@pytest.mark.slow
def test_commits_at_the_default_interval(tmp_path: Path, record_figure: RecordFigure) -> None:
    config = get_config()
    default = {
        "model.embed_dim": config.model.embed_dim,
        "model.depth": config.model.depth,
        "model.num_heads": config.model.num_heads,
        "train.batch_size": config.train.batch_size,
        "train.num_steps": config.train.num_steps,
        "train.log_every_steps": config.train.log_every_steps,
    }
    trainer = tiny_trainer(tmp_path / "run", default)
    step = statistics.median(seconds_of(trainer.train_step) for _ in range(30))
    commit = statistics.median(seconds_of(trainer.save) for _ in range(5))
    percent = 100 * commit / (step * config.train.checkpoint_every_steps)
    record_figure(
        "G16", "commits of the quickstart (% of its time)", percent, "<= 1", is_timing=True
    )
