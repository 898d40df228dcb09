"""The checkpoints of one run: what is saved with them, and which one a run resumes from."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate.utils import gather_object

from uvit_dia.config.files import config_hash, forbidden_changes, read_config_json, to_plain
from uvit_dia.config.schema import Config
from uvit_dia.runs.checkpoint import Checkpoint, Warn, check_tensors, newest_valid
from uvit_dia.runs.commit import Files, Verified, commit
from uvit_dia.runs.data_identity import DataIdentity, check_same_images
from uvit_dia.runs.folder import RunFolder, versions
from uvit_dia.system.errors import DivergedError, InputError
from uvit_dia.system.processes import failing_together


class RunCheckpoints:
    """Saves and finds the checkpoints of a run.

    Args:
        folder: the run's folder.
        config: the run's config.
        data: the training images.
        num_processes: of this launch.
        warn: called with one line for what is not fatal.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        *,
        data: DataIdentity,
        num_processes: int,
        warn: Warn,
    ) -> None:
        self.folder = folder
        self.config = config
        self.data = data
        self.num_processes = num_processes
        self.warn = warn
        self._earlier_data: list[dict] = []  # image sets that this run was trained on before
        self._verified: Verified = {}

    def save(self, step: int, files: Files) -> None:
        """Commit a checkpoint and say so in the run's status; for the main process.

        Raises:
            DivergedError: if a tensor is not finite: it is not saved.
            StorageError: if the checkpoint cannot be written.
        """
        self._refuse_non_finite(step, files)
        earlier = {"earlier_data": self._earlier_data} if self._earlier_data else {}
        commit(
            self.folder.checkpoints,
            step,
            files,
            to_plain(self.config),
            {
                "config_hash": config_hash(self.config),
                "num_processes": self.num_processes,
                "versions": versions(),
                "data": self.data.as_dict(),
                **earlier,
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
                # A finite sum means finite numbers, and is quick; another one may be an overflow.
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

    def to_resume(
        self, expected: Files, *, allow_other_world_size: bool, allow_other_data: bool = False
    ) -> Checkpoint | None:
        """Return the newest undamaged checkpoint if it may be loaded; None for a new run.

        Args:
            expected: names and shapes of the tensors that its files must have.
            allow_other_world_size: whether it may come from another number of processes.
            allow_other_data: whether it may have been trained on other images.

        Raises:
            InputError: if checkpoints are there but damaged, of another config or architecture, or
                of another number of processes or other images without the flag that allows it.
        """
        checkpoint = newest_valid(self.folder.checkpoints, self.warn)
        if checkpoint is None:
            return None
        self._compare_config(checkpoint)
        self._compare_data(checkpoint, allow_other_data=allow_other_data)
        saved, now = checkpoint.manifest.get("num_processes"), self.num_processes
        if saved != now and not allow_other_world_size:
            raise InputError(
                f"{checkpoint.folder} was made by {saved} processes, this launch has {now}; "
                "--allow_other_world_size goes on with the same batches, equal up to rounding"
            )
        if checkpoint.manifest.get("versions") != versions():
            self.warn(
                f"{checkpoint.folder} was made with other library versions; bits may differ from "
                "here on"
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
                f"{checkpoint.folder} is of another config ({'; '.join(changes)}); choose another "
                "--workdir"
            )

    def _compare_data(self, checkpoint: Checkpoint, *, allow_other_data: bool) -> None:
        """Compare the images with the checkpoint's, and remember those if they are others."""
        earlier = checkpoint.manifest.get("earlier_data")
        self._earlier_data = list(earlier) if isinstance(earlier, list) else []
        saved = DataIdentity.saved_in(checkpoint)
        if saved is None:
            self.warn(
                f"{checkpoint.folder} does not record its training images; from now on "
                f"{self.data} are recorded"
            )
            return
        check_same_images(
            saved,
            self.data,
            checkpoint.step,
            allow_other_data=allow_other_data,
            warn=self.warn,
        )
        if saved.has_other_images(self.data):
            self._earlier_data.append({**saved.as_dict(), "until_step": checkpoint.step})


# ---------------------------------------------------------------- on several processes


@dataclass(frozen=True)
class _Start:
    """Where a process would begin.

    Attributes:
        step: of its checkpoint; 0 without one.
        sha256: of its checkpoint; None without one.
        data: its training images.
    """

    step: int
    sha256: str | None
    data: DataIdentity

    def __str__(self) -> str:
        if self.sha256 is None:
            return "no checkpoint"
        return f"step {self.step} ({self.sha256[:8]})"


def choose_together(
    choose: Callable[[], Checkpoint | None], data: DataIdentity
) -> Checkpoint | None:
    """Choose the checkpoint to resume from, the same on all processes; call it on all of them.

    Each process looks for the newest checkpoint, and reads the images, itself. Where folders lie on
    each machine's own disk, or one machine's view of a network folder is old, they find different
    ones, and would train apart.

    Args:
        choose: returns what this process would resume from, or None for a new run.
        data: the training images of this process.

    Returns:
        What `choose` returned.

    Raises:
        InputError: on all processes, if `choose` raised one on any, or if they hold different
            images or would begin at different checkpoints.
    """
    with failing_together(InputError):
        checkpoint = choose()
    mine = _Start(
        step=0 if checkpoint is None else checkpoint.step,
        sha256=None if checkpoint is None else checkpoint.sha256,
        data=data,
    )
    starts: list[_Start] = gather_object([mine])
    first = starts[0]
    for process, start in enumerate(starts):
        if start.data.has_other_images(first.data):
            raise InputError(
                f"process {process} reads {start.data}, process 0 {first.data}; data.path must "
                "lead to the same images on all machines"
            )
        if (start.step, start.sha256) != (first.step, first.sha256):
            raise InputError(
                f"process {process} sees {start}, process 0 {first}; --workdir must be one folder "
                "that all machines share"
            )
    return checkpoint
