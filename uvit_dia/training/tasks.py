"""Previews and evaluations: what a run does every so many steps with its averaged model."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from accelerate import Accelerator
from torch import nn

from uvit_dia.config.rules import HELD_OUT_LOSS
from uvit_dia.config.schema import Config
from uvit_dia.data.image_grid import image_grid, write_grid
from uvit_dia.data.images import ImageSet
from uvit_dia.evaluation.evaluator import Evaluator, make_evaluator
from uvit_dia.evaluation.extractor_files import ExtractorSource
from uvit_dia.evaluation.held_out_loss import HeldOutLoss, make_held_out_loss
from uvit_dia.runs.folder import RunFolder
from uvit_dia.sampling.decoding import make_decoder
from uvit_dia.sampling.guidance import as_in
from uvit_dia.sampling.probe import sampler_notes
from uvit_dia.sampling.sampler import make_sampler
from uvit_dia.system.errors import NonFiniteImagesError
from uvit_dia.system.memory import memory_advice
from uvit_dia.system.notices import told_if_slow
from uvit_dia.system.processes import failing_together
from uvit_dia.training.log import TrainLog

Task = Callable[[int, nn.Module], dict[str, object]]  # (step, averaged model) -> what is logged


@dataclass(frozen=True)
class PeriodicTask:
    """Something done with the averaged model every so many steps, on all processes together.

    Attributes:
        every_steps: 0 for never.
        run: called with the step and the averaged model; what it returns is logged. It may raise a
            `NonFiniteImagesError`, on all processes, which is logged too and does not end the run.
    """

    every_steps: int
    run: Task

    def is_due(self, step: int) -> bool:
        """Say whether the task runs after a step."""
        return bool(self.every_steps) and step % self.every_steps == 0


def run_task(task: PeriodicTask, step: int, model: nn.Module, log: TrainLog) -> None:
    """Run a task and log its values.

    Images that are not finite are recorded and do not end the run, since the weights are finite.
    """
    try:
        values = task.run(step, model)
    except NonFiniteImagesError as error:
        log.warn(f"step {step}: {error}")
        values = {"nonfinite_images": 1}
    if values:
        log.record(step, values)


def make_tasks(
    config: Config,
    folder: RunFolder,
    accelerator: Accelerator,
    images: ImageSet,
    *,
    source: ExtractorSource | None,
    log: TrainLog,
) -> tuple[PeriodicTask, ...]:
    """Make what a run does on its way with the averaged weights.

    Args:
        config: of the run; its paths are where the files are.
        folder: of the run.
        accelerator: the processes.
        images: the training set.
        source: the extractor's checked file; None for a run that does not evaluate.
        log: of the run.
    """
    train = config.train
    if train.sample_every_steps or train.eval_every_steps:
        for note in sampler_notes(config.sample, config.diffusion):
            log.warn(note)
        with failing_together():  # refuses before the training what the first preview would
            make_decoder(config, config.sample, accelerator.device)
    measure_held_out = _held_out_task(config, accelerator)
    measure = _evaluation_task(config, accelerator, images, source, log)

    def evaluate(step: int, model: nn.Module) -> dict[str, object]:
        is_asked = HELD_OUT_LOSS in config.eval.metrics
        return measure(step, model) | (measure_held_out(step, model) if is_asked else {})

    return (
        PeriodicTask(train.sample_every_steps, _preview_task(config, folder, accelerator, log)),
        PeriodicTask(train.eval_every_steps, evaluate),
        PeriodicTask(train.held_out_every_steps, measure_held_out),
    )


def _preview_task(
    config: Config, folder: RunFolder, accelerator: Accelerator, log: TrainLog
) -> Task:
    """Make the task that writes a grid of samples."""
    num_images = config.sample.grid_images

    def preview(step: int, model: nn.Module) -> dict[str, object]:
        count = num_images if accelerator.is_main_process else 0
        sampler = make_sampler(
            model, config, config.sample, batch_size=num_images, device=accelerator.device
        )
        folder.samples.mkdir(parents=True, exist_ok=True)
        with (
            failing_together(NonFiniteImagesError),
            memory_advice(
                "in a preview; the same run may go on with a lower sample.grid_images = "
                f"{num_images} or with train.sample_every_steps = 0"
            ),
        ):
            for indices, samples in sampler.sample(range(count)):
                classes = None if sampler.labels is None else sampler.labels.of(indices)
                write_grid(folder.samples / f"step_{step:08d}.png", samples, classes)
                log.show_image(step, "samples", image_grid(samples, classes))
        return {}

    return preview


def _evaluation_task(
    config: Config,
    accelerator: Accelerator,
    images: ImageSet,
    source: ExtractorSource | None,
    log: TrainLog,
) -> Task:
    """Make the task that measures samples against the training images."""
    labels = as_in(images, config) if config.train.eval_every_steps else None

    @cache
    def evaluator() -> Evaluator:
        """Load the extractor at the first evaluation; later ones find all that they share."""
        assert source is not None  # it was looked for, since this run evaluates
        device = accelerator.device
        return make_evaluator(config, source, device=device, warn=log.warn, images=images)

    def measure(step: int, model: nn.Module) -> dict[str, object]:
        with memory_advice(
            "in an evaluation; the same run may go on with a lower sample.batch_size = "
            f"{config.sample.batch_size} or eval.batch_size = {config.eval.batch_size}"
        ):
            num_images = config.eval.num_images
            batch_size = min(config.sample.batch_size, num_images)
            sampler = make_sampler(
                model,
                config,
                config.sample,
                batch_size=batch_size,
                device=accelerator.device,
                labels=labels,
            )
            evaluation = evaluator().measure(sampler, num_images, accelerator)
        return {} if evaluation is None else evaluation.values

    return measure


def _held_out_task(config: Config, accelerator: Accelerator) -> Task:
    """Make the task that measures the loss on held-out images, which are read when first needed."""

    @cache
    def held_out() -> HeldOutLoss:
        with failing_together(), told_if_slow("reading the held-out images"):
            return make_held_out_loss(config)

    def measure(step: int, model: nn.Module) -> dict[str, object]:
        return held_out().measure(model, accelerator)

    return measure
