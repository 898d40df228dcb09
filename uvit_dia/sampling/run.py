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
from uvit_dia.sampling.animation import WatchedChain, write_animation
from uvit_dia.sampling.guidance import ClassLabels, chosen_labels
from uvit_dia.sampling.image_files import PngFolder, write_npz
from uvit_dia.sampling.interpolation import interpolate
from uvit_dia.sampling.outputs import ANIMATION, ARRAY, FOLDER, GRID, output_kind
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


def sample_to_files(
    arguments: SamplingArguments, output: Path, interpolated: int | None = None
) -> None:
    """Sample images and write them as the output's name asks, see `outputs.py`.

    Args:
        arguments: of the command line.
        output: of the files.
        interpolated: images of each row, if images are to become rows; see `interpolation.py`.

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
    config, settings = trained.config, sampler_settings(arguments, trained.config)
    if not config.makes_pictures and kind != ARRAY:
        channels = config.model.in_chans
        raise InputError(f"--output {output}: images of {channels} channels go to .npz only")
    assert arguments.num_images is not None  # the command has a default
    num_images = arguments.num_images * (interpolated or 1)
    sampler = make_sampler(
        trained.model,
        config,
        settings,
        batch_size=min(arguments.batch_size or config.sample.batch_size, num_images),
        device=accelerator.device,
        labels=chosen_labels(arguments.class_labels, config, trained.class_names),
    )
    _change(sampler, kind, interpolated)
    folder = None
    if kind == FOLDER:
        origin = {"weights_sha256": trained.sha256, **sampler.facts()}
        origin |= {} if interpolated is None else {"interpolate": interpolated}
        folder = _open_folder(output, origin, accelerator, any_block=arguments.batch_size is None)
        sampler.batch_size = folder.block
    for note in sampler_notes(settings, config.diffusion) if accelerator.is_main_process else []:
        warn(note)
    # -- sampling and writing
    with advice_on_batch_size(sampler.batch_size):
        if folder is not None:
            _sample_to_folder(sampler, num_images, folder, accelerator)
        else:
            frames = _sample_all(sampler, num_images, accelerator)
            if accelerator.is_main_process:
                _write_one_file(output, kind, frames, sampler.labels, interpolated)
    accelerator.wait_for_everyone()
    accelerator.print(
        f"{output}: {num_images} images, {settings.sampler}, {settings.num_steps} steps, "
        f"seed {settings.seed}, {trained.named_weights}"
    )


def _change(sampler: ImageSampler, kind: str, interpolated: int | None) -> None:
    """Let a sampler draw rows, and keep frames, where these are asked for."""
    if interpolated is not None:
        interpolate(sampler, interpolated)
    if kind == ANIMATION:
        sampler.chain = WatchedChain(sampler.chain, sampler.settings.num_steps, sampler.to_images)


def _open_folder(
    output: Path, facts: dict[str, object], accelerator: Accelerator, *, any_block: bool
) -> PngFolder:
    origin = {"block": facts["batch_size"], **facts}
    del origin["batch_size"]
    # the others see the folder that the first one made
    return main_process_first(accelerator, lambda: PngFolder(output, origin, any_block=any_block))


def _write_one_file(
    output: Path, kind: str, frames: Tensor, labels: ClassLabels | None, columns: int | None
) -> None:
    classes = None if labels is None else labels.of(range(frames.shape[1]))
    if kind == GRID:
        write_grid(output, frames[-1], classes, columns)
    elif kind == ANIMATION:
        write_animation(output, frames, classes, columns)
    else:
        write_npz(output, frames[-1])


def _sample_all(sampler: ImageSampler, num_images: int, accelerator: Accelerator) -> Tensor:
    """Sample on all processes; the main one gets (F, N, C, H, W) uint8 in order.

    The last of the F frames are the images; those before it are what a `WatchedChain` has kept.
    """
    mine = share_of_rank(
        num_images, sampler.batch_size, accelerator.process_index, accelerator.num_processes
    )
    with failing_together(NonFiniteImagesError), _bar(num_images, accelerator) as bar:
        parts = []
        for indices, images in sampler.sample(mine):
            kept = sampler.chain.frames if isinstance(sampler.chain, WatchedChain) else []
            rows = torch.tensor(indices) % sampler.batch_size
            parts.append((indices, torch.stack([*(each[rows] for each in kept), images])))
            bar.update(len(indices) * accelerator.num_processes)
    everything = gather_object(parts)
    num_frames, _, *shape = everything[0][1].shape
    together = torch.empty(num_frames, num_images, *shape, dtype=torch.uint8)
    for indices, frames in everything:
        together[:, indices] = frames
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
