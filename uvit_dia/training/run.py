"""A training run from its start to its last word: lock, resume, fit, status."""

from dataclasses import asdict

from accelerate import Accelerator

from uvit_dia.config.schema import Config
from uvit_dia.config.units import moves_averages
from uvit_dia.runs.find import absolute_paths, find_paths, step_folder_name, step_folders
from uvit_dia.runs.folder import RunFolder
from uvit_dia.system.accelerator import (
    PROCESS_TIMEOUT_MINUTES,
    execution_of,
    make_accelerator,
)
from uvit_dia.system.errors import (
    CommandError,
    DivergedError,
    LostContactError,
    StoppedEarly,
    StorageError,
)
from uvit_dia.system.execution import Execution, check_same_precision
from uvit_dia.system.memory import memory_advice
from uvit_dia.system.mounts import free_bytes
from uvit_dia.system.notices import warn
from uvit_dia.system.processes import failing_together, is_lost_contact
from uvit_dia.training.build import make_trainer
from uvit_dia.training.summary import already_finished, beginning, ending
from uvit_dia.training.trackers import start_trackers, usable_tracker
from uvit_dia.training.trainer import Trainer

BYTES_A_WEIGHT = 4 * 4  # weight, average, two moments, each float32
CHECKPOINTS_THAT_MUST_FIT = 3


def train(
    config: Config,
    folder: RunFolder,
    *,
    allow_other_world_size: bool = False,
    allow_other_data: bool = False,
    process_timeout_minutes: float = PROCESS_TIMEOUT_MINUTES,
) -> None:
    """Train a run, or go on with it; what became of it stands in its `status.json`.

    Args:
        config: the run's config.
        folder: the run's folder.
        allow_other_world_size: whether a run of another number of processes may be gone on with.
        allow_other_data: whether a run may go on with other images than it was trained on.
        process_timeout_minutes: how long processes wait for one another before they give up.

    Raises:
        InputError: if something does not fit; a run that lies in the folder is left as it was.
        DivergedError: if a loss or gradient became non-finite.
        StoppedEarly: after a stop signal, with the state saved.
        StorageError: if a checkpoint cannot be written.
        LostContactError: if another process died, froze, or cannot be reached.
        MemoryShortageError: if something does not fit into memory.
    """
    begun = _begun(folder)
    accelerator = make_accelerator(
        mixed_precision=config.train.mixed_precision,
        compile=config.train.compile,
        begun=begun,
        accumulation_steps=config.train.accumulation_steps,
        max_grad_norm=config.optimizer.max_grad_norm,
        workdir=folder.path,
        tracker=usable_tracker(config.train.tracker, warn),
        process_timeout_minutes=process_timeout_minutes,
    )
    try:
        with failing_together():
            if accelerator.is_main_process:
                folder.lock()
                folder.compare_config(config)
            check_same_precision(begun, execution_of(accelerator))
        trainer = _prepare(
            config,
            folder,
            accelerator,
            allow_other_world_size=allow_other_world_size,
            allow_other_data=allow_other_data,
        )
        try:
            is_new = trainer.step < config.train.num_steps
            _fit(trainer, config)
            if is_new:
                weights = folder.checkpoints / step_folder_name(trainer.step)
                words = ending(folder.path, trainer.step, weights, trainer.log.last_loss)
                trainer.log.say(words)
        finally:
            trainer.log.close()
    finally:
        folder.unlock()  # for the next training of this Python process


def _begun(folder: RunFolder) -> Execution | None:
    """Return how the run that lies in a folder was computed so far, or None for a new run."""
    config = folder.read_config()
    if config is None and not step_folders(folder.checkpoints):
        return None
    recorded = Execution.recorded(folder.read_env())
    if recorded is None and config is not None:  # of a version that recorded nothing else
        recorded = Execution.recorded(
            {"mixed_precision": config.train.mixed_precision, "compile": config.train.compile}
        )
    return recorded


def _prepare(
    config: Config,
    folder: RunFolder,
    accelerator: Accelerator,
    *,
    allow_other_world_size: bool,
    allow_other_data: bool,
) -> Trainer:
    """Make the trainer, resume what lies in the folder, and say so.

    Nothing is refused after that.
    """
    with memory_advice(
        "for weights, average and optimizer; with another --workdir, make model.embed_dim or "
        "model.depth smaller"
    ):
        trainer = make_trainer(config, folder, accelerator)
        with failing_together():
            if accelerator.is_main_process:
                _check_space(trainer, folder)
        is_resumed = trainer.resume(
            allow_other_world_size=allow_other_world_size, allow_other_data=allow_other_data
        )
    execution = execution_of(accelerator)
    if accelerator.is_main_process:
        folder.write_config(config)
        folder.write_env(
            device=str(accelerator.device),
            num_processes=accelerator.num_processes,
            paths=absolute_paths(find_paths(config, folder.path)),
            **asdict(execution),
        )
        folder.set_status("running", trainer.step, num_steps=config.train.num_steps)
    start_trackers(accelerator, config, folder, step=trainer.step, warn=trainer.log.warn)
    if trainer.step >= config.train.num_steps:
        weights = folder.checkpoints / step_folder_name(trainer.step)
        schedule = config.optimizer.lr_schedule
        trainer.log.say(already_finished(folder.path, trainer.step, weights, schedule))
        return trainer
    trainer.log.say(
        beginning(
            folder.path,
            trainer.step,
            num_processes=accelerator.num_processes,
            device=accelerator.device.type,
            execution=execution,
            asked=Execution(config.train.mixed_precision, config.train.compile),
            is_resumed=is_resumed,
        )
    )
    return trainer


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
    except CommandError as error:
        reason = str(error)
        raise
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:500]
        if not is_lost_contact(error):
            reason = f"{type(error).__name__}: {reason}"
            raise
        raise LostContactError(
            f"lost contact with another process of the run at step {trainer.step}: {reason[:80]}; "
            "the same command goes on from the last checkpoint"
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


def _check_space(trainer: Trainer, folder: RunFolder) -> None:
    """Refuse to start where three checkpoints would not fit."""
    weights = sum(p.numel() for p in trainer.ema.model.parameters())
    needed = CHECKPOINTS_THAT_MUST_FIT * weights * BYTES_A_WEIGHT
    free = free_bytes(folder.path)
    if free is not None and free < needed:
        raise StorageError(
            f"no space for checkpoints in {folder.path}: need {needed} bytes, have {free}"
        )
