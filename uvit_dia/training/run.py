"""A training run from its start to its last word: lock, resume, fit, status."""

import shutil

import torch.distributed as dist

from uvit_dia.config.schema import Config
from uvit_dia.config.units import moves_averages
from uvit_dia.runs.folder import RunFolder
from uvit_dia.system.accelerator import PROCESS_TIMEOUT_MINUTES, make_accelerator
from uvit_dia.system.errors import (
    DivergedError,
    LostContactError,
    MemoryShortageError,
    StoppedEarly,
    StorageError,
)
from uvit_dia.system.memory import memory_advice
from uvit_dia.training.build import make_trainer, start_trackers
from uvit_dia.training.trainer import Trainer

BYTES_A_WEIGHT = 4 * 4  # weight, average, two moments, each float32
CHECKPOINTS_THAT_MUST_FIT = 3


def train(
    config: Config,
    folder: RunFolder,
    *,
    allow_other_world_size: bool = False,
    process_timeout_minutes: float = PROCESS_TIMEOUT_MINUTES,
) -> None:
    """Train a run, or go on with it; what became of it stands in its `status.json`.

    Args:
        config: the run's config.
        folder: the run's folder.
        allow_other_world_size: whether a run of another number of processes may be gone on with.
        process_timeout_minutes: how long processes wait for one another before they give up.

    Raises:
        InputError: if something does not fit; a run that lies in the folder is left as it was.
        DivergedError: if a loss or gradient became non-finite.
        StoppedEarly: after a stop signal, with the state saved.
        StorageError: if a checkpoint cannot be written.
        LostContactError: if another process died, froze, or cannot be reached.
        MemoryShortageError: if something does not fit into memory.
    """
    accelerator = make_accelerator(
        # "auto" is the careful choice here: float32, not compiled
        mixed_precision=config.train.mixed_precision.replace("auto", "no"),
        compile=config.train.compile is True,
        workdir=folder.path,
        tracker=config.train.tracker,
        process_timeout_minutes=process_timeout_minutes,
    )
    if accelerator.is_main_process:
        folder.lock()
        folder.compare_config(config)
    accelerator.wait_for_everyone()
    with memory_advice(
        "for weights, average and optimizer; with another --workdir, make model.embed_dim or model.depth smaller"
    ):
        trainer = make_trainer(config, folder, accelerator)
        if accelerator.is_main_process:
            _check_space(trainer, folder)
        is_resumed = trainer.resume(allow_other_world_size=allow_other_world_size)
    if accelerator.is_main_process:  # nothing can be refused any more
        folder.write_config(config)
        folder.write_env(device=str(accelerator.device), num_processes=accelerator.num_processes)
        folder.set_status("running", trainer.step, num_steps=config.train.num_steps)
    start_trackers(accelerator, config, folder, step=trainer.step)
    verb = f"going on at step {trainer.step}" if is_resumed else "starting"
    accelerator.print(
        f"{verb}: {folder.path}, {accelerator.num_processes} process(es) on {accelerator.device.type}"
    )
    try:
        _fit(trainer, config)
    finally:
        trainer.log.close()


def _fit(trainer: Trainer, config: Config) -> None:
    """Run the training and write how it ended."""
    state = "failed"
    reason = ""
    try:
        trainer.log.start_at(trainer.step)
        with memory_advice(_advice_for_a_step(config)):
            trainer.fit()
        state = "done"
    except StoppedEarly as error:
        state, reason = "preempted", str(error)
        raise
    except DivergedError as error:
        state, reason = "diverged", str(error)
        raise
    except MemoryShortageError as error:
        reason = str(error)
        raise
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:500]
        if not _is_lost_contact(error):
            reason = f"{type(error).__name__}: {reason}"
            raise
        raise LostContactError(
            f"lost contact with another process of the run at step {trainer.step}: {reason[:80]}; the same command "
            "goes on from the last checkpoint"
        ) from error
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        raise
    finally:
        if trainer.accelerator.is_main_process:
            facts = {"reason": reason} if reason else {}
            trainer.checkpoints.folder.set_status(
                state, trainer.step, num_steps=config.train.num_steps, **facts
            )


def _advice_for_a_step(config: Config) -> str:
    """Say what makes a training step smaller; what a run may not change needs a run of its own."""
    train = config.train
    here = "data.on_device = False, or " if config.data.on_device else ""
    model = config.model
    moves = moves_averages(model.attention, model.attention_options.normalisation)
    is_open = not moves and not train.gradient_checkpointing
    less = " or train.gradient_checkpointing" if is_open else ""
    return (
        f"with train.batch_size = {train.batch_size}; try {here}in another --workdir "
        f"train.accumulation_steps above {train.accumulation_steps} (same global batch){less}"
    )


def _is_lost_contact(error: RuntimeError) -> bool:
    """Say whether a collective operation failed; gloo has no exception of its own, but signs with its source files."""
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)


def _check_space(trainer: Trainer, folder: RunFolder) -> None:
    """Refuse to start where three checkpoints would not fit."""
    weights = sum(p.numel() for p in trainer.ema.model.parameters())
    needed = CHECKPOINTS_THAT_MUST_FIT * weights * BYTES_A_WEIGHT
    free = shutil.disk_usage(folder.path).free
    if free < needed:
        raise StorageError(
            f"no space for checkpoints in {folder.path}: need {needed} bytes, have {free}"
        )
