"""Small sweeps for the tests.

Their configs, the command in this process and in others, and what it left behind.
"""

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import submitit  # noqa: F401  closes all logging handlers, absl's with pytest's stderr: so early

from tests.support.forked import Child
from uvit_dia import cli
from uvit_dia.sweep.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
STAND_INS = Path(__file__).resolve().parent / "stand_ins"
TIMES = ("time", "train_seconds", "eval_seconds", "seconds", "images_per_second", "data_seconds")
PLACES = ("host", "process", "attempts", "versions")

SWEEP: dict[str, Any] = {
    "base": str(ROOT / "configs" / "digits_uvit_dia.py"),
    "baseline": "uvit",
    "variants": {
        "uvit": {"model": {"attention": "none"}},
        "dia_lstm": {"model": {"attention": "dia_lstm"}},
    },
    "overrides": {
        "model": {"embed_dim": 16, "depth": 2, "num_heads": 2},
        "optimizer": {"warmup_steps": 3},
        "train": {"log_every_steps": 2, "checkpoint_every_steps": 4, "tracker": "none"},
    },
    "batch_sizes": (8, 16),
    "seeds": (0,),
    "budget": "steps",
    "budget_amount": 20,
    "lr_rule": "constant",
    "reference_batch_size": 64,
    "ema_rule": "base",
    "ema_halflife_images": 0,
    "eval": {
        "num_images": 100,
        "sampler": "dpmpp_2m",
        "num_steps": 4,
        "seed": 5,
        "num_repeats": 2,
        "extractor": "",
        "weights": "",
    },
    "num_processes": 1,
    "threads_per_cell": 1,
    "seconds_per_image": 0.001,
    "seconds_per_step": 0.01,
    "seconds_per_cell": 18.0,
    "held_constant": "steps",
    "slurm": {"partition": "", "timeout_minutes": 10, "gpus_per_run": 0, "cpus_per_run": 1},
}


def write_sweep(folder: Path, **changes: object) -> Path:
    """Write the file of a sweep config with changed keys; a key given as None is left out."""
    content = {key: value for key, value in {**SWEEP, **changes}.items() if value is not None}
    path = folder / "sweep_config.py"
    path.write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n"
        f"    config = ConfigDict({content!r})\n"
        "    return config\n"
    )
    return path


def sweep(config: Path, workdir: Path, *flags: str, scripts: Path = STAND_INS) -> None:
    """Run the command in this process."""
    main(["sweep", f"--config={config}", f"--workdir={workdir}", *flags], scripts=scripts)


def start_sweep(
    config: Path, workdir: Path, *flags: str, scripts: Path = STAND_INS, **environment: str
) -> Child:
    """Start the command in a process that leads a group of its own, as a shell would start it."""
    arguments = [f"--config={config}", f"--workdir={workdir}", *flags]
    return Child(_command, arguments, scripts, environment=environment)


def start_cell(
    workdir: Path, name: str, *, base: str | None = SWEEP["base"], **environment: str
) -> Child:
    """Start the command that works on one cell."""
    given = [] if base is None else [f"--base={base}"]
    words = ["cell", str(workdir), name, f"--scripts={STAND_INS}", *given]
    return Child(_command, words, STAND_INS, environment=environment)


def until(happens: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


def _command(arguments: list[str], scripts: Path) -> None:
    os.setpgid(0, 0)
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    sys.argv = ["sweep", *arguments]
    cli.run_command(lambda argv: main(argv, scripts=scripts))


def family(process: int) -> list[psutil.Process]:
    """Return a process and all that it started, directly or not."""
    try:
        parent = psutil.Process(process)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill_all(process: int) -> int:
    """Send SIGKILL to a process and to all that it started; return how many there were."""
    victims = family(process)
    for victim in victims:  # nobody starts anybody any more
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.send_signal(signal.SIGSTOP)
    victims += [each for each in family(process) if each not in victims]
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.send_signal(signal.SIGKILL)
    return len(victims)


def kill_at_random(
    config: Path,
    workdir: Path,
    seconds: tuple[float, float],
    *flags: str,
    scripts: Path = STAND_INS,
    **environment: str,
) -> int:
    """Give the command of a sweep until it is finished, and kill everything up to ten times.

    Return how often.

    No cell that was done at a kill may be touched afterwards.

    Args:
        config: the sweep's config.
        workdir: its folder.
        seconds: the shortest and the longest time from a start to its kill.
        *flags: beside --max_parallel=2.
        scripts: of the commands.
        **environment: of the sweep.
    """
    rng, kills, done = random.Random(0), 0, dict[str, tuple[int, ...]]()
    while True:
        child = start_sweep(
            config, workdir, "--max_parallel=2", *flags, scripts=scripts, **environment
        )
        end = time.monotonic() + rng.uniform(*seconds)
        while child.is_alive() and (kills == 10 or time.monotonic() < end):
            time.sleep(0.01)
        if child.is_alive():
            kill_all(child.pid)
            kills += 1
        ended = child.wait(600)
        assert ended.exit_code in (0, -signal.SIGKILL), ended.stderr
        for name, before in done.items():
            assert identity(workdir, name) == before, f"{name} was touched after it was done"
        for path in workdir.glob("cells/*/cell.json"):
            if read(path)["state"] == "done":
                done[path.parent.name] = identity(workdir, path.parent.name)
        if ended.exit_code == 0:
            return kills


def identity(workdir: Path, name: str) -> tuple[int, ...]:
    """Return what changes when a cell is worked on again."""
    path = workdir / "cells" / name
    files = ("cell.json", "status.json", "eval.jsonl", "metrics.jsonl")
    found = [(path / file).stat() for file in files]
    return tuple(number for each in found for number in (each.st_ino, each.st_mtime_ns))


def working_on(workdir: Path) -> list[psutil.Process]:
    """Return the training and evaluating processes of a sweep's cells."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(str(workdir / "cells") in word for word in words):
            found.append(process)
    return found


# ---------------------------------------------------------------- what a sweep left behind


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def cells(workdir: Path) -> dict[str, Path]:
    """Return the cells' folders by name."""
    return {path.name: path for path in sorted((workdir / "cells").iterdir())}


def states(workdir: Path) -> dict[str, str]:
    return {name: read(path / "cell.json")["state"] for name, path in cells(workdir).items()}


def calls(workdir: Path) -> list[tuple[str, str]]:
    """Return which stand-ins were started for which cell."""
    return [
        (name, call["script"])
        for name, path in cells(workdir).items()
        for call in lines(path / "calls.jsonl")
    ]


def collected(workdir: Path) -> bytes:
    """Return all results of a sweep but for times and machines.

    What must be the same, byte for byte.
    """
    result = {}
    for name, path in cells(workdir).items():
        own = (read(path / "cell.json"), read(path / "config.json"))
        logs = (lines(path / "metrics.jsonl"), lines(path / "eval.jsonl"))
        weights = [
            read(manifest)["files"]
            for manifest in sorted(path.glob("checkpoints/step_*/manifest.json"))[-1:]
        ]
        result[name] = without_times([*own, *logs, weights])
    return json.dumps(result, indent=1, sort_keys=True).encode()


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in (*TIMES, *PLACES)}
        return {key: without_times(v) for key, v in kept.items()}
    return [without_times(v) for v in value] if isinstance(value, list | tuple) else value
