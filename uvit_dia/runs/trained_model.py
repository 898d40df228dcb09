"""Trained models out of run folders, for sampling, evaluation and analysis.

Everything that is read is data, and checked.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from uvit_dia.config.files import forbidden_changes, read_config_json
from uvit_dia.config.schema import Config
from uvit_dia.data.images import ImageSet
from uvit_dia.models import UViT
from uvit_dia.models.build import make_model
from uvit_dia.runs.checkpoint import Checkpoint, Warn, check_tensors, newest_valid, verify
from uvit_dia.runs.data_identity import DataIdentity, check_same_images
from uvit_dia.runs.find import check_checkpoint, find_paths, is_step_folder, run_of, with_paths
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import expand_home
from uvit_dia.system.notices import warn


@dataclass(frozen=True)
class TrainedModel:
    """A model with the weights of a checkpoint, in evaluation mode.

    Attributes:
        model: on the device.
        config: of its run, as the run was last started; its paths are where the files are.
        run: the run's folder, or None for a step folder that lies elsewhere.
        step: optimizer steps that went into it; 0 where unknown.
        weights: "ema" or "model"; "official" for those of the U-ViT authors.
        sha256: of the weight file.
        data: the images that it was trained on; None where its checkpoint does not say.
    """

    model: UViT
    config: Config
    run: Path | None
    step: int
    weights: str
    sha256: str
    data: DataIdentity | None

    @property
    def data_fingerprint(self) -> str | None:
        """The SHA-256 of its training images, see `ImageSet.fingerprint`; None where unknown."""
        return None if self.data is None else self.data.images_sha256

    @property
    def named_weights(self) -> str:
        """Which weights they are, in words."""
        return f"{self.weights} weights" + (f" of step {self.step}" if self.step else "")

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes that it is told, in the order of the labels; None where unknown."""
        return None if self.data is None else self.data.class_names

    def check_images(self, images: ImageSet, *, allow_other_data: bool) -> None:
        """Compare images with those that the model was trained on, see `check_same_images`.

        Raises:
            InputError: if they differ and may not.
        """
        found = DataIdentity.of(images, with_labels=self.config.is_conditional)
        if self.data is None:
            warn(f"the checkpoint does not record its training images, to compare {found} with")
            return
        check_same_images(
            self.data,
            found,
            self.step,
            allow_other_data=allow_other_data,
            warn=warn,
        )


def load_run(
    path: Path,
    *,
    use_ema: bool = True,
    device: torch.device | str = "cpu",
    data_path: str | None = None,
    flag: str = "--checkpoint",
) -> TrainedModel:
    """Load the model of a run (its newest checkpoint) or of a step folder.

    Args:
        path: of the run or the step folder.
        use_ema: whether the averaged weights are used.
        device: where the model shall run.
        data_path: where the images lie, if not where the run found them.
        flag: that the path was given to, for messages.

    Raises:
        InputError: if there is no undamaged checkpoint, or it is not one of ours.
    """
    checkpoint = find_checkpoint(path, warn, flag)
    return load_trained(checkpoint, use_ema=use_ema, device=device, data_path=data_path)


def find_checkpoint(path: Path, warn: Warn, flag: str = "--checkpoint") -> Checkpoint:
    """Find and verify the checkpoint that a path means, see `load_run`.

    Raises:
        InputError: if there is none, or none that is undamaged.
    """
    check_checkpoint(path, flag)
    if is_step_folder(path):
        return verify(path)
    checkpoint = newest_valid(path / "checkpoints", warn)
    assert checkpoint is not None  # there is one, or the check would have refused
    return checkpoint


def load_trained(
    checkpoint: Checkpoint,
    *,
    use_ema: bool = True,
    device: torch.device | str = "cpu",
    data_path: str | None = None,
) -> TrainedModel:
    """Load a checkpoint's weights into the model that its config describes, see `load_run`.

    Raises:
        InputError: if config or weights are not those of a U-ViT of ours.
    """
    saved = read_config_json(checkpoint.folder / "config.json")
    model = make_model(saved)
    weights = "ema" if use_ema else "model"
    check_tensors(checkpoint, weights, model.state_dict())
    model.load_state_dict(checkpoint.tensors(weights), strict=True)
    run = run_of(checkpoint.folder)
    return TrainedModel(
        # diffusers' decorator hides the signature of `to`
        model=model.to(device).eval().requires_grad_(False),  # type: ignore[arg-type]
        config=_config_of_run(saved, run, data_path),
        run=run,
        step=checkpoint.step,
        weights=weights,
        sha256=checkpoint.manifest["files"][f"{weights}.safetensors"]["sha256"],
        data=DataIdentity.saved_in(checkpoint),
    )


def _config_of_run(saved: Config, run: Path | None, data_path: str | None) -> Config:
    """Return a checkpoint's config, with what its run changed since: a run may, where its data lie.

    Args:
        saved: the checkpoint's.
        run: the run's folder, or None.
        data_path: that the user gave; it wins.
    """
    config = saved
    if run is not None:
        try:
            latest = read_config_json(run / "config.json")
            if forbidden_changes(saved, latest):
                raise InputError(f"{run / 'config.json'} is of another run")
            config = latest
        except InputError as error:
            warn(f"{error}; the checkpoint's own config is used")
    if data_path and config.data.name == "digits":
        raise InputError("--data_path: this run's data.name = 'digits' reads no files of yours")
    if data_path:
        config = with_paths(config, {"data.path": expand_home(data_path, "--data_path")})
    return with_paths(config, find_paths(config, run))
