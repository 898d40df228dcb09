"""The folder of a run: its config, its lock, what it says of itself, and its log.

::

    config.json    what the run is; written once, compared on resume
    env.json       versions, device, command of the latest start, and where it found its data
    status.json    running, preempted, done, diverged or failed
    metrics.jsonl  one JSON object a logged step
    checkpoints/ samples/ tensorboard/
"""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from uvit_dia.config.files import forbidden_changes, read_config_json, to_plain
from uvit_dia.config.schema import Config
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import append_line, write_atomically, write_json
from uvit_dia.system.locks import LockHeldError, ProcessLock
from uvit_dia.system.mounts import again_if_stale, restore_replaced
from uvit_dia.system.records import Record, read_json_lines

STATES = ("running", "preempted", "done", "diverged", "failed")
RECORDED_PACKAGES = (
    "torch",
    "accelerate",
    "diffusers",
    "torch-fidelity",
    "numpy",
    "safetensors",
    "uvit-dia",
)


class RunFolder:
    """A run's folder, opened for writing by one process.

    Args:
        path: the folder; made if it is not there.

    Raises:
        InputError: if the folder cannot be made or written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"
        self.tensorboard = path / "tensorboard"
        self._metrics = path / "metrics.jsonl"
        try:
            self._make()
        except OSError as error:
            shown = str(path) if len(str(path)) < 100 else str(path)[:97] + "..."
            raise InputError(f"--workdir: cannot write to {shown}: {error.strerror}") from error
        self._lock = ProcessLock(path / ".lock")

    @again_if_stale
    def _make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        probe = self.path / f".probe.{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()

    def lock(self) -> None:
        """Take the folder for this process until it ends.

        Raises:
            InputError: if another process holds it.
        """
        owner = self.path / ".lock-owner"
        try:
            self._lock.acquire()
        except LockHeldError as error:
            told = owner.read_text(errors="replace") if owner.is_file() else "unknown"
            holder = error.holder or " ".join(told.split())[:100]
            advice = f"; {error.advice}" if error.advice else ""
            raise InputError(f"{self.path} is in use by another run ({holder}){advice}") from None
        except OSError as error:
            raise InputError(f"--workdir: cannot lock {self.path}: {error.strerror}") from error
        write_atomically(owner, f"host {platform.node()}, process {os.getpid()}\n".encode())
        for name in ("config.json", "status.json", "metrics.jsonl"):
            restore_replaced(self.path / name)

    def unlock(self) -> None:
        """Give the folder back."""
        self._lock.release()

    def compare_config(self, config: Config) -> None:
        """Compare a config with that of the run that lies here, if there is one.

        Raises:
            InputError: with a key-by-key list, if what a run is would change.
        """
        saved = self.read_config()
        changes = [] if saved is None else forbidden_changes(saved, config)
        if changes:
            raise InputError(
                f"{self.path} holds a run with another config ({'; '.join(changes)}); "
                "choose another --workdir"
            )

    def read_config(self) -> Config | None:
        """Return the config of the run that lies here, or None where there is none.

        Raises:
            InputError: if it is damaged.
        """
        path = self.path / "config.json"
        return read_config_json(path) if path.exists() else None

    def read_env(self) -> dict[str, object]:
        """Return `env.json` of the latest start; empty where there is none, or it is damaged."""
        try:
            found = json.loads((self.path / "env.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def write_config(self, config: Config) -> None:
        """Write `config.json`: what the run is from here on."""
        write_json(self.path / "config.json", to_plain(config))

    def set_status(self, state: str, step: int, **facts: object) -> None:
        """Write `status.json` in one step; `state` is one of `STATES`."""
        if state not in STATES:
            raise ValueError(f"state must be one of {STATES}, got {state!r}")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(self.path / "status.json", {"state": state, "step": step, "time": now, **facts})

    def write_env(self, **facts: object) -> None:
        """Write `env.json`: versions, commit, command, and the given facts."""
        write_json(
            self.path / "env.json",
            {
                "versions": versions(),
                "python": platform.python_version(),
                "platform": platform.platform(),
                "commit": source_commit(),
                "command": sys.argv,
                **facts,
            },
        )

    def append_metrics(self, values: dict[str, object]) -> None:
        """Append one line to `metrics.jsonl`."""
        append_line(self._metrics, json.dumps(values, allow_nan=False))

    def truncate_metrics(self, step: int) -> list[Record]:
        """Drop a torn last line, and the lines after a step, which the resumed run writes again.

        Returns:
            The lines that were dropped, but for a torn one.
        """
        if not again_if_stale(self._metrics.exists)():
            return []
        rows = read_metrics(self._metrics)
        lines = [json.dumps(values) for values in rows if values["step"] <= step]
        write_atomically(self._metrics, "".join(line + "\n" for line in lines).encode())
        return [values for values in rows if values["step"] > step]


def read_metrics(path: Path) -> list[Record]:
    """Read a `metrics.jsonl`; a last line that is not whole is dropped.

    Raises:
        InputError: if it cannot be read, or a line other than the last is not a JSON object with a
            step.
    """
    lines = read_json_lines(path)
    if lines.problem:
        raise InputError(f"{path} {lines.problem}")
    stepless = [number for number, row in lines.rows.items() if type(row.get("step")) is not int]
    damaged = dict.fromkeys(stepless, "not an object with a step") | lines.damaged
    damaged.pop(lines.num_lines, None)
    if damaged:
        number = min(damaged)
        raise InputError(f"{path}, line {number} is damaged: {damaged[number]}")
    return [row for number, row in lines.rows.items() if number not in stepless]


def versions() -> dict[str, str]:
    """Return the versions of the installed packages that numbers depend on."""
    found = {}
    for name in RECORDED_PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def source_commit() -> str | None:
    """Return the git commit of this source tree, "-dirty" if changed; None outside a repository."""
    root = Path(__file__).resolve().parents[2]
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
