"""One optimizer step of a training, through Accelerate.

Path of a step: x_0 -> timesteps, eps -> x_t -> eps_hat -> loss -> backward, clip, optimizer, lr ->
EMA -> step + 1. Everything random in it is a function of (seed, step) for the global batch, sliced
by rank (`rng.py`).
"""

import copy
import math
import time
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from accelerate.utils import fsdp2_prepare_model
from torch import Tensor, nn

from uvit_dia.config.schema import Config
from uvit_dia.data.batches import TrainingBatches
from uvit_dia.diffusion import Diffusion
from uvit_dia.runs.resume import RunCheckpoints
from uvit_dia.system.errors import DivergedError
from uvit_dia.training.ema import EMA, ema_decay
from uvit_dia.training.log import TrainLog
from uvit_dia.training.noised_batch import NoisedBatch, draw_batch, rows_of_rank
from uvit_dia.training.optimizer import learning_rate_at
from uvit_dia.training.stability import (
    buffers_kept,
    noise_scale,
    normalises_over_batch,
    squared_norm,
    update_ratio,
    whole,
)

# How often processes on accelerators look whether one of them was asked to stop.
STOP_EVERY_STEPS = 10


class TrainingStep:
    """What an optimizer step needs, on this process, and the step itself.

    Args:
        accelerator: devices, processes and precision.
        model: the network, not yet prepared.
        optimizer: torch's optimizer over its parameters, not yet prepared.
        diffusion: forward process and loss, on the accelerator's device.
        batches: the training images.
        config: of the run.
        checkpoints: of the run; errors name the newest one.
        log: where measurements go.

    Raises:
        InputError: if the batch cannot be divided among the processes.

    Attributes:
        step: optimizer steps done.
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
    ) -> None:
        self.accelerator = accelerator
        self.device = accelerator.device
        self.diffusion = diffusion
        self.batches = batches
        self.config = config
        self.checkpoints = checkpoints
        self.log = log
        self.step = 0
        self.rows = rows_of_rank(
            config.train.batch_size,
            config.train.accumulation_steps,
            accelerator.process_index,
            accelerator.num_processes,
        )
        is_sharded = accelerator.is_fsdp2
        # Copied before `prepare`, whose autocast is not for previews.
        averaged = copy.deepcopy(model)
        self._whole = copy.deepcopy(model) if is_sharded else None
        self.optimizer = optimizer
        self.model, self.prepared_optimizer = accelerator.prepare(model, optimizer)
        self._unwrapped = accelerator.unwrap_model(self.model, keep_torch_compile=False)
        averaged.to(self.device)
        if is_sharded:
            averaged = fsdp2_prepare_model(accelerator, averaged)
        self.ema = EMA(self._unwrapped, averaged)
        # The first step whose loss or gradient was not finite. From it on the device itself skips
        # every update, where the optimizer is fused for it.
        self._bad_step = torch.full((), -1, device=self.device)
        self._fused_skips_updates = self.device.type == "cuda"

    def train_step(self, stop_requested: bool = False) -> bool:
        """Do one optimizer step, and say whether some process was asked to stop."""
        config, logs = self.config, self._logs_after(self.step + 1)

        # -- x_0, timesteps, eps -> x_t and the target, for this process's rows of the batch
        batch = self._draw_batch()

        # -- eps_hat -> loss -> gradients, averaged over the processes and clipped
        loss = self._backward(batch)
        max_norm = config.optimizer.max_grad_norm or math.inf
        grad_norm = whole(self.accelerator.clip_grad_norm_(self.model.parameters(), max_norm))

        # -- what all processes must agree on
        loss, stops = self._agree(loss, stop_requested)
        self._skip_update_unless_finite(loss, grad_norm)

        # -- optimizer, at the learning rate of this step
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, config.optimizer, config.train.num_steps)
        noise = self._noise_scale(batch, grad_norm) if logs else {}
        before = [p.detach().clone() for p in self.model.parameters()] if logs else []
        self.prepared_optimizer.step()
        self.prepared_optimizer.zero_grad()

        # -- average of the weights that the optimizer has just written
        self.ema.update(ema_decay(self.step, config.train.batch_size, config.ema))

        self.log.add(loss, grad_norm)
        self.step += 1
        if logs:
            self._write_log(before, noise)
        return stops

    def _draw_batch(self) -> NoisedBatch:
        """Return this process's share of the next step's batch, noised."""
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
        )

    def _backward(self, batch: NoisedBatch) -> Tensor:
        """Accumulate the gradient of this process's share, part by part; return its mean loss, ()."""
        parts = self.config.train.accumulation_steps
        total = torch.zeros((), device=self.device)
        for index, part in enumerate(batch.parts(parts)):
            # Gradients travel between processes with the last part only.
            is_last = index == parts - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                loss = self._loss(self.model, part) / parts
                self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _loss(self, model: nn.Module, part: NoisedBatch) -> Tensor:
        """Return the mean loss of some noised images, ()."""
        prediction = model(part.x_t, part.timesteps, dropout_seeds=part.dropout_seeds)  # b C H W
        return self.diffusion.loss(prediction, part.target, part.timesteps).mean()

    def _agree(self, loss: Tensor, stop_requested: bool) -> tuple[Tensor, bool]:
        """Average the loss over the processes and learn whether one of them was asked to stop.

        Several processes on accelerators read the answer on log steps and every `STOP_EVERY_STEPS`
        steps, so that the host seldom waits for the device. All of them share the number of the
        step, and so stop together.
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
        """Keep a non-finite loss or gradient away from the weights.

        On CUDA the fused optimizer skips the update and all later ones, and the host looks on log
        steps. On other devices looking costs nothing and is done at once.

        Raises:
            DivergedError: where the host looks.
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
        bad_step = int(self._bad_step.item())  # waits for the device
        if bad_step >= 0:
            self.log.record(self.step, {"nonfinite": 1, "nonfinite_step": bad_step})
            raise DivergedError(
                f"loss or gradient became non-finite at step {bad_step}; "
                "the weights were not updated with it. "
                f"Last checkpoint: {self.checkpoints.newest_name()}"
            )

    # ------------------------------------------------- measures of a log step

    def _logs_after(self, step: int) -> bool:
        return step % self.config.train.log_every_steps == 0 or step == self.config.train.num_steps

    def _noise_scale(self, batch: NoisedBatch, grad_norm: Tensor) -> dict[str, float | None]:
        """Compare this step's gradient with that of half a part (`stability.noise_scale`).

        The second gradient costs half a forward and backward pass of one part; neither the step's
        gradients nor the buffers notice. Sharded models, which cannot run outside their wrapper,
        and parts that are too small to halve are not measured.
        """
        small_batch = len(batch) // self.config.train.accumulation_steps // 2
        fewest = 2 if normalises_over_batch(self._unwrapped) else 1
        if small_batch < fewest or self._whole is not None:
            return {}
        model = self._unwrapped
        with buffers_kept(model):
            with self.accelerator.autocast():
                loss = self._loss(model, batch[:small_batch])
            wanted = [p for p in model.parameters() if p.requires_grad]
            gradients = torch.autograd.grad(loss, wanted)
        small = self.accelerator.reduce(squared_norm(list(gradients)), "mean")
        big_batch = self.config.train.batch_size
        return noise_scale(float(small), float(grad_norm) ** 2, small_batch, big_batch)

    def _write_log(self, before: list[Tensor], noise: dict[str, float | None]) -> None:
        """Write the log line of the step just done; `before` are the weights it started from."""
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
