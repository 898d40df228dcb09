"""TensorBoard, which a training can do without.

`metrics.jsonl` holds all that it shows but the pictures.
"""

from collections.abc import Callable

from accelerate import Accelerator

from uvit_dia.config.files import flatten, to_plain
from uvit_dia.config.schema import Config
from uvit_dia.runs.folder import RunFolder
from uvit_dia.system.messages import clip

Warn = Callable[[str], None]


def usable_tracker(name: str, warn: Warn) -> str:
    """Return a tracker's name, or "none" with a warning where its package cannot be imported."""
    if name != "tensorboard":
        return name
    try:
        import torch.utils.tensorboard  # noqa: F401
    except Exception as error:  # an installation that does not fit raises anything
        warn(_without(error))
        return "none"
    return name


def start_trackers(
    accelerator: Accelerator, config: Config, folder: RunFolder, *, step: int, warn: Warn
) -> None:
    """Start the trackers of a run, at its first start with its config as plain values.

    Args:
        accelerator: made with the run's folder.
        config: of the run.
        folder: of the run.
        step: optimizer steps done; what a run that was killed had shown of later steps, which
            come again, is taken back.
        warn: called with one line where they cannot start; the run does without them then.
    """
    is_new = not folder.tensorboard.exists()
    values = {
        key: value if isinstance(value, int | float | str | bool) else str(value)
        for key, value in flatten(to_plain(config)).items()
    }
    try:
        accelerator.init_trackers(
            "train",
            config=values if is_new else None,
            init_kwargs={"tensorboard": {"purge_step": step + 1}},
        )
    except Exception as error:  # such as a path that its files cannot name
        accelerator.trackers = []
        warn(_without(error))


def _without(error: Exception) -> str:
    reason = clip(f"{type(error).__name__}: {error}", 90)
    return f"train.tracker = tensorboard does not work here ({reason}); metrics.jsonl has the log"
