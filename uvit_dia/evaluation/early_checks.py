"""What of an evaluation can be refused before torch is imported, which takes long."""

from pathlib import Path
from typing import TYPE_CHECKING

from uvit_dia.config.files import read_config_json
from uvit_dia.evaluation.extractor_files import (
    INCEPTION,
    ExtractorSource,
    choose_extractor,
    find_extractor,
)
from uvit_dia.evaluation.image_inputs import ImageInput
from uvit_dia.runs.find import find_paths, is_step_folder, run_of, with_paths
from uvit_dia.system.errors import InputError

if TYPE_CHECKING:
    from uvit_dia.evaluation.statistics import Statistics


def early_source(
    checkpoint: Path, extractor: str | None, weights: str | None
) -> ExtractorSource | None:
    """Find the extractor of an evaluation.

    Args:
        checkpoint: the run or step folder whose config names an extractor.
        extractor: the one of the command line, if there is one.
        weights: path of the Inception weights on the command line, if there is one.

    Returns:
        Its checked file; None where the config cannot be read, which is told when the checkpoint
        is.

    Raises:
        InputError: if there is no such extractor, or its file is wrong.
    """
    run = run_of(checkpoint) if is_step_folder(checkpoint) else checkpoint
    try:
        config = read_config_json((run or checkpoint) / "config.json")
    except InputError:
        return None
    located = with_paths(config, find_paths(config, run))
    return choose_extractor(located.eval, extractor, weights)


def early_score_source(
    reference: ImageInput, extractor: str | None, weights: str | None, *, may_download: bool
) -> tuple[str, ExtractorSource | None]:
    """Find the extractor of a measurement of images that exist.

    Args:
        reference: a config names an extractor, and so may statistics.
        extractor: the one of the command line, if there is one.
        weights: path of its published weights on the command line, if there is one.
        may_download: whether missing weights are downloaded, which is not done here.

    Returns:
        Its name, and its checked file; None for the file where it may have to be downloaded.

    Raises:
        InputError: if there is no such extractor, or its file is wrong.
    """
    config = reference.config
    if config is not None:
        extractor = extractor or config.eval.extractor
        same = extractor == config.eval.extractor
        weights = weights or (config.eval.weights if same else "")
    if extractor is None and reference.statistics is not None:
        extractor = _extractor_of(reference.statistics, reference.path)
    name = extractor or INCEPTION
    return name, None if may_download else find_extractor(name, weights or "")


def _extractor_of(statistics: "Statistics", path: Path) -> str | None:
    """Return the extractor that statistics name."""
    facts = statistics.facts
    if facts is not None and facts.extractor == "pt2":
        raise InputError(
            f"--extractor is missing: {path} holds statistics of a program "
            f"({facts.extractor_sha256:.8}...), which pt2:PATH names"
        )
    return None if facts is None else facts.extractor
