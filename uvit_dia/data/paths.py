"""Whether anything lies at `data.path`; answers before torch is imported."""

import difflib
from pathlib import Path

from uvit_dia.config.schema import DataConfig
from uvit_dia.data.cifar10_files import find_cifar10
from uvit_dia.data.file_kinds import kind_of
from uvit_dia.system.errors import InputError

FILE_ADVICE = {
    "image": "one image; data.name = 'folder' takes the folder that holds the images",
    "parquet": "a table; data.name = 'parquet' reads it",
    "archive": "an archive; data.name = 'zip' reads .zip files, others have to be unpacked",
}


def check_paths(data: DataConfig) -> None:
    """Check that there is what a config's group `data` names.

    Raises:
        InputError: if not; it says what is there, and the nearest name.
    """
    check_path(data.name, data.path)


def check_path(name: str, path: str) -> None:
    """Check that a path may hold an image set of a kind, without looking into it.

    Args:
        name: as `data.name`.
        path: as `data.path`.

    Raises:
        InputError: if nothing lies there, or something else.
    """
    if name in ("digits", "hf") or (name == "cifar10" and not path):
        return  # what "hf" names may lie on the Hub
    place = data_path(path)
    try:
        is_there, is_file = place.exists(), place.is_file()
    except (OSError, ValueError) as error:  # no permission; characters that no path may have
        raise InputError(f"data.path: cannot look at {path}: {error}") from error
    if not is_there:
        kind = "folder" if name == "folder" else "file or folder"
        raise InputError(f"data.path: no {kind} {place}{_what_is_there(place)}")
    if name == "cifar10":
        find_cifar10(place)
    elif name in ("zip", "npz"):
        if not is_file or place.suffix.lower() != f".{name}":
            raise InputError(f"data.path: {place} is no .{name} file")
    elif is_file and (name == "folder" or kind_of(place.name) in FILE_ADVICE):
        advice = FILE_ADVICE.get(kind_of(place.name), "a file; data.name = 'folder' takes a folder")
        if kind_of(place.name) != name:
            raise InputError(f"data.path: {place} is {advice}")


def data_path(path: str) -> Path:
    """Return the path that `data.path` means; a leading ~ is the user's home.

    Raises:
        InputError: if there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"data.path: {path}: {error}") from error


def _what_is_there(place: Path) -> str:
    """Say where a missing path was looked for, and which one may be meant."""
    text = "" if place.is_absolute() else f" in {Path.cwd()}"
    if place.is_symlink():
        return f"{text}; it is a link to {place.readlink()}, which is not there"
    missing, rest = place, Path()
    while not missing.parent.is_dir() and missing.parent != missing:
        missing, rest = missing.parent, Path(missing.name) / rest
    try:
        names = [entry.name for entry in missing.parent.iterdir()]
    except OSError:
        names = []
    close = difflib.get_close_matches(missing.name, names, n=1, cutoff=0.6)
    if not close:
        return text
    meant = missing.parent / close[0]
    return f"{text}; did you mean {meant / rest if (meant / rest).exists() else meant}?"
