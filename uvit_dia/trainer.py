"""The training loop, through Accelerate.

Path of a step: x_0 -> timesteps, eps -> x_t -> eps_hat -> loss -> backward, clip, optimizer, lr -> EMA -> step + 1.
Everything random in it is a function of (seed, step) for the global batch, sliced by rank (`rng.py`).
"""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from ml_collections import ConfigDict
from torch import Tensor, nn

from uvit_dia import training_state
from uvit_dia.checkpoint import Checkpoint, check_tensors, commit, newest_valid
from uvit_dia.config import forbidden_changes, read_config_json
from uvit_dia.data import TrainingBatches
from uvit_dia.diffusion import Diffusion
from uvit_dia.ema import EMA, EMASettings, ema_decay
from uvit_dia.errors import DivergedError, InputError, StoppedEarly
from uvit_dia.rng import integer_rows, normal_rows
from uvit_dia.run_folder import RunFolder, versions
from uvit_dia.signals import StopRequest
from uvit_dia.train_log import TrainLog


@dataclass(frozen=True)
class TrainSettings:
    """Plain numbers of a run; `batch_size` is global, `accumulation_steps` never changes it.

    Attributes:
        seed: of everything random.
        batch_size: images an optimizer step, over all processes.
        num_steps: optimizer steps in all.
        accumulation_steps: parts into which a process splits its share of the batch.
        learning_rate: its highest value.
        lr_schedule: "constant" or "cosine" (to zero at num_steps), after the warm-up.
        warmup_steps: steps over which the learning rate rises linearly.
        max_grad_norm: gradients are scaled down to this 2-norm; 0 leaves them.
        ema: the arguments of `ema_decay`.
        log_every_steps: distance of log lines.
        checkpoint_every_steps: distance of checkpoints; the last step always makes one.
        keep_checkpoints: how many stay.
    """

    seed: int
    batch_size: int
    num_steps: int
    accumulation_steps: int
    learning_rate: float
    lr_schedule: str
    warmup_steps: int
    max_grad_norm: float
    ema: EMASettings
    log_every_steps: int
    checkpoint_every_steps: int
    keep_checkpoints: int


@dataclass(frozen=True)
class PeriodicTask:
    """Something done with the averaged model every so many steps, on all processes together.

    Attributes:
        every_steps: 0 for never.
        run: called with the step and the averaged model; what it returns is logged.
    """

    every_steps: int
    run: Callable[[int, nn.Module], dict[str, object]]


def learning_rate_at(step: int, settings: TrainSettings) -> float:
    """Return the learning rate of optimizer step `step`, from 0: a function of the global step alone."""
    rate = settings.learning_rate * min(1.0, (step + 1) / max(1, settings.warmup_steps))
    if settings.lr_schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * step / settings.num_steps))
    return rate


class Trainer:
    """One training run.

    Args:
        accelerator: devices, processes and precision.
        model: the network, not yet prepared.
        optimizer: torch's optimizer over its parameters, not yet prepared.
        diffusion: forward process and loss, on the accelerator's device.
        batches: the training images.
        settings: the run's numbers.
        folder: where the run lies; written by the main process only.
        config: the run's config, plain, stored with each checkpoint.
        config_hash: its hash.
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
        settings: TrainSettings,
        folder: RunFolder,
        config: dict,
        config_hash: str,
        log: TrainLog,
        tasks: tuple[PeriodicTask, ...] = (),
    ) -> None:
        self.accelerator = accelerator
        self.diffusion = diffusion
        self.batches = batches
        self.settings = settings
        self.folder = folder
        self.config = config
        self.config_hash = config_hash
        self.log = log
        self.tasks = tasks
        self.step = 0
        self.rows = rows_of_rank(
            settings.batch_size,
            settings.accumulation_steps,
            accelerator.process_index,
            accelerator.num_processes,
        )
        self.optimizer = optimizer
        self.model, self.prepared_optimizer = accelerator.prepare(model, optimizer)
        self.ema = EMA(
            accelerator.unwrap_model(self.model, keep_torch_compile=False)
        )  # after prepare
        self.device = accelerator.device
        # The first step whose loss or gradient was not finite; from it on the device itself skips every update.
        self._bad_step = torch.full((), -1, device=self.device)
        self._fused_skips_updates = self.device.type == "cuda"

    # ---------------------------------------------------------------- a step

    def train_step(self, stop_requested: bool = False) -> bool:
        """Do one optimizer step, and say whether some process was asked to stop."""
        started = time.monotonic()
        x_0 = self.batches.x_0(self.step, self.rows)
        self.log.data_seconds += time.monotonic() - started
        timesteps, eps, dropout_seeds = self._draw(x_0)
        loss = self._backward(x_0, timesteps, eps, dropout_seeds)
        grad_norm = self.accelerator.clip_grad_norm_(
            self.model.parameters(), self.settings.max_grad_norm or math.inf
        )
        loss, stops = self._agree(loss, stop_requested)
        self._skip_update_unless_finite(loss, grad_norm)
        learning_rate = learning_rate_at(self.step, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        before = self._parameters_now() if self._logs_after(self.step + 1) else None
        self.prepared_optimizer.step()
        self.prepared_optimizer.zero_grad()
        self.ema.update(ema_decay(self.step, self.settings.batch_size, **self.settings.ema))
        self.log.add(loss, grad_norm)
        self.step += 1
        if before is not None:
            self._write_log(learning_rate, before)
        return stops

    def _draw(self, x_0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draw timesteps (b,), eps (b, C, H, W) and dropout seeds (b,) for this rank's share of the batch."""
        settings = self.settings
        place = (self.step, self.rows, settings.batch_size)
        num_train_timesteps = self.diffusion.schedule.num_train_timesteps
        timesteps = integer_rows(settings.seed, "timesteps", *place, num_train_timesteps)
        dropout_seeds = integer_rows(settings.seed, "dropout", *place, 2**62)
        eps = normal_rows(settings.seed, "eps", *place, tuple(x_0.shape[1:]), self.device)
        return (
            timesteps.to(self.device, non_blocking=True),
            eps,
            dropout_seeds.to(self.device, non_blocking=True),
        )

    def _backward(
        self, x_0: Tensor, timesteps: Tensor, eps: Tensor, dropout_seeds: Tensor
    ) -> Tensor:
        """Accumulate the gradient of this rank's share, part by part; return its mean loss, ()."""
        parts = self.settings.accumulation_steps
        x_t = self.diffusion.add_noise(x_0, eps, timesteps)
        target = self.diffusion.target(x_0, eps, timesteps)
        total = torch.zeros((), device=self.device)
        chunks = zip(
            *(t.chunk(parts) for t in (x_t, target, timesteps, dropout_seeds)), strict=True
        )
        for index, (x_t_part, target_part, timesteps_part, seeds_part) in enumerate(chunks):
            is_last = index == parts - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                prediction = self.model(x_t_part, timesteps_part, dropout_seeds=seeds_part)
                loss = self.diffusion.loss(prediction, target_part, timesteps_part).mean() / parts
                self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _agree(self, loss: Tensor, stop_requested: bool) -> tuple[Tensor, bool]:
        """Average the loss over the processes and learn whether one of them was asked to stop.

        On an accelerator with several processes the answer is read on log steps only, so that the host never waits.
        """
        if self.accelerator.num_processes == 1:
            return loss, stop_requested
        asked = torch.full((), float(stop_requested), device=self.device)
        loss, stops = self.accelerator.reduce(torch.stack([loss, asked]), "mean")
        is_read = not self._fused_skips_updates or self._logs_after(self.step + 1)
        return loss, is_read and bool(stops > 0)

    # ------------------------------------------------- non-finite values

    def _skip_update_unless_finite(self, loss: Tensor, grad_norm: Tensor) -> None:
        """See to it that a non-finite loss or gradient never reaches the weights.

        On CUDA the fused optimizer skips the update, and all later ones, by itself; the host looks on log steps. On
        other devices looking costs nothing, and is done at once.
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
            raise DivergedError(
                f"loss or gradient became non-finite at step {bad_step}; the weights were not updated with it. "
                f"Last checkpoint: {self._last_checkpoint()}"
            )

    def _last_checkpoint(self) -> str:
        found = newest_valid(self.folder.checkpoints, self.log.warn)
        return "none" if found is None else str(found.folder)

    # ---------------------------------------------------------------- log

    def _logs_after(self, step: int) -> bool:
        return step % self.settings.log_every_steps == 0 or step == self.settings.num_steps

    def _parameters_now(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.model.parameters()]

    def _write_log(self, learning_rate: float, before: list[Tensor]) -> None:
        self._raise_if_diverged()
        after = [p.detach() for p in self.model.parameters()]
        update = torch.linalg.vector_norm(
            torch.stack(torch._foreach_norm(torch._foreach_sub(after, before)))
        )
        weight = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(before)))
        self.log.write(
            self.step,
            images=self.step * self.settings.batch_size,
            lr=learning_rate,
            update_ratio=float(update / weight),
            ema_decay=ema_decay(self.step - 1, self.settings.batch_size, **self.settings.ema),
        )

    # ---------------------------------------------------------------- the run

    def fit(self) -> None:
        """Train from where the run stands to its last step; log, preview, evaluate and save on the way.

        Raises:
            StoppedEarly: after a stop signal, with the state saved.
            DivergedError: if a loss or gradient became non-finite.
            StorageError: if a checkpoint cannot be written.
        """
        with StopRequest() as stop:
            while self.step < self.settings.num_steps:
                stops = self.train_step(bool(stop))
                is_last = self.step == self.settings.num_steps
                self._run_tasks()
                if stops or is_last or self.step % self.settings.checkpoint_every_steps == 0:
                    self.save()
                if stops and not is_last:
                    raise StoppedEarly(
                        f"stopped by {stop.signal_name or 'another process'} at step {self.step}, state saved; "
                        "resume with the same command"
                    )

    def _run_tasks(self) -> None:
        for task in self.tasks:
            if task.every_steps and self.step % task.every_steps == 0:
                self._raise_if_diverged()
                values = task.run(self.step, self.ema.model)
                if values:
                    self.log.record(self.step, values)

    def save(self) -> None:
        """Commit a checkpoint of the present step; call it on all processes."""
        self._raise_if_diverged()
        files = training_state.collect(
            self.model, self.ema.model, self.optimizer, self.log.window()
        )
        if self.accelerator.is_main_process:
            self._refuse_non_finite(files)
            commit(
                self.folder.checkpoints,
                self.step,
                files,
                self.config,
                {
                    "config_hash": self.config_hash,
                    "num_processes": self.accelerator.num_processes,
                    "versions": versions(),
                },
                keep=self.settings.keep_checkpoints,
                warn=self.log.warn,
            )
            self.folder.set_status("running", self.step, num_steps=self.settings.num_steps)
        self.accelerator.wait_for_everyone()

    def _refuse_non_finite(self, files: dict[str, dict[str, Tensor]]) -> None:
        """Refuse to save what finite gradients overflowed to, such as a second moment."""
        for file, tensors in files.items():
            for name, tensor in tensors.items():
                if not torch.isfinite(tensor).all():
                    raise DivergedError(
                        f"{file} tensor {name} became non-finite by step {self.step}, which is not saved. "
                        f"Last checkpoint: {self._last_checkpoint()}"
                    )

    def resume(self, *, allow_other_world_size: bool = False) -> bool:
        """Go on from the newest undamaged checkpoint, if there is one; say whether there was.

        Raises:
            InputError: if checkpoints are there but damaged, of another config or architecture, or of another number
                of processes without the flag that allows it.
        """
        checkpoint = newest_valid(self.folder.checkpoints, self.log.warn)
        if checkpoint is None:
            if self.accelerator.is_main_process:
                self.folder.truncate_metrics(0)
            return False
        self._compare_config(checkpoint)
        saved, now = checkpoint.manifest.get("num_processes"), self.accelerator.num_processes
        if saved != now and not allow_other_world_size:
            raise InputError(
                f"{checkpoint.folder} was made by {saved} processes, this launch has {now}; "
                "--allow_other_world_size goes on with the same batches, equal up to rounding"
            )
        if checkpoint.manifest.get("versions") != versions():
            self.log.warn(
                f"{checkpoint.folder} was made with other library versions; bits may differ from here on"
            )
        for name, tensors in training_state.expected(
            self.model, self.ema.model, self.optimizer
        ).items():
            check_tensors(checkpoint, name, tensors)
        files = {name: checkpoint.tensors(name) for name in ("model", "ema", "optimizer", "window")}
        training_state.restore(self.model, self.ema.model, self.optimizer, files)
        self.step = checkpoint.step
        self.log.restore(files["window"]["window"])
        if self.accelerator.is_main_process:
            self.folder.truncate_metrics(self.step)
        self.accelerator.wait_for_everyone()
        return True

    def _compare_config(self, checkpoint: Checkpoint) -> None:
        if checkpoint.manifest.get("config_hash") == self.config_hash:
            return
        saved = read_config_json(checkpoint.folder / "config.json")
        changes = forbidden_changes(saved, ConfigDict(self.config))
        if changes:
            raise InputError(
                f"{checkpoint.folder} is of another config ({'; '.join(changes)}); choose another --workdir"
            )


def rows_of_rank(batch_size: int, accumulation_steps: int, rank: int, num_processes: int) -> range:
    """Return the positions in the global batch that a process works on.

    Raises:
        InputError: if the batch cannot be divided evenly among processes and accumulation steps.
    """
    parts = num_processes * accumulation_steps
    if batch_size % parts:
        raise InputError(
            f"train.batch_size = {batch_size} is not divisible by {num_processes} processes "
            f"x train.accumulation_steps = {accumulation_steps}"
        )
    share = batch_size // num_processes
    return range(rank * share, (rank + 1) * share)
