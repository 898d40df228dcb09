"""Trackers, which a training can do without: TensorBoard, Weights & Biases, Trackio.

`metrics.jsonl` holds all that they show but the pictures. A run has one name and one id in its
tracker, however often it is resumed, and a step appears there once.
"""

import secrets
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from uvit_dia.config.files import flatten, to_plain
from uvit_dia.config.schema import Config
from uvit_dia.runs.folder import RunFolder
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import write_atomically
from uvit_dia.system.messages import clip

Warn = Callable[[str], None]
PROJECT = "uvit_dia"
ONLINE = ("wandb", "trackio")
ID_FILE = "tracker_id.txt"  # in the run's folder


def usable_tracker(name: str, warn: Warn) -> str:
    """Return a tracker's name, or "none" with a warning where TensorBoard cannot be imported.

    Raises:
        InputError: if the package of a tracker that was chosen is missing.
    """
    if name in ONLINE and find_spec(name) is None:
        raise InputError(f"train.tracker = {name!r} needs the package {name}; pip install {name}")
    if name != "tensorboard":
        return name
    try:
        import torch.utils.tensorboard  # noqa: F401
    except Exception as error:  # an installation that does not fit raises anything
        warn(_without(name, error))
        return "none"
    return name


def start_trackers(
    accelerator: Accelerator, config: Config, folder: RunFolder, *, step: int, warn: Warn
) -> None:
    """Start the trackers of a run with its config as plain values.

    TensorBoard and wandb keep the config of the first start; Trackio would replace it by nothing
    when a run is resumed, and is told it at every start.

    Args:
        accelerator: made with the run's folder.
        config: of the run.
        folder: of the run.
        step: optimizer steps done; what a run that was killed had shown of later steps, which
            come again, is taken back from TensorBoard, and not shown again by the others.
        warn: called with one line where they cannot start; the run does without them then.
    """
    is_online = config.train.tracker in ONLINE
    is_new = not (folder.path / ID_FILE if is_online else folder.tensorboard).exists()
    values = {
        key: value if isinstance(value, int | float | str | bool) else str(value)
        for key, value in flatten(to_plain(config)).items()
    }
    try:
        kwargs: dict[str, dict[str, Any]] = {"tensorboard": {"purge_step": step + 1}}
        if is_online and accelerator.is_main_process:
            kwargs = {config.train.tracker: _run_of(config.train.tracker, folder)}
        accelerator.init_trackers(
            PROJECT if is_online else "train",
            config=values if is_new or config.train.tracker == "trackio" else None,
            init_kwargs=kwargs,
        )
    except Exception as error:  # such as a path that its files cannot name, or no network
        accelerator.trackers = []
        warn(_without(config.train.tracker, error))


def _run_of(name: str, folder: RunFolder) -> dict[str, Any]:
    """Return what `init` of wandb or trackio is told of a run; its id is drawn once and kept."""
    file = folder.path / ID_FILE
    if not file.is_file():
        write_atomically(file, secrets.token_hex(8).encode())
    run_id, run_name = file.read_text(encoding="utf-8").strip(), folder.path.resolve().name
    if name == "wandb":
        return {"id": run_id, "name": run_name, "resume": "allow", "dir": str(folder.path)}
    return {"name": f"{run_name}-{run_id[:6]}", "resume": "allow"}  # trackio's id is the name


def show_image(accelerator: Accelerator, step: int, name: str, image: Tensor) -> None:
    """Show an image, (C, H, W) uint8 with C = 1 or 3, in the trackers that are there."""
    pixels = image.numpy()
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.log_images({name: pixels[None]}, step=step, dataformats="NCHW")
        elif tracker.name == "wandb":
            tracker.log_images({name: [pixels.transpose(1, 2, 0)]}, step=step)
        elif tracker.name == "trackio":  # Accelerate has no pictures for it
            import trackio

            rgb = pixels.transpose(1, 2, 0).repeat(3 // len(pixels), axis=2)
            tracker.log({name: trackio.Image(rgb)}, step=step)


def _without(name: str, error: Exception) -> str:
    reason = clip(f"{type(error).__name__}: {error}", 90)
    return f"train.tracker = {name} does not work here ({reason}); metrics.jsonl has the log"
