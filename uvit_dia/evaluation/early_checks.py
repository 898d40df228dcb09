"""What of an evaluation can be refused before torch is imported, which takes long."""

from pathlib import Path

from uvit_dia.config.files import read_config_json
from uvit_dia.evaluation.extractor_files import ExtractorSource, choose_extractor
from uvit_dia.runs.find import find_paths, is_step_folder, run_of, with_paths
from uvit_dia.system.errors import InputError


def early_source(
    checkpoint: Path, extractor: str | None, weights: str | None
) -> ExtractorSource | None:
    """Find the extractor of an evaluation.

    Args:
        checkpoint: the run or step folder whose config names an extractor.
        extractor: the one of the command line, if there is one.
        weights: path of the Inception weights on the command line, if there is one.

    Returns:
        Its checked file; None where the config cannot be read, which is told when the checkpoint is.

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
