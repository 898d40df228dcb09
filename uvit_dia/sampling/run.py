"""Sampling from the command line: a trained run in, image files out, on all processes."""

from contextlib import AbstractContextManager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from tqdm import tqdm

from uvit_dia.cli import SamplingArguments
from uvit_dia.data.image_grid import write_grid
from uvit_dia.runs.open_model import open_model
from uvit_dia.sampling.guidance import ClassLabels, chosen_labels
from uvit_dia.sampling.image_files import PngFolder, write_npz
from uvit_dia.sampling.outputs import ARRAY, FOLDER, GRID, output_kind
from uvit_dia.sampling.probe import sampler_notes
from uvit_dia.sampling.sampler import ImageSampler, make_sampler, share_of_rank
from uvit_dia.sampling.schedulers import sampler_settings
from uvit_dia.system.accelerator import make_accelerator
from uvit_dia.system.errors import InputError, NonFiniteImagesError
from uvit_dia.system.memory import memory_advice
from uvit_dia.system.notices import warn
from uvit_dia.system.processes import failing_together, main_process_first
from uvit_dia.system.progress import progress_bar


def advice_on_batch_size(batch_size: int) -> AbstractContextManager[None]:
    """Return a context in which running out of memory is told with the flag that may help."""
    return memory_advice(f"with {batch_size} images at a time; give a lower --batch_size")


def sample_to_files(arguments: SamplingArguments, output: Path) -> None:
    """Sample images and write them as the output's name asks: grid, .npz, or a folder of PNGs.

    Raises:
        InputError: if checkpoint, settings or output do not fit; nothing is overwritten then.
        NonFiniteImagesError: if the sampler ends in values that are not finite; no file of these
            images is written.
    """
    # -- what is sampled
    kind = output_kind(output)
    accelerator = make_accelerator()
    trained = open_model(
        arguments.checkpoint,
        config=arguments.config,
        use_ema=arguments.use_ema,
        device=accelerator.device,
    )
    config = trained.config
    settings = sampler_settings(arguments, config)
    if config.model.in_chans not in (1, 3) and kind != ARRAY:
        raise InputError(
            f"--output {output}: images of {config.model.in_chans} channels go to .npz only"
        )
    num_images = arguments.num_images
    assert num_images is not None  # the command has a default
    sampler = make_sampler(
        trained.model,
        config,
        settings,
        batch_size=min(arguments.batch_size or config.sample.batch_size, num_images),
        device=accelerator.device,
        labels=chosen_labels(arguments.class_labels, config, trained.class_names),
    )
    folder = None
    if kind == FOLDER:
        facts = sampler.facts()
        origin = {"weights_sha256": trained.sha256, "block": facts.pop("batch_size"), **facts}
        any_block = arguments.batch_size is None
        # the others see the folder that the first one made
        folder = main_process_first(
            accelerator, lambda: PngFolder(output, origin, any_block=any_block)
        )
        sampler.batch_size = folder.block
    notes = sampler_notes(settings, config.diffusion) if accelerator.is_main_process else []
    for note in notes:
        warn(note)
    # -- sampling and writing
    with advice_on_batch_size(sampler.batch_size):
        if folder is not None:
            _sample_to_folder(sampler, num_images, folder, accelerator)
        else:
            images = _sample_all(sampler, num_images, accelerator)
            if accelerator.is_main_process:
                _write_one_file(output, kind, images, sampler.labels)
    accelerator.wait_for_everyone()
    accelerator.print(
        f"{output}: {num_images} images, {settings.sampler}, {settings.num_steps} steps, "
        f"seed {settings.seed}, {trained.named_weights}"
    )


def _write_one_file(output: Path, kind: str, images: Tensor, labels: ClassLabels | None) -> None:
    if kind == GRID:
        write_grid(output, images, None if labels is None else labels.of(range(len(images))))
    else:
        write_npz(output, images)


def _sample_all(sampler: ImageSampler, num_images: int, accelerator: Accelerator) -> Tensor:
    """Sample on all processes; the main one gets (N, C, H, W) uint8 in order."""
    mine = share_of_rank(
        num_images, sampler.batch_size, accelerator.process_index, accelerator.num_processes
    )
    with failing_together(NonFiniteImagesError), _bar(num_images, accelerator) as bar:
        parts = []
        for indices, images in sampler.sample(mine):
            parts.append((indices, images))
            bar.update(len(indices) * accelerator.num_processes)
    everything = gather_object(parts)
    together = torch.empty(num_images, *sampler.shape, dtype=torch.uint8)
    for indices, images in everything:
        together[indices] = images
    return together


def _sample_to_folder(
    sampler: ImageSampler, num_images: int, folder: PngFolder, accelerator: Accelerator
) -> None:
    """Sample what is missing in a folder of PNGs."""
    missing = set(folder.missing(num_images))
    accelerator.wait_for_everyone()
    share = share_of_rank(
        num_images, sampler.batch_size, accelerator.process_index, accelerator.num_processes
    )
    mine = [index for index in share if index in missing]
    done = num_images - len(missing)
    with failing_together(NonFiniteImagesError), _bar(num_images, accelerator, done) as bar:
        for indices, images in sampler.sample(mine):
            folder.write(indices, images)
            bar.update(len(indices) * accelerator.num_processes)


def _bar(num_images: int, accelerator: Accelerator, done: int = 0) -> tqdm:
    return progress_bar(
        total=num_images,
        initial=done,
        unit="image",
        desc="sampling",
        disable=not accelerator.is_main_process,
    )
