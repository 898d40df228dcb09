"""The training loop, through Accelerate.

Path of a step: x_0 -> timesteps, eps -> x_t -> eps_hat -> loss -> backward, clip, optimizer, lr ->
EMA -> step + 1. Everything random in it is a function of (seed, step) for the global batch, sliced
by rank (`rng.py`).
"""

import copy
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import fsdp2_prepare_model
from torch import Tensor, nn

from uvit_dia.config.schema import Config
from uvit_dia.data.batches import TrainingBatches
from uvit_dia.diffusion import Diffusion
from uvit_dia.runs import state as training_state
from uvit_dia.runs.resume import RunCheckpoints, choose_together
from uvit_dia.system.accelerator import execution_of
from uvit_dia.system.compilation import compile_errors_told
from uvit_dia.system.errors import (
    DivergedError,
    InputError,
    NonFiniteImagesError,
    StoppedEarly,
)
from uvit_dia.system.signals import StoppedAtOnce, StopRequest
from uvit_dia.training.ema import EMA, ema_decay
from uvit_dia.training.log import TrainLog
from uvit_dia.training.noised_batch import NoisedBatch, draw_batch, rows_of_rank
from uvit_dia.training.optimizer import learning_rate_at
from uvit_dia.training.stability import (
    buffers_kept,
    noise_scale_terms,
    normalises_over_batch,
    squared_norm,
    whole,
)

STOP_EVERY_STEPS = (
    10  # how often processes on accelerators look whether one of them was asked to stop
)


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
        diffusion: Diffusion,
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
        self.rows = rows_of_rank(
            config.train.batch_size,
            config.train.accumulation_steps,
            accelerator.process_index,
            accelerator.num_processes,
        )
        self.optimizer = optimizer
        self.device = accelerator.device
        is_sharded = accelerator.is_fsdp2
        averaged = copy.deepcopy(model)  # before prepare, whose autocast is not for previews
        self._whole = copy.deepcopy(model) if is_sharded else None
        self.model, self.prepared_optimizer = accelerator.prepare(model, optimizer)
        self._unwrapped = accelerator.unwrap_model(self.model, keep_torch_compile=False)
        averaged.to(self.device)
        if is_sharded:
            averaged = fsdp2_prepare_model(accelerator, averaged)
        self.ema = EMA(self._unwrapped, averaged)
        # The first step whose loss or gradient was not finite; from it on the device itself skips
        # every update.
        self._bad_step = torch.full((), -1, device=self.device)
        self._fused_skips_updates = self.device.type == "cuda"

    # ---------------------------------------------------------------- a step

    def train_step(self, stop_requested: bool = False) -> bool:
        """Do one optimizer step, and say whether some process was asked to stop."""
        config, logs = self.config, self._logs_after(self.step + 1)
        batch = self._draw_batch()
        loss = self._backward(batch)
        grad_norm = whole(
            self.accelerator.clip_grad_norm_(
                self.model.parameters(), config.optimizer.max_grad_norm or math.inf
            )
        )
        loss, stops = self._agree(loss, stop_requested)
        self._skip_update_unless_finite(loss, grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, config.optimizer, config.train.num_steps)
        noise = self._noise_scale(batch, grad_norm) if logs else {}
        before = [p.detach().clone() for p in self.model.parameters()] if logs else []
        self.prepared_optimizer.step()
        self.prepared_optimizer.zero_grad()
        self.ema.update(ema_decay(self.step, config.train.batch_size, config.ema))
        self.log.add(loss, grad_norm)
        self.step += 1
        if logs:
            self._write_log(before, noise)
        return stops

    def _draw_batch(self) -> NoisedBatch:
        """Return this rank's share of the batch of the step in hand, noised."""
        started = time.monotonic()
        x_0 = self.batches.x_0(self.step, self.rows)
        self.log.data_seconds += time.monotonic() - started
        return draw_batch(
            x_0,
            self.diffusion,
            seed=self.config.seed,
            step=self.step,
            rows=self.rows,
            batch_size=self.config.train.batch_size,
        )

    def _backward(self, batch: NoisedBatch) -> Tensor:
        """Accumulate the gradient of this rank's share, part by part; return its mean loss, ()."""
        parts = self.config.train.accumulation_steps
        total = torch.zeros((), device=self.device)
        for index, part in enumerate(batch.parts(parts)):
            is_last = index == parts - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                loss = self._loss(self.model, part) / parts
                self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _loss(self, model: nn.Module, part: NoisedBatch) -> Tensor:
        """Return the mean loss of some noised images, ()."""
        prediction = model(part.x_t, part.timesteps, dropout_seeds=part.dropout_seeds)
        return self.diffusion.loss(prediction, part.target, part.timesteps).mean()

    def _agree(self, loss: Tensor, stop_requested: bool) -> tuple[Tensor, bool]:
        """Average the loss over the processes and learn whether one of them was asked to stop.

        On an accelerator with several processes the answer is read on log steps and every
        `STOP_EVERY_STEPS` steps, by the number of the step, which all processes share, so that the
        host seldom waits.
        """
        if self.accelerator.num_processes == 1:
            return loss, stop_requested
        asked = torch.full((), float(stop_requested), device=self.device)
        loss, stops = self.accelerator.reduce(torch.stack([loss, asked]), "mean")
        step = self.step + 1
        is_due = self._logs_after(step) or step % STOP_EVERY_STEPS == 0
        is_read = not self._fused_skips_updates or is_due
        return loss, is_read and bool(stops > 0)

    # ------------------------------------------------- non-finite values

    def _skip_update_unless_finite(self, loss: Tensor, grad_norm: Tensor) -> None:
        """See to it that a non-finite loss or gradient never reaches the weights.

        On CUDA the fused optimizer skips the update, and all later ones, by itself; the host looks
        on log steps. On other devices looking costs nothing, and is done at once.
        """
        is_bad = ~(torch.isfinite(loss) & torch.isfinite(grad_norm))
        is_first = is_bad & (self._bad_step < 0)
        self._bad_step = torch.where(is_first, self.step, self._bad_step)
        if self._fused_skips_updates:
            # torch's fused optimizers read this attribute, which their base class does not declare
            self.optimizer.found_inf = (self._bad_step >= 0).float()  # type: ignore[attr-defined]
        else:
            self._raise_if_diverged()

    def _raise_if_diverged(self) -> None:
        bad_step = int(self._bad_step.item())
        if bad_step >= 0:
            self.log.record(self.step, {"nonfinite": 1, "nonfinite_step": bad_step})
            raise DivergedError(
                f"loss or gradient became non-finite at step {bad_step}; "
                "the weights were not updated with it. "
                f"Last checkpoint: {self.checkpoints.newest_name()}"
            )

    # ---------------------------------------------------------------- log

    def _logs_after(self, step: int) -> bool:
        return step % self.config.train.log_every_steps == 0 or step == self.config.train.num_steps

    def _noise_scale(self, batch: NoisedBatch, grad_norm: Tensor) -> dict[str, float | None]:
        """Measure the terms of the gradient noise scale.

        This step's gradient beside that of half a share.

        It costs half a forward and backward pass of one part, on log steps only, and touches
        neither gradients nor buffers. Without it go sharded models, which cannot run outside their
        wrapper, and parts too small to halve.
        """
        small_batch = len(batch) // self.config.train.accumulation_steps // 2
        model = self._unwrapped
        fewest = 2 if normalises_over_batch(model) else 1
        if small_batch < fewest or self._whole is not None:
            return {}
        with buffers_kept(model):
            with self.accelerator.autocast():
                loss = self._loss(model, batch[:small_batch])
            wanted = [p for p in model.parameters() if p.requires_grad]
            gradients = torch.autograd.grad(loss, wanted)
        small = self.accelerator.reduce(squared_norm(list(gradients)), "mean")
        signal, noise = noise_scale_terms(
            float(small), float(grad_norm) ** 2, small_batch, self.config.train.batch_size
        )
        ratio = noise / signal if signal > 0 else None
        return {"noise_scale_signal": signal, "noise_scale_noise": noise, "noise_scale": ratio}

    def _write_log(self, before: list[Tensor], noise: dict[str, float | None]) -> None:
        self._raise_if_diverged()
        after = [p.detach() for p in self.model.parameters()]
        update = squared_norm(list(torch._foreach_sub(after, before))).sqrt()
        weight = squared_norm(before).sqrt()
        step, config = self.step - 1, self.config
        self.log.write(
            self.step,
            images=self.step * config.train.batch_size,
            lr=learning_rate_at(step, config.optimizer, config.train.num_steps),
            update_ratio=float(update / weight),
            ema_decay=ema_decay(step, config.train.batch_size, config.ema),
            **noise,
        )

    # ---------------------------------------------------------------- the run

    def fit(self) -> None:
        """Train from where the run stands to its last step.

        Log, preview, evaluate and save on the way.

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
                stops = self.train_step(bool(stop))
                is_last = self.step == self.config.train.num_steps
                self._run_tasks()
                if stops or is_last or self.step % self.config.train.checkpoint_every_steps == 0:
                    self.save()
                if stops and not is_last:
                    raise StoppedEarly(
                        f"stopped by {stop.signal_name or 'another process'} at step {self.step}, "
                        "state saved; resume with the same command"
                    )

    def _compile(self, stop: StopRequest) -> None:
        """Compile the network by a forward and a backward pass whose gradients are dropped.

        It takes minutes and belongs to no step, so that one process can be stopped at once and
        loses nothing. Several processes finish it together; what a Ctrl-C did to the compiler of
        one of them counts as having been stopped.
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
        """Do what is due at this step.

        Images that are not finite are recorded, since the weights are finite.
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
        """Return the averaged model as tasks can call it.

        Where it is sharded, whole on every process.
        """
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
        """Go on from the newest undamaged checkpoint, if there is one; say whether there was.

        Raises:
            InputError: if there are checkpoints that this run cannot go on from, see
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
