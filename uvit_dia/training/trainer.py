"""A training run: its steps, and what is due between them: previews, evaluations, checkpoints."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from uvit_dia.config.schema import Config
from uvit_dia.data.batches import TrainingBatches
from uvit_dia.diffusion import Diffusion
from uvit_dia.runs import state as training_state
from uvit_dia.runs.resume import RunCheckpoints, choose_together
from uvit_dia.system.accelerator import execution_of
from uvit_dia.system.compilation import compile_errors_told
from uvit_dia.system.errors import InputError, NonFiniteImagesError, StoppedEarly
from uvit_dia.system.signals import StoppedAtOnce, StopRequest
from uvit_dia.training.log import TrainLog
from uvit_dia.training.stability import buffers_kept
from uvit_dia.training.step import TrainingStep


@dataclass(frozen=True)
class PeriodicTask:
    """Something done with the averaged model every so many steps, on all processes together.

    Attributes:
        every_steps: 0 for never.
        run: called with the step and the averaged model; what it returns is logged. It may raise a
            `NonFiniteImagesError`, on all processes, which is logged too and does not end the run.
    """

    every_steps: int
    run: Callable[[int, nn.Module], dict[str, object]]


class Trainer(TrainingStep):
    """One training run.

    Args:
        accelerator: devices, processes and precision.
        model: the network, not yet prepared.
        optimizer: torch's optimizer over its parameters, not yet prepared.
        diffusion: forward process and loss, on the accelerator's device.
        batches: the training images.
        config: of the run.
        checkpoints: of the run.
        log: where measurements go.
        tasks: previews and evaluations.

    Raises:
        InputError: if the batch cannot be divided among the processes.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        diffusion: Diffusion,
        batches: TrainingBatches,
        config: Config,
        checkpoints: RunCheckpoints,
        log: TrainLog,
        tasks: tuple[PeriodicTask, ...] = (),
    ) -> None:
        super().__init__(
            accelerator,
            model,
            optimizer,
            diffusion=diffusion,
            batches=batches,
            config=config,
            checkpoints=checkpoints,
            log=log,
        )
        self.tasks = tasks

    def fit(self) -> None:
        """Train from where the run stands to its last step; preview, evaluate and save on the way.

        Raises:
            StoppedEarly: after a stop signal, with the state saved.
            DivergedError: if a loss or gradient became non-finite.
            StorageError: if a checkpoint cannot be written.
            InputError: if the network cannot be compiled.
        """
        with StopRequest() as stop:
            if execution_of(self.accelerator).compile and self.step < self.config.train.num_steps:
                self._compile(stop)
            while self.step < self.config.train.num_steps:
                # -- one step, which also tells of a signal to any of the processes
                stops = self.train_step(bool(stop))
                is_last = self.step == self.config.train.num_steps

                # -- what is due after it
                self._run_tasks()
                if stops or is_last or self.step % self.config.train.checkpoint_every_steps == 0:
                    self.save()

                # -- the end, before the last step
                if stops and not is_last:
                    raise StoppedEarly(
                        f"stopped by {stop.signal_name or 'another process'} at step {self.step}, "
                        "state saved; resume with the same command"
                    )

    def _compile(self, stop: StopRequest) -> None:
        """Compile the network by a forward and a backward pass whose gradients are dropped.

        It takes minutes and belongs to no step, so that a single process can be stopped at once and
        loses nothing. Several processes finish it together; an error of the compiler after a Ctrl-C
        counts as a stop.
        """
        is_alone = self.accelerator.num_processes == 1
        try:
            with (
                self.log.told_compiling(),
                compile_errors_told(),
                buffers_kept(self._unwrapped),
                stop.at_once() if is_alone else nullcontext(),
            ):
                self._backward(self._draw_batch())
        except (StoppedAtOnce, InputError) as error:
            if not stop:
                raise
            raise StoppedEarly(
                f"stopped by {stop.signal_name} while the network was compiled, "
                f"at step {self.step}; nothing is lost, resume with the same command"
            ) from error
        self.prepared_optimizer.zero_grad()

    def _run_tasks(self) -> None:
        """Do the tasks that are due at this step.

        Images that are not finite are recorded and do not end the run: the weights are finite.
        """
        for task in self.tasks:
            if task.every_steps and self.step % task.every_steps == 0:
                self._raise_if_diverged()
                try:
                    values = task.run(self.step, self._averaged_model())
                except NonFiniteImagesError as error:
                    self.log.warn(f"step {self.step}: {error}")
                    values = {"nonfinite_images": 1}
                if values:
                    self.log.record(self.step, values)

    def _averaged_model(self) -> nn.Module:
        """Return the averaged model for tasks; where it is sharded, gathered on every process."""
        if self._whole is None:
            return self.ema.model
        training_state.gather(self.ema.model, self._whole.to(self.device).eval())
        return self._whole

    def save(self) -> None:
        """Commit a checkpoint of the present step; call it on all processes."""
        self._raise_if_diverged()
        files = training_state.collect(
            self.model, self.ema.model, self.optimizer, self.log.window()
        )
        if self.accelerator.is_main_process:
            self.checkpoints.save(self.step, files)
        self.accelerator.wait_for_everyone()

    def resume(
        self, *, allow_other_world_size: bool = False, allow_other_data: bool = False
    ) -> bool:
        """Load the newest undamaged checkpoint, if there is one; say whether there was.

        Raises:
            InputError: if there are checkpoints that this run cannot be resumed from, see
                `RunCheckpoints.to_resume`, or if the processes see different ones.
        """
        parts = (self.model, self.ema.model, self.optimizer)
        expected = training_state.expected(*parts)
        checkpoint = choose_together(
            lambda: self.checkpoints.to_resume(
                expected,
                allow_other_world_size=allow_other_world_size,
                allow_other_data=allow_other_data,
            ),
            self.checkpoints.data,
        )
        if checkpoint is not None:
            files = {name: checkpoint.tensors(name) for name in training_state.FILES}
            training_state.restore(*parts, files)
            self.step = checkpoint.step
            self.log.restore(files["window"]["window"])
        self.log.truncate(self.step)
        self.accelerator.wait_for_everyone()
        return checkpoint is not None
