"""From a config to a trainer."""

from accelerate import Accelerator
from torch import nn

from uvit_dia.config.checks import check_images_at_a_time
from uvit_dia.config.files import flatten, to_plain
from uvit_dia.config.schema import Config
from uvit_dia.data.batches import TrainingBatches
from uvit_dia.data.images import ImageSet
from uvit_dia.data.sources import load_training_images
from uvit_dia.diffusion import Diffusion
from uvit_dia.evaluation.evaluator import evaluate, make_references
from uvit_dia.evaluation.extractors import Extractor, ExtractorSource, find_extractor
from uvit_dia.evaluation.metrics import (
    Features,
    Reference,
    check_num_images,
)
from uvit_dia.models.build import make_model
from uvit_dia.runs.folder import RunFolder
from uvit_dia.runs.resume import RunCheckpoints
from uvit_dia.sampling.image_files import write_grid
from uvit_dia.sampling.sampler import make_sampler
from uvit_dia.sampling.schedulers import make_scheduler
from uvit_dia.system.errors import NonFiniteImagesError
from uvit_dia.system.memory import memory_advice
from uvit_dia.system.processes import failing_together
from uvit_dia.training.log import TrainLog
from uvit_dia.training.noised_batch import rows_of_rank
from uvit_dia.training.optimizer import make_optimizer
from uvit_dia.training.trainer import PeriodicTask, Trainer


def make_trainer(config: Config, folder: RunFolder, accelerator: Accelerator) -> Trainer:
    """Make everything that a training run needs; nothing is trained or written yet.

    Raises:
        InputError: if data, batch size or extractor do not fit the config or the launch.
    """
    train = config.train
    rows_of_rank(train.batch_size, train.accumulation_steps, 0, accelerator.num_processes)
    check_images_at_a_time(config, accelerator.num_processes)
    make_scheduler(config.sample, config.diffusion)  # refuses what a preview would trip over
    source = None
    if train.eval_every_steps:
        check_num_images(config.eval.num_images, config.eval.metrics)
        source = find_extractor(config.eval.extractor, config.eval.weights)
    show = accelerator.is_main_process
    with accelerator.main_process_first():
        images = load_training_images(config, show_progress=show)
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
        train.batch_size,
        seed=config.seed,
        random_flip=config.data.random_flip,
        device=accelerator.device,
    )
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
            folder, config, num_processes=accelerator.num_processes, warn=log.warn
        ),
        log=log,
        tasks=_make_tasks(config, folder, accelerator, images, source=source, log=log),
    )


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
    loaded: list[tuple[Extractor, Reference, Features | None]] = []  # made at the first evaluation

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
            for _, grid in sampler.sample(range(count)):
                write_grid(folder.samples / f"step_{step:08d}.png", grid)
        return {}

    def measure(step: int, model: nn.Module) -> dict[str, object]:
        with memory_advice(
            "in an evaluation; the same run may go on with a lower sample.batch_size = "
            f"{config.sample.batch_size} or eval.batch_size = {config.eval.batch_size}"
        ):
            return measure_samples(model)

    def measure_samples(model: nn.Module) -> dict[str, object]:
        if not loaded:
            assert source is not None  # it was looked for, since this run evaluates
            extractor = Extractor(source, accelerator.device)
            loaded.append(
                (extractor, *make_references(config, extractor, images, accelerator, log.warn))
            )
        extractor, reference, held_out = loaded[0]
        batch_size = min(config.sample.batch_size, config.eval.num_images)
        return evaluate(
            make_sampler(model, config, settings, batch_size=batch_size, device=accelerator.device),
            extractor,
            reference,
            held_out,
            num_images=config.eval.num_images,
            names=config.eval.metrics,
            accelerator=accelerator,
            show_progress=False,
        )

    return (
        PeriodicTask(config.train.sample_every_steps, preview),
        PeriodicTask(config.train.eval_every_steps, measure),
    )


def start_trackers(
    accelerator: Accelerator, config: Config, folder: RunFolder, *, step: int
) -> None:
    """Start the trackers of a run, at its first start with its config as plain values.

    Args:
        accelerator: made with the run's folder.
        config: of the run.
        folder: of the run.
        step: optimizer steps done; what a run that was killed had shown of later steps, which come again, is taken
            back.
    """
    is_new = not folder.tensorboard.exists()
    values = {
        key: value if isinstance(value, int | float | str | bool) else str(value)
        for key, value in flatten(to_plain(config)).items()
    }
    accelerator.init_trackers(
        "train",
        config=values if is_new else None,
        init_kwargs={"tensorboard": {"purge_step": step + 1}},
    )
