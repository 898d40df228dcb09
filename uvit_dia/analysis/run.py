"""From arguments to files: load a run, analyse it, and write what came out."""

from collections.abc import Callable
from pathlib import Path

from uvit_dia.analysis.arguments import AnalysisArguments
from uvit_dia.analysis.correlation import analyse_correlation
from uvit_dia.analysis.cost import analyse_cost
from uvit_dia.analysis.gates import analyse_gates
from uvit_dia.analysis.gradients import analyse_gradients
from uvit_dia.analysis.importance import analyse_importance
from uvit_dia.analysis.neighbours import analyse_neighbours
from uvit_dia.analysis.result import AnalysisResult
from uvit_dia.analysis.sensitivity import analyse_sensitivity
from uvit_dia.analysis.written import write_result
from uvit_dia.runs.open_model import open_model
from uvit_dia.runs.sources import is_exported
from uvit_dia.runs.trained_model import TrainedModel
from uvit_dia.system.accelerator import make_accelerator
from uvit_dia.system.errors import InputError

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
    return write_result(
        folder,
        arguments.command,
        result,
        command=arguments.command,
        subject=_subject(arguments, trained),
    )


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
