"""The checkpoints of one run: what is saved with them, and what a run may go on from."""

from collections.abc import Mapping

import torch
from torch import Tensor

from uvit_dia.config.files import config_hash, forbidden_changes, read_config_json, to_plain
from uvit_dia.config.schema import Config
from uvit_dia.runs.checkpoint import (
    Checkpoint,
    Verified,
    Warn,
    check_tensors,
    commit,
    newest_valid,
)
from uvit_dia.runs.folder import RunFolder, versions
from uvit_dia.system.errors import DivergedError, InputError

Files = Mapping[str, Mapping[str, Tensor]]


class RunCheckpoints:
    """Saves and finds the checkpoints of a run.

    Args:
        folder: the run's folder.
        config: the run's config.
        num_processes: of this launch.
        warn: called with one line for what is not fatal.
    """

    def __init__(
        self, folder: RunFolder, config: Config, *, num_processes: int, warn: Warn
    ) -> None:
        self.folder = folder
        self.config = config
        self.num_processes = num_processes
        self.warn = warn
        self._verified: Verified = {}

    def save(self, step: int, files: Files) -> None:
        """Commit a checkpoint and say so in the run's status; for the main process.

        Raises:
            DivergedError: if a tensor is not finite: it is not saved.
            StorageError: if the checkpoint cannot be written.
        """
        self._refuse_non_finite(step, files)
        commit(
            self.folder.checkpoints,
            step,
            files,
            to_plain(self.config),
            {
                "config_hash": config_hash(self.config),
                "num_processes": self.num_processes,
                "versions": versions(),
            },
            keep=self.config.train.keep_checkpoints,
            warn=self.warn,
            verified=self._verified,
        )
        self.folder.set_status("running", step, num_steps=self.config.train.num_steps)

    def _refuse_non_finite(self, step: int, files: Files) -> None:
        """Refuse to save what finite gradients overflowed to, such as a second moment."""
        for file, tensors in files.items():
            for name, tensor in tensors.items():
                # A sum is finite only if all numbers are, and quick; if it is not, it may have overflowed by itself.
                if torch.isfinite(tensor.sum()) or torch.isfinite(tensor).all():
                    continue
                raise DivergedError(
                    f"{file} tensor {name} became non-finite by step {step}, which is not saved. "
                    f"Last checkpoint: {self.newest_name()}"
                )

    def newest_name(self) -> str:
        """Return the folder of the newest undamaged checkpoint, or "none"."""
        found = newest_valid(self.folder.checkpoints, self.warn)
        return "none" if found is None else str(found.folder)

    def to_resume(self, expected: Files, *, allow_other_world_size: bool) -> Checkpoint | None:
        """Return the newest undamaged checkpoint, once it is sure that it may be loaded; None for a new run.

        Args:
            expected: names and shapes of the tensors that its files must have.
            allow_other_world_size: whether it may come from another number of processes.

        Raises:
            InputError: if checkpoints are there but damaged, of another config or architecture, or of another number
                of processes without the flag that allows it.
        """
        checkpoint = newest_valid(self.folder.checkpoints, self.warn)
        if checkpoint is None:
            return None
        self._compare_config(checkpoint)
        saved, now = checkpoint.manifest.get("num_processes"), self.num_processes
        if saved != now and not allow_other_world_size:
            raise InputError(
                f"{checkpoint.folder} was made by {saved} processes, this launch has {now}; "
                "--allow_other_world_size goes on with the same batches, equal up to rounding"
            )
        if checkpoint.manifest.get("versions") != versions():
            self.warn(
                f"{checkpoint.folder} was made with other library versions; bits may differ from here on"
            )
        for name, tensors in expected.items():
            check_tensors(checkpoint, name, tensors)
        window = checkpoint.tensors("window").get("window")
        if window is None or window.shape[1:] != (2,):
            raise InputError(f"{checkpoint.folder / 'window.safetensors'} holds no part of a log")
        return checkpoint

    def _compare_config(self, checkpoint: Checkpoint) -> None:
        if checkpoint.manifest.get("config_hash") == config_hash(self.config):
            return
        saved = read_config_json(checkpoint.folder / "config.json")
        changes = forbidden_changes(saved, self.config)
        if changes:
            raise InputError(
                f"{checkpoint.folder} is of another config ({'; '.join(changes)}); choose another --workdir"
            )
