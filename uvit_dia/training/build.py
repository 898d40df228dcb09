"""From a config to a trainer."""

from dataclasses import replace
from functools import partial

from accelerate import Accelerator

from uvit_dia.config.checks import check_images_at_a_time
from uvit_dia.config.schema import Config
from uvit_dia.data.batches import TrainingBatches
from uvit_dia.data.images import ImageSet
from uvit_dia.data.labels import check_labels
from uvit_dia.data.sources import load_training_images
from uvit_dia.data.stream_windows import StreamedBatches, WindowReader
from uvit_dia.diffusion import make_process
from uvit_dia.evaluation.extractor_files import choose_extractor
from uvit_dia.evaluation.metrics import check_num_images
from uvit_dia.models.build import make_model
from uvit_dia.runs.data_identity import DataIdentity
from uvit_dia.runs.find import find_paths, with_paths
from uvit_dia.runs.folder import RunFolder
from uvit_dia.runs.resume import RunCheckpoints
from uvit_dia.sampling.schedulers import check_sampler
from uvit_dia.system.memory import memory_advice
from uvit_dia.system.notices import told_if_slow
from uvit_dia.system.processes import failing_together, main_process_first
from uvit_dia.training.log import TrainLog
from uvit_dia.training.noised_batch import rows_of_rank
from uvit_dia.training.optimizer import make_optimizer
from uvit_dia.training.tasks import make_tasks
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
        check_sampler(config.sample, config.diffusion)
        if train.eval_every_steps:
            check_num_images(config.eval.num_images, config.eval.distances)
            source = choose_extractor(located.eval)
    show = accelerator.is_main_process
    with told_if_slow("reading the images"):
        images = main_process_first(
            accelerator, lambda: load_training_images(located, show_progress=show)
        )
    accelerator.print(images.summary())
    # hashed before they go to the device
    data = DataIdentity.of(images, with_labels=config.is_conditional)
    with failing_together():
        check_labels(images, config)
        images, batches = _make_batches(located, images, accelerator)
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
        diffusion=make_process(config.diffusion, accelerator.device),
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
        tasks=make_tasks(located, folder, accelerator, images, source=source, log=log),
    )


def _make_batches(
    config: Config, images: ImageSet, accelerator: Accelerator
) -> tuple[ImageSet, TrainingBatches]:
    """Return the images where the config wants them, and the batches of them."""
    if config.data.on_device:
        with memory_advice(
            "for the training images; data.on_device = False leaves them to the host"
        ):
            images = replace(images, images=images.images.to(accelerator.device))
    streamed = partial(StreamedBatches, WindowReader(config))
    batches = (streamed if config.data.stream_all else TrainingBatches)(
        images,
        config.train.batch_size,
        seed=config.seed,
        random_flip=config.data.random_flip,
        device=accelerator.device,
        has_classes=config.is_conditional,
        null_class=config.null_class,
        label_dropout=config.train.label_dropout,
    )
    return images, batches
