"""What of an evaluation can be refused before torch is imported, which takes long."""

from pathlib import Path

from uvit_dia.config.files import read_config_json
from uvit_dia.evaluation.extractor_files import ExtractorSource, choose_extractor


def early_source(
    checkpoint: Path, extractor: str | None, weights: str | None
) -> ExtractorSource | None:
    """Find the extractor of an evaluation.

    Args:
        checkpoint: the run or step folder whose config names an extractor.
        extractor: the one of the command line, if there is one.
        weights: path of the Inception weights on the command line, if there is one.

    Returns:
        Its checked file; None where the folder is no checkpoint, which is told later.

    Raises:
        InputError: if config or extractor are wrong.
    """
    path = checkpoint / "config.json"
    if not path.is_file():
        return None
    return choose_extractor(read_config_json(path).eval, extractor, weights)
