"""From arguments to files: load, analyse, and write JSON and pictures whole or not at all."""

import math
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np

from uvit_dia.analysis.arguments import AnalysisArguments
from uvit_dia.analysis.correlation import analyse_correlation
from uvit_dia.analysis.cost import analyse_cost
from uvit_dia.analysis.gates import analyse_gates
from uvit_dia.analysis.gradients import analyse_gradients
from uvit_dia.analysis.importance import analyse_importance
from uvit_dia.analysis.neighbours import analyse_neighbours
from uvit_dia.analysis.result import AnalysisResult
from uvit_dia.analysis.sensitivity import analyse_sensitivity
from uvit_dia.plots.parts import name_subject
from uvit_dia.plots.style import png_bytes, svg_bytes
from uvit_dia.runs.folder import versions
from uvit_dia.runs.open_model import open_model
from uvit_dia.runs.sources import is_exported
from uvit_dia.runs.trained_model import TrainedModel
from uvit_dia.system.accelerator import make_accelerator
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import write_atomically, write_json

Analyse = Callable[..., AnalysisResult]
ANALYSES: dict[str, Analyse] = {
    "correlation": analyse_correlation,
    "importance": analyse_importance,
    "gates": analyse_gates,
    "gradients": analyse_gradients,
    "sensitivity": analyse_sensitivity,
    "neighbours": analyse_neighbours,
    "cost": analyse_cost,
}
OTHER_PACKAGES = ("matplotlib", "scikit-learn")
DIGITS = 7  # significant ones, of the numbers in the JSON: float32 has no more


def run_analysis(arguments: AnalysisArguments) -> str:
    """Analyse a run and write COMMAND.png, COMMAND.svg and COMMAND.json.

    Returns:
        One line: where the results are, and what they say in short.

    Raises:
        InputError: if run, images or output do not fit; nothing is written then.
    """
    accelerator = make_accelerator()
    if accelerator.num_processes > 1:
        raise InputError("an analysis runs in one process; start it without a launcher")
    trained = open_model(
        arguments.checkpoint,
        use_ema=arguments.use_ema,
        device=accelerator.device,
        data_path=arguments.data_path,
    )
    folder = _output_folder(arguments, trained)
    result = ANALYSES[arguments.command](arguments, trained, accelerator)
    record = {
        "command": arguments.command,
        "title": result.title,
        "how_to_read": result.how_to_read,
        **result.facts,
        "results": result.values,
        "versions": {**versions(), **{name: metadata.version(name) for name in OTHER_PACKAGES}},
    }
    _make_folder(folder)
    name_subject(result.figure, _subject(arguments, trained))
    for suffix, content in (("png", png_bytes), ("svg", svg_bytes)):
        write_atomically(folder / f"{arguments.command}.{suffix}", content(result.figure))
    path = folder / f"{arguments.command}.json"
    write_json(path, plain(record))
    return f"{path}: {result.summary}"


def _subject(arguments: AnalysisArguments, trained: TrainedModel) -> str:
    """Say what was looked at: run, step, weights and unit."""
    attention = trained.config.model.attention
    unit = "no unit" if attention == "none" else f"unit {attention}"
    run = Path(trained.run or arguments.checkpoint).name
    return f"{run}, step {trained.step}, {trained.weights} weights, {unit}."


def _output_folder(arguments: AnalysisArguments, trained: TrainedModel) -> Path:
    """Return where results go, after a look whether they can."""
    folder = arguments.output
    if folder is None and is_exported(arguments.checkpoint):
        raise InputError(
            "--output is missing: an exported folder stays as it is, so say where results go"
        )
    if folder is None and not (arguments.checkpoint / "manifest.json").is_file():
        folder = arguments.checkpoint / "analysis"  # of a run, under the name that the user gave it
    elif folder is None:
        if trained.run is None:
            raise InputError(
                "--output is missing: the step folder lies in no run that could hold the results"
            )
        folder = trained.run / "analysis"
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder}: is a file; it takes a folder")
    return folder


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
