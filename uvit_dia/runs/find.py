"""Where the checkpoints of a run lie, and files that a config names; needs no torch."""

import os
import re
import stat
from dataclasses import replace
from pathlib import Path

from uvit_dia.config.files import flatten, to_plain
from uvit_dia.config.schema import Config
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import expand_home
from uvit_dia.system.mounts import again_if_stale
from uvit_dia.system.notices import warn_once
from uvit_dia.system.records import read_json

STEP_FOLDER = re.compile(r"step_(\d{8,})")
PATH_KEYS = (
    "data.path",
    "data.vae",
    "eval.weights",
    "eval.extractor",
)  # keys of a config that hold paths
PROGRAM = "pt2:"  # stands before the path of an extractor


def step_folder_name(step: int) -> str:
    """Return the folder name of a step, `step_00050000`."""
    return f"step_{step:08d}"


@again_if_stale
def step_folders(root: Path) -> list[Path]:
    """Return the folders of committed checkpoints, the highest step first."""
    if not root.is_dir():
        return []
    found = [
        (int(m[1]), p)
        for p in root.iterdir()
        if (m := STEP_FOLDER.fullmatch(p.name)) and p.is_dir()
    ]
    return [path for _, path in sorted(found, reverse=True)]


@again_if_stale
def is_step_folder(path: Path) -> bool:
    """Say whether a folder is a checkpoint, under whatever name."""
    return (path / "manifest.json").is_file()


def run_of(step_folder: Path) -> Path | None:
    """Return the run that a step folder lies in; None if it lies elsewhere."""
    parent = step_folder.resolve().parent
    is_in_run = parent.name == "checkpoints" and (parent.parent / "config.json").is_file()
    return parent.parent if is_in_run else None


def check_checkpoint(path: Path, flag: str = "--checkpoint") -> None:
    """Check that a path is a step folder, or a run that has one.

    Args:
        path: as the user typed it.
        flag: that it was given to, for the message.

    Raises:
        InputError: saying what the path is instead.
    """
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError) as error:
        raise InputError(f"{flag}: no folder {path}{_reason(error)}") from error
    if not is_folder:
        raise InputError(f"{flag}: {path} is a file; it takes a run's folder or a step folder")
    if is_step_folder(path):
        return
    if not (path / "config.json").is_file():
        raise InputError(f"{flag}: {path} is neither a run nor a step folder{_hint(path)}")
    if not step_folders(path / "checkpoints"):
        raise InputError(f"{flag}: the run {path} has no checkpoint yet")


def _reason(error: OSError | ValueError) -> str:
    """Return why a path cannot be looked at, if it is more than that nothing lies there."""
    if isinstance(error, FileNotFoundError | NotADirectoryError | ValueError):
        return ""
    return f": {error.strerror}"


def _hint(path: Path) -> str:
    """Say which folder near a path may be meant."""
    if (path / "sweep.json").is_file():
        cells = sorted(cell.name for cell in path.glob("cells/*") if cell.is_dir())
        return f" but a sweep; its runs are cells/{cells[0]} and so on" if cells else " but a sweep"
    if (path.parent / "config.json").is_file():
        return f"; its run is {path.parent}"
    below = sorted(config.parent.name for config in path.glob("*/config.json"))
    return f"; did you mean {path / below[0]}?" if below else ""


def check_output(path: Path, image_suffixes: tuple[str, ...]) -> None:
    """Check that samples can be written to a path: an image file, or a folder.

    Raises:
        InputError: if not. Whether a folder holds samples of other weights is seen later.
    """
    is_file = path.suffix.lower() in image_suffixes
    folders = [path.parent] if is_file else [path, *path.parents]
    there = next((folder for folder in folders if os.path.lexists(folder)), None)
    if is_file and (there is None or not there.is_dir() or os.path.isdir(path)):  # noqa: PTH112
        raise InputError(f"--output {path}: must be a file in a folder that is there")
    if there is not None and not there.is_dir():
        raise InputError(f"--output: cannot make the folder {path}: {there} is no folder")
    if there is not None and not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"--output {path}: cannot write to the folder {there}")


def find_paths(config: Config, run: Path | None) -> dict[str, str]:
    """Find the files that a config names: from here, or where the run found them last.

    A config may name a file from the folder in which its run was started; the run notes in
    `env.json` where that was. A file that is not there is left to whoever reads it, who knows what
    should be there.

    Args:
        config: of the run.
        run: its folder, or None for a step folder that lies elsewhere.

    Returns:
        Paths by key, for those of `PATH_KEYS` that are set; an extractor keeps its "pt2:".

    Raises:
        InputError: if a path begins with the home folder of nobody.
    """
    values = flatten(to_plain(config))
    remembered = {} if run is None else _remembered_paths(run)
    found = {}
    for key in PATH_KEYS:
        text = str(values.get(key, ""))
        prefix = PROGRAM if key == "eval.extractor" else ""
        if not text or not text.startswith(prefix):
            continue  # an extractor without a file of the user's
        path = Path(expand_home(text.removeprefix(prefix), key))
        before = remembered.get(key, "").removeprefix(prefix)
        if before and not path.is_absolute() and not path.exists() and Path(before).exists():
            warn_once(
                f"{key} {before}",
                f"{key} = {text!r:.80} is not in {Path.cwd()}; using {before}, where the run found "
                "it",
            )
            path = Path(before)
        found[key] = f"{prefix}{path}"
    return found


def absolute_paths(paths: dict[str, str]) -> dict[str, str]:
    """Return the result of `find_paths` as it holds in any working folder, for `env.json`."""
    absolute = {}
    for key, text in paths.items():
        prefix = PROGRAM if text.startswith(PROGRAM) else ""
        absolute[key] = f"{prefix}{Path(text.removeprefix(prefix)).absolute()}"
    return absolute


def _remembered_paths(run: Path) -> dict[str, str]:
    paths = read_json(run / "env.json").values.get("paths")
    if not isinstance(paths, dict):
        return {}
    return {key: path for key, path in paths.items() if isinstance(path, str)}


def with_paths(config: Config, paths: dict[str, str]) -> Config:
    """Return a config that names its files by other paths."""
    for key, path in paths.items():
        group, name = key.split(".")
        config = replace(config, **{group: replace(getattr(config, group), **{name: path})})
    return config
