"""The folder of a sweep: what it is, and what has become of each of its runs.

::

    sweep.json             the resolved sweep, its runs and its hash; another sweep is refused
    cells/NAME/            a run's folder, as train.py and eval_fid.py leave it
    cells/NAME/cell.json   what became of the cell, as the launcher knows it; replaced in one step
    cells/NAME/logs/       stdout and stderr of train.py and eval_fid.py
"""

import fcntl
import hashlib
import json
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from uvit_dia.config.files import flatten, forbidden_changes, read_config_json, to_plain
from uvit_dia.sweep.cells import CELLS_FOLDER
from uvit_dia.sweep.config import Sweep
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import write_json

FORMAT = 1
CELL_STATES = ("waiting", "running", "preempted", "done", "diverged", "failed")
FINAL_STATES = ("done", "diverged")  # results; a failed cell is tried again by the next start
CELL_LOCK = ".cell-lock"  # held by whoever works on a cell
MAX_JSON_BYTES = 2**26

# What may differ when a sweep goes on: where things lie, what it is said to be, and how it is launched.
FREE_KEYS = (
    "held_constant",
    "seconds_per_",
    "slurm.",
    "eval.weights",
    "base",
    "overrides.data.path",
)
FREE_RUN_KEYS = ("data.path", "data.on_device", "train.tracker", "eval.weights")


def describe(sweep: Sweep) -> dict:
    """Return the content of `sweep.json`: the resolved sweep as plain JSON, with the hash of what makes its results."""
    return {
        "format": FORMAT,
        "hash": sweep_hash(sweep),
        "config": to_plain(sweep.config),
        "base_config": sweep.base_config,
        "cells": [asdict(cell) for cell in sweep.cells],
    }


def sweep_hash(sweep: Sweep) -> str:
    """Return the SHA-256 of all that the results of a sweep depend on."""
    runs = {
        name: {
            key: value
            for key, value in flatten(to_plain(config)).items()
            if key not in FREE_RUN_KEYS
        }
        for name, config in sweep.configs.items()
    }
    config = to_plain(sweep.config)
    evaluation = {key: value for key, value in config["eval"].items() if key != "weights"}
    launch = {key: config[key] for key in ("num_processes", "threads_per_cell")}
    text = json.dumps([runs, evaluation, launch], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_sweep_json(workdir: Path) -> dict | None:
    """Read the `sweep.json` of a folder; None where there is none.

    Raises:
        InputError: if it is damaged, or of another format.
    """
    path = workdir / "sweep.json"
    if not path.exists():
        return None
    content = read_json(path)
    cells = None if content is None else content.get("cells")
    if (
        content is None
        or not isinstance(cells, list)
        or not isinstance(content.get("config"), dict)
    ):
        raise InputError(f"{path} is damaged; move the folder away, or choose another --workdir")
    if content.get("format") != FORMAT:
        raise InputError(
            f"{path} has format {content.get('format')!r:.40}; this version reads {FORMAT}"
        )
    return content


def compare(workdir: Path, sweep: Sweep) -> None:
    """Compare a sweep with the one that lies in a folder, if there is one, and its runs with those there.

    Raises:
        InputError: naming what differs.
    """
    saved = read_sweep_json(workdir)
    if saved is not None and saved.get("hash") != sweep_hash(sweep):
        raise InputError(
            f"{workdir} holds another sweep ({_difference(saved, sweep)}); choose another --workdir"
        )
    for cell in sweep.cells:
        path = cell.folder(workdir) / "config.json"
        if path.exists():
            changes = forbidden_changes(read_config_json(path), sweep.configs[cell.name])
            if changes:
                raise InputError(
                    f"{path.parent} holds a run with another config ({'; '.join(changes)})"
                )


def _difference(saved: dict, sweep: Sweep) -> str:
    """Say in a few words what differs between the saved sweep and this one."""
    for label, old_tree, new_tree, free in (
        ("", saved["config"], to_plain(sweep.config), FREE_KEYS),
        ("base config ", saved.get("base_config", {}), sweep.base_config, FREE_RUN_KEYS),
    ):
        old, new = flatten(old_tree), flatten(new_tree)
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key) and not key.startswith(free):
                return f"{label}{key}: {old.get(key)!r:.40} -> {new.get(key)!r:.40}"
    return "made by another version of this package"


def write_sweep_json(workdir: Path, sweep: Sweep) -> None:
    """Write `sweep.json`, unless it says the same already."""
    path, content = workdir / "sweep.json", describe(sweep)
    if read_json(path) != json.loads(json.dumps(content)):
        write_json(path, content)


def read_json(path: Path) -> dict | None:
    """Read a JSON object as data; None if it is missing, damaged or no object."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            return None
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_cell_json(folder: Path) -> dict:
    """Read the `cell.json` of a run's folder; a cell without one is waiting."""
    found = read_json(folder / "cell.json")
    if found is None or found.get("state") not in CELL_STATES:
        return {"state": "waiting"}
    return found


def write_cell_json(folder: Path, state: str, **facts: object) -> None:
    """Replace the `cell.json` of a run's folder in one step; `state` is one of `CELL_STATES`."""
    if state not in CELL_STATES:
        raise ValueError(f"state must be one of {CELL_STATES}, got {state!r}")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(folder / "cell.json", {"state": state, **facts, "time": now})


def is_held(lock: Path) -> bool:
    """Say whether a process of this machine holds a lock file; nothing is written, so the folder may be read-only."""
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # as filelock does, but shared
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def cell_folders(workdir: Path, content: dict) -> dict[str, Path]:
    """Return the folders of a read `sweep.json`'s cells by name.

    Raises:
        InputError: if a name would lead out of the sweep's folder.
    """
    names = [cell.get("name") if isinstance(cell, dict) else None for cell in content["cells"]]
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
            raise InputError(f"{workdir / 'sweep.json'}: {name!r:.60} is no name of a cell")
    return {str(name): workdir / CELLS_FOLDER / str(name) for name in names}
