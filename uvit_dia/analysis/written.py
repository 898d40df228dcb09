"""What an analysis found, in files: JSON and pictures, each whole or not at all."""

import math
from importlib import metadata
from pathlib import Path

import numpy as np

from uvit_dia.analysis.result import AnalysisResult
from uvit_dia.plots.parts import name_subject
from uvit_dia.plots.style import png_bytes, svg_bytes
from uvit_dia.runs.folder import versions
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import write_atomically, write_json

OTHER_PACKAGES = ("matplotlib", "scikit-learn")
DIGITS = 7  # significant ones, of the numbers in the JSON: float32 has no more


def write_result(
    folder: Path, name: str, result: AnalysisResult, *, command: str, subject: str
) -> str:
    """Write NAME.png, NAME.svg and NAME.json.

    Args:
        folder: where to; made if it is not there.
        name: of the files, without their suffix.
        result: what was found.
        command: the analysis that it is of.
        subject: what was looked at, for the line below the picture.

    Returns:
        One line: where the results are, and what they say in short.

    Raises:
        InputError: if the folder cannot be made.
    """
    record = {
        "command": command,
        "title": result.title,
        "how_to_read": result.how_to_read,
        **result.facts,
        "results": result.values,
        "versions": {**versions(), **{name: metadata.version(name) for name in OTHER_PACKAGES}},
    }
    _make_folder(folder)
    name_subject(result.figure, subject)
    for suffix, content in (("png", png_bytes), ("svg", svg_bytes)):
        write_atomically(folder / f"{name}.{suffix}", content(result.figure))
    path = folder / f"{name}.json"
    write_json(path, plain(record))
    return f"{path}: {result.summary}"


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output: cannot make the folder {path}: {error.strerror}") from error


def plain(value: object) -> object:
    """Turn results into JSON's types: arrays to lists, numbers of `DIGITS` digits, NaN to None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
