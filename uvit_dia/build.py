"""From a config to objects. With `config.py`, which checks it, the only module that knows the config's shape."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedType,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    TorchDynamoPlugin,
)
from ml_collections import ConfigDict
from torch import nn

from uvit_dia.config.checks import check_images_at_a_time, flatten, parse_blocks, to_plain
from uvit_dia.data.batches import ImageSet, TrainingBatches
from uvit_dia.data.sources import load_image_set
from uvit_dia.diffusion import Diffusion, NoiseSchedule
from uvit_dia.system.errors import InputError, NonFiniteImagesError
from uvit_dia.evaluation.evaluator import evaluate
from uvit_dia.evaluation.extractors import Extractor, ExtractorSource, find_extractor
from uvit_dia.system.files import cache_folder
from uvit_dia.sampling.image_files import write_grid
from uvit_dia.system.memory import memory_advice
from uvit_dia.evaluation.metrics import (
    Features,
    Reference,
    check_num_images,
    extract,
    reference_features,
)
from uvit_dia.models import UViT
from uvit_dia.rng import position_seed
from uvit_dia.runs.resume import RunCheckpoints
from uvit_dia.runs.folder import RunFolder
from uvit_dia.sampling.sampler import ImageSampler, SamplerSettings, make_scheduler
from uvit_dia.system.processes import failing_together
from uvit_dia.training.log import TrainLog
from uvit_dia.training.settings import PeriodicTask, TrainSettings, rows_of_rank
from uvit_dia.training.trainer import Trainer

KNOWN_LAUNCHES = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
PROCESS_TIMEOUT_MINUTES = 30.0  # the main process may compute metrics while others wait


def make_accelerator(
    *,
    mixed_precision: str = "no",
    compile: bool = False,
    workdir: Path | None = None,
    tracker: str = "none",
    process_timeout_minutes: float = PROCESS_TIMEOUT_MINUTES,
) -> Accelerator:
    """Make the Accelerator; what the config says wins over what a launcher's defaults say.

    Args:
        mixed_precision: "no" or "bf16".
        compile: whether the network is compiled.
        workdir: the run's folder, for trackers.
        tracker: its name, or "none".
        process_timeout_minutes: how long processes wait for one another before they give up.

    Raises:
        InputError: if several processes were launched that each believe to be alone, or in a way that the trainer
            does not know.
    """
    for kind in ("DEEPSPEED", "MEGATRON_LM"):  # before Accelerate looks for their packages
        if os.environ.get(f"ACCELERATE_USE_{kind}", "false").lower() in ("1", "true"):
            raise InputError(_launch_message(kind))
    project = None
    if workdir is not None:
        project = ProjectConfiguration(
            project_dir=str(workdir), logging_dir=str(workdir / "tensorboard")
        )
    accelerator = Accelerator(
        mixed_precision=mixed_precision,
        log_with=None if tracker == "none" else tracker,
        project_config=project,
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=1
        ),  # the trainer counts parts itself
        dynamo_plugin=TorchDynamoPlugin(backend="inductor" if compile else "no"),
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=timedelta(minutes=process_timeout_minutes))
        ],
    )
    kind = accelerator.distributed_type
    if kind not in KNOWN_LAUNCHES and not accelerator.is_fsdp2:
        name = "FSDP of version 1" if kind == DistributedType.FSDP else kind.value
        raise InputError(_launch_message(name))
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise InputError(
            f"{launched} processes were launched, but each believes to be one of {accelerator.num_processes}; "
            "on CPU launch with ACCELERATE_USE_CPU=true torchrun --nproc_per_node N train.py ..."
        )
    return accelerator


def _launch_message(name: str) -> str:
    return (
        f"the launcher asks for {name}; supported are one process, DDP (accelerate launch --multi_gpu) and FSDP2 "
        "(accelerate launch --use_fsdp --fsdp_version 2)"
    )


def make_schedule(config: ConfigDict) -> NoiseSchedule:
    """Make the forward process of a config."""
    group = config.diffusion
    return NoiseSchedule(
        num_train_timesteps=group.num_train_timesteps,
        beta_schedule=group.beta_schedule,
        beta_start=group.beta_start,
        beta_end=group.beta_end,
        prediction_type=group.prediction_type,
    )


def make_model(config: ConfigDict) -> UViT:
    """Make the network of a config, with weights drawn from the config's seed, the same on every process.

    Raises:
        InputError: if the network refuses a value that the config's check let through.
    """
    arguments = to_plain(config)["model"]
    arguments["attention_options"]["blocks"] = parse_blocks(config.model.attention_options.blocks)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(position_seed(config.seed, "initial weights"))
        try:
            return UViT(**arguments)
        except ValueError as error:
            raise InputError(f"model: {' '.join(str(error).split())[:140]}") from error


def load_training_images(config: ConfigDict, *, show_progress: bool) -> ImageSet:
    """Read the training images of a config."""
    images = _load_images(config, "train", show_progress=show_progress)
    assert images is not None  # only a test split can be missing
    return images


def load_test_images(config: ConfigDict, *, show_progress: bool) -> ImageSet | None:
    """Read the test images of a config; None where its image set has no test split."""
    return _load_images(config, "test", show_progress=show_progress)


def _load_images(config: ConfigDict, split: str, *, show_progress: bool) -> ImageSet | None:
    return load_image_set(
        config.data.name,
        config.data.path,
        split,
        img_size=config.model.img_size,
        in_chans=config.model.in_chans,
        resize=config.data.resize,
        show_progress=show_progress,
    )


def make_sampler_settings(config: ConfigDict) -> SamplerSettings:
    """Make the sampler settings of a config."""
    group = config.sample
    return SamplerSettings(
        sampler=group.sampler,
        num_steps=group.num_steps,
        seed=group.seed,
        eta=group.eta,
        variance_type=group.variance_type,
        clip_sample=group.clip_sample,
    )


def make_sampler(
    model: nn.Module,
    config: ConfigDict,
    settings: SamplerSettings,
    *,
    batch_size: int,
    device: torch.device,
) -> ImageSampler:
    """Make the sampler of a model that was built from a config."""
    return ImageSampler(
        model,
        make_schedule(config),
        settings,
        shape=(config.model.in_chans, config.model.img_size, config.model.img_size),
        batch_size=batch_size,
        device=device,
    )


def make_references(
    config: ConfigDict,
    extractor: Extractor,
    images: ImageSet,
    accelerator: Accelerator,
    warn: Callable[[str], None],
) -> tuple[Reference, Features | None]:
    """Return features of the whole training set, and of the test split for the floor where there is one."""
    batch_size = config.eval.batch_size
    test = load_test_images(config, show_progress=accelerator.is_main_process)
    with accelerator.main_process_first():  # the first one fills the cache that the others read
        reference = reference_features(
            images, extractor, batch_size=batch_size, cache=cache_folder() / "features", warn=warn
        )
    held_out = None if test is None else extract(extractor, test.images.split(batch_size))
    return reference, held_out


def make_trainer(config: ConfigDict, folder: RunFolder, accelerator: Accelerator) -> Trainer:
    """Make everything that a training run needs; nothing is trained or written yet.

    Raises:
        InputError: if data, batch size or extractor do not fit the config or the launch.
    """
    train, optimizer = config.train, config.optimizer
    rows_of_rank(train.batch_size, train.accumulation_steps, 0, accelerator.num_processes)
    check_images_at_a_time(config, accelerator.num_processes)
    make_scheduler(
        make_sampler_settings(config), make_schedule(config)
    )  # refuses what a preview would trip over
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
        torch.optim.AdamW(
            model.parameters(),
            lr=optimizer.learning_rate,
            betas=tuple(optimizer.betas),
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            fused=True,
        ),
        diffusion=Diffusion(
            make_schedule(config),
            loss_weighting=config.diffusion.loss_weighting,
            min_snr_gamma=config.diffusion.min_snr_gamma,
            device=accelerator.device,
        ),
        batches=batches,
        settings=_train_settings(config),
        checkpoints=RunCheckpoints(
            folder, config, num_processes=accelerator.num_processes, warn=log.warn
        ),
        log=log,
        tasks=_make_tasks(config, folder, accelerator, images, source=source, log=log),
    )


def _train_settings(config: ConfigDict) -> TrainSettings:
    return TrainSettings(
        seed=config.seed,
        batch_size=config.train.batch_size,
        num_steps=config.train.num_steps,
        accumulation_steps=config.train.accumulation_steps,
        learning_rate=config.optimizer.learning_rate,
        lr_schedule=config.optimizer.lr_schedule,
        warmup_steps=config.optimizer.warmup_steps,
        max_grad_norm=config.optimizer.max_grad_norm,
        ema=to_plain(config)["ema"],
        log_every_steps=config.train.log_every_steps,
        checkpoint_every_steps=config.train.checkpoint_every_steps,
        keep_checkpoints=config.train.keep_checkpoints,
    )


def _make_tasks(
    config: ConfigDict,
    folder: RunFolder,
    accelerator: Accelerator,
    images: ImageSet,
    *,
    source: ExtractorSource | None,
    log: TrainLog,
) -> tuple[PeriodicTask, ...]:
    """Make the previews and evaluations that a run does on its way, with the averaged weights."""
    settings = make_sampler_settings(config)
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
            names=tuple(config.eval.metrics),
            accelerator=accelerator,
            show_progress=False,
        )

    return (
        PeriodicTask(config.train.sample_every_steps, preview),
        PeriodicTask(config.train.eval_every_steps, measure),
    )


def start_trackers(
    accelerator: Accelerator, config: ConfigDict, folder: RunFolder, *, step: int
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
