"""From a config to a trainer."""

from functools import cache

from accelerate import Accelerator
from torch import nn

from uvit_dia.config.checks import check_images_at_a_time
from uvit_dia.config.rules import HELD_OUT_LOSS
from uvit_dia.config.schema import Config
from uvit_dia.data.batches import TrainingBatches
from uvit_dia.data.images import ImageSet
from uvit_dia.data.sources import load_training_images
from uvit_dia.diffusion import Diffusion
from uvit_dia.evaluation.evaluator import Evaluator, make_evaluator
from uvit_dia.evaluation.extractor_files import ExtractorSource, choose_extractor
from uvit_dia.evaluation.held_out_loss import HeldOutLoss, make_held_out_loss
from uvit_dia.evaluation.metrics import check_num_images
from uvit_dia.models.build import make_model
from uvit_dia.runs.data_identity import DataIdentity
from uvit_dia.runs.find import find_paths, with_paths
from uvit_dia.runs.folder import RunFolder
from uvit_dia.runs.resume import RunCheckpoints
from uvit_dia.sampling.image_files import image_grid, write_grid
from uvit_dia.sampling.probe import sampler_notes
from uvit_dia.sampling.sampler import make_sampler
from uvit_dia.sampling.schedulers import make_scheduler
from uvit_dia.system.errors import NonFiniteImagesError
from uvit_dia.system.memory import memory_advice
from uvit_dia.system.notices import told_if_slow
from uvit_dia.system.processes import failing_together, main_process_first
from uvit_dia.training.log import TrainLog
from uvit_dia.training.noised_batch import rows_of_rank
from uvit_dia.training.optimizer import make_optimizer
from uvit_dia.training.tasks import PeriodicTask
from uvit_dia.training.trainer import Trainer


def make_trainer(config: Config, folder: RunFolder, accelerator: Accelerator) -> Trainer:
    """Make everything that a training run needs; nothing is trained or written yet.

    Raises:
        InputError: if data, batch size or extractor do not fit the config or the launch.
    """
    train = config.train
    source = None
    with failing_together():
        rows_of_rank(train.batch_size, train.accumulation_steps, 0, accelerator.num_processes)
        check_images_at_a_time(config, accelerator.num_processes)
        located = with_paths(config, find_paths(config, folder.path))
        # refuses what a preview would trip over
        make_scheduler(config.sample, config.diffusion)
        if train.eval_every_steps:
            check_num_images(config.eval.num_images, config.eval.distances)
            source = choose_extractor(located.eval)
    show = accelerator.is_main_process
    with told_if_slow("reading the images"):
        images = main_process_first(
            accelerator, lambda: load_training_images(located, show_progress=show)
        )
    accelerator.print(images.summary())
    data = DataIdentity.of(images)  # hashed before they go to the device
    with failing_together():
        images, batches = _make_batches(config, images, accelerator)
        model = make_model(config)
    if train.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    log = TrainLog(
        accelerator,
        folder,
        batch_size=train.batch_size,
        num_steps=train.num_steps,
        show_progress=show,
    )
    return Trainer(
        accelerator,
        model,
        make_optimizer(model, config.optimizer),
        diffusion=Diffusion(config.diffusion, accelerator.device),
        batches=batches,
        config=config,
        checkpoints=RunCheckpoints(
            folder,
            config,
            data=data,
            num_processes=accelerator.num_processes,
            warn=log.warn,
        ),
        log=log,
        tasks=_make_tasks(located, folder, accelerator, images, source=source, log=log),
    )


def _make_batches(
    config: Config, images: ImageSet, accelerator: Accelerator
) -> tuple[ImageSet, TrainingBatches]:
    """Return the images where the config wants them, and the batches of them."""
    if config.data.on_device:
        with memory_advice(
            "for the training images; data.on_device = False leaves them to the host"
        ):
            images = ImageSet(
                images.name,
                images.images.to(accelerator.device),
                images.labels,
                images.class_names,
            )
    batches = TrainingBatches(
        images,
        config.train.batch_size,
        seed=config.seed,
        random_flip=config.data.random_flip,
        device=accelerator.device,
    )
    return images, batches


def _make_tasks(
    config: Config,
    folder: RunFolder,
    accelerator: Accelerator,
    images: ImageSet,
    *,
    source: ExtractorSource | None,
    log: TrainLog,
) -> tuple[PeriodicTask, ...]:
    """Make the previews and evaluations that a run does on its way, with the averaged weights."""
    settings = config.sample
    if config.train.sample_every_steps or config.train.eval_every_steps:
        for note in sampler_notes(settings, config.diffusion):
            log.warn(note)

    @cache
    def evaluator() -> Evaluator:
        """Load the extractor at the first evaluation; later ones find all that they share."""
        assert source is not None  # it was looked for, since this run evaluates
        device = accelerator.device
        return make_evaluator(config, source, device=device, warn=log.warn, images=images)

    @cache
    def held_out() -> HeldOutLoss:
        with told_if_slow("reading the held-out images"):
            return make_held_out_loss(config)

    def measure_held_out(step: int, model: nn.Module) -> dict[str, object]:
        with failing_together():
            loss = held_out()
        return loss.measure(model, accelerator)

    def preview(step: int, model: nn.Module) -> dict[str, object]:
        count = config.sample.grid_images if accelerator.is_main_process else 0
        sampler = make_sampler(
            model, config, settings, batch_size=config.sample.grid_images, device=accelerator.device
        )
        folder.samples.mkdir(parents=True, exist_ok=True)
        with (
            failing_together(NonFiniteImagesError),
            memory_advice(
                "in a preview; the same run may go on with a lower sample.grid_images = "
                f"{config.sample.grid_images} or with train.sample_every_steps = 0"
            ),
        ):
            for _, samples in sampler.sample(range(count)):
                write_grid(folder.samples / f"step_{step:08d}.png", samples)
                log.show_image(step, "samples", image_grid(samples))
        return {}

    def measure(step: int, model: nn.Module) -> dict[str, object]:
        with memory_advice(
            "in an evaluation; the same run may go on with a lower sample.batch_size = "
            f"{config.sample.batch_size} or eval.batch_size = {config.eval.batch_size}"
        ):
            num_images = config.eval.num_images
            batch_size = min(config.sample.batch_size, num_images)
            sampler = make_sampler(
                model, config, settings, batch_size=batch_size, device=accelerator.device
            )
            evaluation = evaluator().measure(sampler, num_images, accelerator)
        is_asked = HELD_OUT_LOSS in config.eval.metrics
        extra = measure_held_out(step, model) if is_asked else {}
        return {} if evaluation is None else {**evaluation.values, **extra}

    return (
        PeriodicTask(config.train.sample_every_steps, preview),
        PeriodicTask(config.train.eval_every_steps, measure),
        PeriodicTask(config.train.held_out_every_steps, measure_held_out),
    )
