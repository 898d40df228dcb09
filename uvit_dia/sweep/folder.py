"""The folder of a sweep, as its launcher writes it.

::

    sweep.json             the plan (`plan.py`): the resolved sweep, its runs and its hash; another
    sweep is refused cells/NAME/            a run's folder, as train.py and eval_fid.py leave it
    cells/NAME/cell.json   what became of the cell, as the launcher knows it; replaced in one step
    cells/NAME/logs/       what train.py, eval_fid.py and the process that works on the cell wrote
"""

import hashlib
import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from uvit_dia.config.files import flatten, forbidden_changes, read_config_json, to_plain
from uvit_dia.sweep.config import Sweep
from uvit_dia.sweep.plan import FORMAT, SweepPlan, read_plan
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import write_json
from uvit_dia.system.locks import ProcessLock
from uvit_dia.system.records import Record, read_json

CELL_STATES = ("waiting", "running", "preempted", "done", "diverged", "failed")
FINAL_STATES = ("done", "diverged")  # results; a failed cell is tried again by the next start
CELL_LOCK = ".cell-lock"  # held by whoever works on a cell

# What may differ when a sweep goes on: where things lie, what it is said to be, and how it is
# launched.
FREE_KEYS = (
    "held_constant",
    "seconds_per_",
    "slurm.",
    "eval.weights",
    "base",
    "overrides.data.path",
)
FREE_RUN_KEYS = ("data.path", "data.on_device", "train.tracker", "eval.weights")


def make_plan(sweep: Sweep, workdir: Path) -> SweepPlan:
    """Return the plan of a sweep in a folder, with the extractors that were recorded there.

    Raises:
        InputError: if the folder holds another sweep, or runs of other configs; the message names
            what differs.
    """
    saved = read_plan(workdir) if (workdir / "sweep.json").exists() else None
    plan = SweepPlan(
        folder=workdir,
        config=to_plain(sweep.config),
        base_config=sweep.base_config,
        sha256=sweep_hash(sweep),
        extractors={} if saved is None else saved.extractors,
        run_order=sweep.cells,
    )
    if saved is not None and saved.sha256 != plan.sha256:
        difference = _difference(saved, plan)
        raise InputError(f"{workdir} holds another sweep ({difference}); choose another --workdir")
    for cell in sweep.cells:
        path = cell.folder(workdir) / "config.json"
        if path.exists():
            changes = forbidden_changes(read_config_json(path), sweep.configs[cell.name])
            if changes:
                raise InputError(
                    f"{path.parent} holds a run with another config ({'; '.join(changes)})"
                )
    return plan


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


def _difference(saved: SweepPlan, plan: SweepPlan) -> str:
    """Say in a few words what differs between the saved sweep and this one."""
    for label, old_tree, new_tree, free in (
        ("", saved.config, plan.config, FREE_KEYS),
        ("base config ", saved.base_config, plan.base_config, FREE_RUN_KEYS),
    ):
        old, new = flatten(old_tree), flatten(new_tree)
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key) and not key.startswith(free):
                return f"{label}{key}: {old.get(key)!r:.40} -> {new.get(key)!r:.40}"
    return "made by another version of this package"


def write_plan(plan: SweepPlan) -> None:
    """Write `sweep.json`, unless it says the same already."""
    path = plan.folder / "sweep.json"
    content = {
        "format": FORMAT,
        "hash": plan.sha256,
        "config": plan.config,
        "base_config": plan.base_config,
        "extractors": plan.extractors,
        "cells": [asdict(cell) for cell in plan.run_order],
    }
    if read_json(path).values != json.loads(json.dumps(content)):
        write_json(path, content)


def read_told(folder: Path) -> Record:
    """Read the `cell.json` of a run's folder; a cell without one is waiting."""
    found = read_json(folder / "cell.json").values
    return found if found.get("state") in CELL_STATES else {"state": "waiting"}


def write_cell_json(folder: Path, state: str, **facts: object) -> None:
    """Replace the `cell.json` of a run's folder in one step; `state` is one of `CELL_STATES`."""
    if state not in CELL_STATES:
        raise ValueError(f"state must be one of {CELL_STATES}, got {state!r}")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(folder / "cell.json", {"state": state, **facts, "time": now})


def is_held(lock: Path) -> bool:
    """Say whether a process of this machine holds a lock file; nothing is created."""
    return ProcessLock(lock).is_held()
