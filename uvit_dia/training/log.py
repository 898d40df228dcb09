"""What a run says while it trains: `metrics.jsonl`, trackers, the progress bar, warnings."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from uvit_dia.runs.folder import RunFolder
from uvit_dia.system.progress import in_notebook, progress_bar
from uvit_dia.training.stability import count_spikes
from uvit_dia.training.trackers import show_image


class TrainLog:
    """Collects loss and gradient norm of each step, and writes them at log steps.

    The host waits for the device at log steps only.

    Args:
        accelerator: its trackers are fed; only the main process writes.
        folder: whose `metrics.jsonl` is written.
        batch_size: global batch size.
        num_steps: length of the run.
        show_progress: whether a progress bar is drawn.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        folder: RunFolder,
        *,
        batch_size: int,
        num_steps: int,
        show_progress: bool,
    ) -> None:
        self.accelerator = accelerator
        self.folder = folder
        self.batch_size = batch_size
        self.last_loss: float | None = None  # mean over the last log window
        self.data_seconds = 0.0  # host time spent on fetching batches since the last log line
        self._steps: list[Tensor] = []  # (2,) each: loss, gradient norm
        self._since = time.monotonic()
        self._steps_since = 0
        is_shown = show_progress and accelerator.is_main_process
        self._has_bar = is_shown and (sys.stderr.isatty() or in_notebook())
        # Into a file a bar would write thousands of lines: there each log line is printed instead.
        self._prints_lines = is_shown and not self._has_bar
        self._num_steps = num_steps
        self._bar = tqdm(disable=True)  # until the first step is known
        self._shown: set[tuple[object, ...]] = set()  # step and names of lines in the tracker

    def warn(self, message: str) -> None:
        """Print a warning of one line, from the main process."""
        if self.accelerator.is_main_process:
            tqdm.write(f"warning: {message}", file=sys.stderr)

    def say(self, message: str) -> None:
        """Print a line on stdout, from the main process."""
        if self.accelerator.is_main_process:
            tqdm.write(message)
            sys.stdout.flush()

    @contextmanager
    def told_compiling(self) -> Iterator[None]:
        """Say that the network is compiled, and how long it took.

        The measured time begins afterwards.
        """
        started = time.monotonic()
        self.say("compiling the network (train.compile) ...")
        yield
        self.say(f"compiled in {time.monotonic() - started:.0f} s")
        self._since, self.data_seconds = time.monotonic(), 0.0

    def add(self, loss: Tensor, grad_norm: Tensor) -> None:
        """Take loss and gradient norm (before clipping) of a step, both () on any device."""
        self._steps.append(torch.stack([loss.detach(), torch.as_tensor(grad_norm).detach()]))
        self._steps_since += 1
        self._bar.update()

    def window(self) -> Tensor:
        """Return what was added since the last log line, (n, 2) float32."""
        return torch.stack(self._steps) if self._steps else torch.empty(0, 2)

    def restore(self, window: Tensor) -> None:
        """Put back what `window` returned before an interruption."""
        self._steps = list(window.to(self.accelerator.device))

    def write(self, step: int, **values: float | None) -> None:
        """Write a log line of the steps since the last one.

        Args:
            step: optimizer steps done.
            **values: further numbers of this step.
        """
        window = self.window().cpu().double()  # the one place where the host waits for the device
        loss, grad_norm = window.unbind(dim=1)
        seconds = max(time.monotonic() - self._since, 1e-9)
        images_per_second = self._steps_since * self.batch_size / seconds
        measured = {
            "loss": loss.mean().item(),
            "loss_max": loss.max().item(),
            "grad_norm": grad_norm.mean().item(),
            "grad_norm_std": grad_norm.std(correction=0).item(),
            "grad_norm_min": grad_norm.min().item(),
            "grad_norm_max": grad_norm.max().item(),
            "loss_spikes": count_spikes(loss),
            "grad_spikes": count_spikes(grad_norm),
            **values,
            "images_per_second": images_per_second,
            "data_seconds": self.data_seconds,
        }
        self.last_loss = measured["loss"]
        state = f"loss {measured['loss']:.4f}, {images_per_second:.0f} images/s"
        self._bar.set_postfix_str(state)
        if self._prints_lines:
            left = (self._num_steps - step) * seconds / max(1, self._steps_since)
            print(f"step {step}/{self._num_steps}, {state}, {left:.0f} s left", flush=True)
        self._steps, self._steps_since = [], 0
        self._since, self.data_seconds = time.monotonic(), 0.0
        self.record(step, measured)

    def record(self, step: int, values: Mapping[str, object]) -> None:
        """Write values to `metrics.jsonl` and the trackers."""
        if self.accelerator.is_main_process:
            self.folder.append_metrics({"step": step, **values})
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        if (step, *sorted(values)) not in self._shown:
            self.accelerator.log(numbers, step=step)

    def show_image(self, step: int, name: str, image: Tensor) -> None:
        """Show an image, (C, H, W) uint8 with C = 1 or 3, in the trackers."""
        show_image(self.accelerator, step, name, image)

    def truncate(self, step: int, *, is_purged: bool) -> None:
        """Drop the log lines after a step, which will be written again.

        Args:
            step: the last that stays.
            is_purged: whether the tracker drops what it has shown of later steps; else that is not
                shown again, since it would be the same.
        """
        if self.accelerator.is_main_process:
            dropped = self.folder.truncate_metrics(step)
            rows = [] if is_purged else dropped
            self._shown = {(row["step"], *sorted(set(row) - {"step"})) for row in rows}

    def start_at(self, step: int) -> None:
        """Begin to measure time and progress at a step."""
        self._bar = progress_bar(
            total=self._num_steps,
            initial=step,
            unit="step",
            dynamic_ncols=True,
            smoothing=0.05,
            disable=not self._has_bar,
        )
        self._since = time.monotonic()

    def close(self) -> None:
        """Take the progress bar away and end the trackers."""
        self._bar.close()
        self.accelerator.end_training()
