"""Tiny training runs for the tests: their config, a trainer in this process, train.py in others."""

import importlib.util
import json
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.crashes import Crash, run_armed
from tests.support.forked import Child, Finished
from uvit_dia.config.checks import make_config
from uvit_dia.config.schema import Config
from uvit_dia.runs.find import step_folders
from uvit_dia.system.files import sha256_file

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "digits_uvit_dia.py"
TINY: dict[str, object] = {
    "model.embed_dim": 16,
    "model.depth": 2,
    "model.num_heads": 2,
    "optimizer.warmup_steps": 3,
    "train.batch_size": 8,
    "train.num_steps": 12,
    "train.log_every_steps": 2,
    "train.checkpoint_every_steps": 4,
    "train.sample_every_steps": 0,
    "train.tracker": "none",
}
TIMES = ("images_per_second", "data_seconds")  # what no two runs have in common

Changes = Mapping[str, object]


def tiny_config(changes: Changes | None = None) -> Config:
    """Return the quickstart's config, 13,000 weights and 12 steps; `changes` has dotted keys."""
    spec = importlib.util.spec_from_file_location("digits_uvit_dia", CONFIG)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.update_from_flattened_dict({**TINY, **(changes or {})})
    return make_config(config.to_dict())


def tiny_trainer(path: Path, changes: Changes | None = None) -> Any:
    """Make the Trainer of a tiny run in this process; a run in the folder is not resumed yet."""
    import torch
    from accelerate.state import AcceleratorState, GradientState

    from uvit_dia.runs.folder import RunFolder
    from uvit_dia.system.accelerator import make_accelerator
    from uvit_dia.training.build import make_trainer

    torch.set_num_threads(1)  # tiny tensors, and cores that all tests share
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    config = tiny_config(changes)
    accelerator = make_accelerator(mixed_precision=config.train.mixed_precision, workdir=path)
    return make_trainer(config, RunFolder(path), accelerator)


def weights(trainer: Any) -> dict[str, Any]:
    """Return a copy of the weights of a trainer's model."""
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


# ---------------------------------------------------------------- train.py in a process


@dataclass(frozen=True)
class Fault:
    """A signal that a training process gets at a place which it passes.

    Attributes:
        place: "draw" (nothing of the step is done), "update" (weights are updated, their average is
            not), "log" (half of the step's log line is written), "saved" (a checkpoint is
            committed, nobody knows), or "commit" (inside the commit).
        at: the step, from 0 in "draw" and "update", as the log line or the checkpoint counts it in
            "log" and "saved"; in "commit" the operation, from 0.
        number: the signal.
        times: how often it comes.
        pause_seconds: between one time and the next.
    """

    place: str
    at: int
    number: signal.Signals = signal.SIGKILL
    times: int = 1
    pause_seconds: float = 0.0

    def strike(self) -> None:
        for _ in range(self.times):
            signal.raise_signal(self.number)
            time.sleep(self.pause_seconds)


def train_arguments(workdir: Path, changes: Changes | None = None) -> list[str]:
    """Return the arguments of train.py for a tiny run."""
    overrides = {**TINY, **(changes or {})}
    return [
        f"--config={CONFIG}",
        *(f"--config.{key}={value}" for key, value in overrides.items()),
        f"--workdir={workdir}",
    ]


def start_train(
    workdir: Path, changes: Changes | None = None, *flags: str, fault: Fault | None = None
) -> Child:
    """Start train.py in a process."""
    return Child(command, "train", [*train_arguments(workdir, changes), *flags], fault)


def train(
    workdir: Path, changes: Changes | None = None, *flags: str, fault: Fault | None = None
) -> Finished:
    """Run train.py in a process, and wait."""
    return start_train(workdir, changes, *flags, fault=fault).wait()


def command(script: str, arguments: list[str], fault: Fault | None = None) -> None:
    """Run one of the commands as its process would."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    module = importlib.import_module(script)
    from uvit_dia import cli

    if fault is not None:
        _PLACES[fault.place](fault)
    sys.argv = [f"{script}.py", *arguments]
    cli.run_command(module.main)


def before_draw(call: Callable[[int], object]) -> None:
    """Have a function called with each step's number before the step's random numbers are drawn."""
    from uvit_dia.training import trainer

    draw = trainer.draw_batch

    def draw_after_call(*arguments: Any, step: int, **named: Any) -> Any:
        call(step)
        return draw(*arguments, step=step, **named)

    trainer.draw_batch = draw_after_call


def _fault_in_draw(fault: Fault) -> None:
    before_draw(lambda step: fault.strike() if step == fault.at else None)


def _fault_after_update(fault: Fault) -> None:
    from uvit_dia.training import trainer

    decay = trainer.ema_decay

    def faulty(step: int, *arguments: Any, **named: Any) -> float:
        if step == fault.at:
            fault.strike()
        return decay(step, *arguments, **named)

    trainer.ema_decay = faulty


def _fault_in_log(fault: Fault) -> None:
    from uvit_dia.runs.folder import RunFolder

    append = RunFolder.append_metrics

    def faulty(self: Any, values: dict) -> None:
        if values["step"] == fault.at:
            line = json.dumps(values)
            with (self.path / "metrics.jsonl").open("a") as file:
                file.write(line[: len(line) // 2])
            fault.strike()
        append(self, values)

    RunFolder.append_metrics = faulty  # type: ignore[method-assign]


def _fault_after_save(fault: Fault) -> None:
    from uvit_dia.runs import resume as run_checkpoints

    commit = run_checkpoints.commit

    def faulty(root: Path, step: int, *arguments: Any, **named: Any) -> Path:
        folder = commit(root, step, *arguments, **named)
        if step == fault.at:
            fault.strike()
        return folder

    run_checkpoints.commit = faulty


def _fault_in_commit(fault: Fault) -> None:
    from uvit_dia.runs import resume as run_checkpoints

    commit = run_checkpoints.commit

    def faulty(root: Path, *arguments: Any, **named: Any) -> None:
        crash = Crash(root, fault.at)
        run_armed(crash, commit, root, *arguments, **named)

    run_checkpoints.commit = faulty  # type: ignore[assignment]


_PLACES: dict[str, Callable[[Fault], None]] = {
    "draw": _fault_in_draw,
    "update": _fault_after_update,
    "log": _fault_in_log,
    "saved": _fault_after_save,
    "commit": _fault_in_commit,
}


# ---------------------------------------------------------------- what a run left behind


def step_folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step_{step:08d}"


def newest_step(run: Path) -> int:
    """Return the step of the newest checkpoint of a run, or 0."""
    return max((int(path.name[5:]) for path in step_folders(run / "checkpoints")), default=0)


def log_lines(run: Path) -> list[dict]:
    """Return the lines of a run's log, without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def status(run: Path) -> dict:
    return json.loads((run / "status.json").read_text())


def checkpoint_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each tensor file of a checkpoint."""
    return {path.name: sha256_file(path) for path in sorted(folder.glob("*.safetensors"))}


def result(run: Path, step: int = 12) -> dict[str, object]:
    """Return what two runs must have in common to be the same run: last checkpoint and log."""
    return {**checkpoint_hashes(step_folder(run, step)), "log": log_lines(run)}


def tree(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file under a folder, but for the lock's."""
    return {
        str(path.relative_to(folder)): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".lock")
    }
