"""What an export is told, checked before torch is imported."""

import os
from dataclasses import dataclass
from pathlib import Path

from uvit_dia.config.schema import Config
from uvit_dia.runs.sources import HUB_ID
from uvit_dia.system.errors import InputError
from uvit_dia.system.messages import clip


@dataclass(frozen=True)
class ExportArguments:
    """What an export is told.

    Attributes:
        source: a run, a step folder, an exported folder or a file of weights.
        target: the folder to write; not there, or empty.
        config: of a file of weights.
        use_ema: whether a run's averaged weights are exported.
        repository: id on the Hugging Face Hub to upload to; None for no upload.
        private: whether that repository is private.
        license: of the weights, for the model card; None if nobody said.
        space: whether the folder gets what a hosted Space needs.
    """

    source: Path
    target: Path
    config: Config | None = None
    use_ema: bool = True
    repository: str | None = None
    private: bool = False
    license: str | None = None
    space: bool = False


def check_target(path: Path, repository: str | None) -> None:
    """Check that a folder can be written: it is not there yet, or empty.

    Args:
        path: the folder.
        repository: id on the Hub to which it shall be uploaded, or None.

    Raises:
        InputError: saying what lies there, or why nothing can be written.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"export: {path} is a file; name a new folder")
    if path.is_dir() and any(path.iterdir()):
        upload = f", or upload it as it is: hf upload {repository} {path}" if repository else ""
        raise InputError(f"export: {path} is not empty; name a new folder{upload}")
    parent = path.absolute().parent
    if not parent.is_dir():
        raise InputError(f"export: there is no folder {parent}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"export: cannot write to the folder {parent}")


def check_repository(name: str) -> None:
    """Check that a text can be the id of a repository on the Hugging Face Hub.

    Raises:
        InputError: if it cannot.
    """
    if not HUB_ID.fullmatch(name):
        raise InputError(f"--push {clip(name, 60)!r}: allowed is OWNER/NAME")
