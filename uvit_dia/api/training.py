"""Training from Python."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from uvit_dia.api.model import LoadedModel, load
from uvit_dia.config.any_config import AnyConfig, read_any_config
from uvit_dia.data.paths import check_paths
from uvit_dia.runs.find import find_paths, with_paths
from uvit_dia.runs.folder import RunFolder
from uvit_dia.system.errors import StoppedEarly
from uvit_dia.system.files import user_path
from uvit_dia.system.signals import in_process_of_caller
from uvit_dia.training.run import train as train_run


def train(
    config: AnyConfig,
    workdir: str | Path,
    *,
    changes: Mapping[str, object] | None = None,
    allow_other_world_size: bool = False,
    allow_other_data: bool = False,
) -> LoadedModel:
    """Train a run, or go on with it, as `train.py` does; return its model.

    Ctrl-C, or a notebook's stop button, finishes the step and saves the state; the same call goes
    on with it. A second one leaves at once, and the call goes on from the last checkpoint.

    Args:
        config: the name of one of ours, a file, a ConfigDict, a dict, or a checked `Config`.
        workdir: the run's folder.
        changes: values of dotted keys, such as {"train.num_steps": 100}.
        allow_other_world_size: whether a run of another number of processes may be gone on with.
        allow_other_data: whether a run may go on with other images than it was trained on.

    Raises:
        InputError: if something does not fit.
        KeyboardInterrupt: after Ctrl-C, with the state saved.
        StoppedEarly: after another stop signal, with the state saved.
        DivergedError: if a loss or gradient became non-finite.
        StorageError: if a checkpoint cannot be written.
    """
    checked = read_any_config(config, changes)
    path = user_path(str(workdir), "workdir")
    check_paths(with_paths(checked, find_paths(checked, path)).data)
    with _interrupts(), in_process_of_caller():
        train_run(
            checked,
            RunFolder(path),
            allow_other_world_size=allow_other_world_size,
            allow_other_data=allow_other_data,
        )
    return load(path)


@contextmanager
def _interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt, as Python does, where Ctrl-C has stopped a training."""
    try:
        yield
    except StoppedEarly as error:
        if "SIGINT" not in str(error):
            raise
        raise KeyboardInterrupt(str(error).replace("command", "call")) from error
