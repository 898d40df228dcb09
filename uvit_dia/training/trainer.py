"""The training loop, through Accelerate.

Path of a step: x_0 -> timesteps, eps -> x_t -> eps_hat -> loss -> backward, clip, optimizer, lr ->
EMA -> step + 1. Everything random in it is a function of (seed, step) for the global batch, sliced
by rank (`rng.py`).
"""

import time
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from uvit_dia.config.schema import Config
from uvit_dia.data.batches import TrainingBatches
from uvit_dia.diffusion import Process
from uvit_dia.runs.resume import RunCheckpoints
from uvit_dia.system.accelerator import execution_of
from uvit_dia.system.errors import DivergedError, StoppedEarly
from uvit_dia.system.signals import StopRequest
from uvit_dia.training.compiling import compiling
from uvit_dia.training.ema import ema_decay
from uvit_dia.training.finite_guard import FiniteGuard
from uvit_dia.training.log import TrainLog
from uvit_dia.training.measurements import measure_noise_scale, update_ratio
from uvit_dia.training.networks import Networks
from uvit_dia.training.noised_batch import NoisedBatch, draw_batch, rows_of_rank
from uvit_dia.training.optimizer import learning_rate_at
from uvit_dia.training.run_state import RunState
from uvit_dia.training.stability import clip_gradients
from uvit_dia.training.tasks import PeriodicTask, run_task
from uvit_dia.training.trackers import ONLINE

# How often processes on accelerators look whether one of them was asked to stop.
STOP_EVERY_STEPS = 10


class Trainer:
    """One training run.

    Args:
        accelerator: devices, processes and precision.
        model: the network, not yet prepared.
        optimizer: torch's optimizer over its parameters, not yet prepared.
        diffusion: forward process and loss, on the accelerator's device.
        batches: the training images.
        config: of the run.
        checkpoints: of this run.
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
        diffusion: Process,
        batches: TrainingBatches,
        config: Config,
        checkpoints: RunCheckpoints,
        log: TrainLog,
        tasks: tuple[PeriodicTask, ...] = (),
    ) -> None:
        self.accelerator = accelerator
        self.diffusion = diffusion
        self.batches = batches
        self.config = config
        self.checkpoints = checkpoints
        self.log = log
        self.tasks = tasks
        self.step = 0
        train, rank = config.train, accelerator.process_index
        self.rows = rows_of_rank(
            train.batch_size, train.accumulation_steps, rank, accelerator.num_processes
        )
        self.optimizer, self.device = optimizer, accelerator.device
        self.networks = Networks(accelerator, model, optimizer)
        self.model, self.ema = self.networks.model, self.networks.ema
        self.prepared_optimizer = self.networks.optimizer
        self.guard = FiniteGuard(optimizer, self.device)
        self.state = RunState(accelerator, self.model, self.ema.model, optimizer, checkpoints)

    def train_step(self, stop_requested: bool = False) -> bool:
        """Do one optimizer step, and say whether some process was asked to stop."""
        config, logs = self.config, self._logs_after(self.step + 1)

        # -- x_0, timesteps, eps -> x_t -> eps_hat -> loss -> backward
        batch = self._draw_batch()
        loss = self._backward(batch)

        # -- clip, and look for what is not finite
        grad_norm = clip_gradients(self.accelerator, self.model, config.optimizer.max_grad_norm)
        loss, stops = self._agree(loss, stop_requested)
        self.guard.watch(loss, grad_norm, self.step)
        if not self.guard.skips_updates:
            self._raise_if_diverged()

        # -- learning rate, optimizer, average
        noise = self._noise_scale(batch, grad_norm) if logs else {}
        before = [p.detach().clone() for p in self.model.parameters()] if logs else []
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, config.optimizer, config.train.num_steps)
        self.prepared_optimizer.step()
        self.prepared_optimizer.zero_grad()
        self.ema.update(ema_decay(self.step, config.train.batch_size, config.ema))

        # -- log
        self.log.add(loss, grad_norm)
        self.step += 1
        if logs:
            self._write_log(before, noise)
        return stops

    def _draw_batch(self) -> NoisedBatch:
        """Return this rank's share of the next step's batch, noised."""
        started = time.monotonic()
        x_0 = self.batches.x_0(self.step, self.rows)  # b C H W
        self.log.data_seconds += time.monotonic() - started
        return draw_batch(
            x_0,
            self.diffusion,
            seed=self.config.seed,
            step=self.step,
            rows=self.rows,
            batch_size=self.config.train.batch_size,
            class_labels=self.batches.class_labels(self.step, self.rows),
        )

    def _backward(self, batch: NoisedBatch) -> Tensor:
        """Accumulate the gradient of this rank's share, part by part; return its mean loss, ()."""
        parts = self.config.train.accumulation_steps
        total = torch.zeros((), device=self.device)
        for index, part in enumerate(batch.parts(parts)):
            is_last = index == parts - 1  # with which the gradients travel between processes
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                loss = self._loss(self.model, part) / parts
                self.accelerator.backward(self.networks.penalised(loss, parts))
            total += loss.detach()
        return total

    def _loss(self, model: nn.Module, part: NoisedBatch) -> Tensor:
        """Return the mean loss of some noised images, ()."""
        time = self.diffusion.network_time(part.timesteps)
        prediction = model(part.x_t, time, part.class_labels, part.dropout_seeds)  # b C H W
        return self.diffusion.loss(prediction, part.target, part.timesteps).mean()

    def _learnt(self, model: nn.Module, part: NoisedBatch) -> Tensor:
        return self.networks.penalised(self._loss(model, part))

    def _agree(self, loss: Tensor, stop_requested: bool) -> tuple[Tensor, bool]:
        """Average the loss over the processes and learn whether one of them was asked to stop.

        On accelerators, where reading waits for the device, it is read on log steps and every
        `STOP_EVERY_STEPS` steps, which are the same on all processes.
        """
        if self.accelerator.num_processes == 1:
            return loss, stop_requested
        asked = torch.full((), float(stop_requested), device=self.device)
        loss, stops = self.accelerator.reduce(torch.stack([loss, asked]), "mean")
        step = self.step + 1
        is_due = self._logs_after(step) or step % STOP_EVERY_STEPS == 0
        return loss, (is_due or not self.guard.skips_updates) and bool(stops > 0)

    def _raise_if_diverged(self) -> None:
        if (bad_step := self.guard.bad_step()) is not None:
            self.log.record(self.step, {"nonfinite": 1, "nonfinite_step": bad_step})
            raise DivergedError(
                f"loss or gradient became non-finite at step {bad_step}; the weights were not "
                f"updated with it. Last checkpoint: {self.checkpoints.newest_name()}"
            )

    def _logs_after(self, step: int) -> bool:
        return step % self.config.train.log_every_steps == 0 or step == self.config.train.num_steps

    def _noise_scale(self, batch: NoisedBatch, grad_norm: Tensor) -> dict[str, float | None]:
        if self.networks.is_sharded:
            return {}
        model, train = self.networks.unwrapped, self.config.train
        return measure_noise_scale(self._learnt, model, batch, grad_norm, self.accelerator, train)

    def _write_log(self, before: list[Tensor], noise: dict[str, float | None]) -> None:
        self._raise_if_diverged()
        step, config = self.step - 1, self.config
        self.log.write(
            self.step,
            images=self.step * config.train.batch_size,
            lr=learning_rate_at(step, config.optimizer, config.train.num_steps),
            update_ratio=update_ratio(before, [p.detach() for p in self.model.parameters()]),
            ema_decay=ema_decay(step, config.train.batch_size, config.ema),
            **noise,
        )

    def fit(self) -> None:
        """Train to the last step; log, preview, evaluate and save on the way.

        Raises:
            StoppedEarly: after a stop signal, with the state saved.
            DivergedError: if a loss or gradient became non-finite.
            StorageError: if a checkpoint cannot be written.
            InputError: if the network cannot be compiled.
        """
        with StopRequest() as stop:
            if execution_of(self.accelerator).compile and self.step < self.config.train.num_steps:
                with compiling(stop, self.log, self.networks.unwrapped, self.step):
                    self._backward(self._draw_batch())
                self.prepared_optimizer.zero_grad()  # these passes belong to no step
            while self.step < self.config.train.num_steps:
                stops = self.train_step(bool(stop))
                is_last = self.step == self.config.train.num_steps
                for task in self.tasks:
                    if task.is_due(self.step):
                        self._raise_if_diverged()
                        run_task(task, self.step, self.networks.averaged(), self.log)
                if stops or is_last or self.step % self.config.train.checkpoint_every_steps == 0:
                    self.save()
                if stops and not is_last:
                    raise StoppedEarly(
                        f"stopped by {stop.signal_name or 'another process'} at step {self.step}, "
                        "state saved; resume with the same command"
                    )

    def save(self) -> None:
        """Commit a checkpoint of the present step; call it on all processes."""
        self._raise_if_diverged()
        self.state.save(self.step, self.log.window())

    def resume(
        self, *, allow_other_world_size: bool = False, allow_other_data: bool = False
    ) -> bool:
        """Load the newest undamaged checkpoint, if there is one; say whether there was.

        Raises:
            InputError: if this run cannot be resumed from it (see `RunCheckpoints.to_resume`), or
                the processes see different ones.
        """
        found = self.state.restore(
            allow_other_world_size=allow_other_world_size, allow_other_data=allow_other_data
        )
        if found is not None:
            self.step, window = found
            self.log.restore(window)
        self.log.truncate(self.step, is_purged=self.config.train.tracker not in ONLINE)
        self.accelerator.wait_for_everyone()
        return found is not None
