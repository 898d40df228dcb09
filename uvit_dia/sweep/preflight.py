"""What is checked before the first cell of a sweep runs.

Data, models, samplers, extractor, processes, disk.

What several cells have in common is loaded once. torch is imported here.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar, cast

import torch

from uvit_dia.config.files import to_plain
from uvit_dia.config.schema import Config
from uvit_dia.data.sources import load_training_images
from uvit_dia.evaluation.evaluator import make_evaluator
from uvit_dia.evaluation.extractor_files import choose_extractor
from uvit_dia.evaluation.metrics import check_num_images
from uvit_dia.models.build import make_model
from uvit_dia.sampling.probe import sampler_notes
from uvit_dia.sampling.schedulers import check_sampler
from uvit_dia.sweep.cells import Cell
from uvit_dia.sweep.config import Sweep
from uvit_dia.sweep.schema import Evaluation
from uvit_dia.system.errors import InputError, StorageError
from uvit_dia.system.notices import warn

T = TypeVar("T")

BYTES_A_WEIGHT = 4 * 4  # weight, average, two moments, each float32


@dataclass(frozen=True)
class Machine:
    """What the cells of a sweep will find.

    Attributes:
        num_gpus: CUDA devices that this process sees.
        extractor_sha256: of the feature extractor's file, by name of the cell.
    """

    num_gpus: int
    extractor_sha256: dict[str, str]


class _Memory:
    """Results by what they were made from, so that nothing is loaded or checked twice."""

    def __init__(self) -> None:
        self._results: dict[str, object] = {}

    def once(self, make: Callable[[], T], *origin: object) -> T:
        """Return what was made from the same origin, or make it.

        The first of the origin names the kind.
        """
        key = json.dumps(origin, sort_keys=True)
        if key not in self._results:
            self._results[key] = make()
        return cast(T, self._results[key])


def check_machine(
    sweep: Sweep, cells: Iterable[Cell], workdir: Path, *, gpus_per_run: int | None = None
) -> Machine:
    """Check that cells can be trained and evaluated.

    Only data that are not there yet are fetched to their cache.

    Args:
        sweep: the sweep.
        cells: those of its cells that are still to be run.
        workdir: the sweep's folder; it need not be there.
        gpus_per_run: GPUs that a cluster gives to a cell; None where cells run on this machine.

    Raises:
        InputError: naming the first cell that could not start, and why.
        StorageError: if the checkpoints of all cells would not fit.
    """
    num_gpus = torch.cuda.device_count()
    if gpus_per_run is None:
        _check_processes(sweep.launch.num_processes, num_gpus)
    else:
        _check_processes_of_job(sweep.launch.num_processes, gpus_per_run)
    memory = _Memory()
    extractors = {}
    bytes_needed = 0
    for cell in cells:
        config = sweep.configs[cell.name]
        try:
            extractors[cell.name], num_weights = _check_cell(config, sweep.config.eval, memory)
        except InputError as error:
            raise InputError(f"cell {cell.name} cannot start: {error}") from error
        bytes_needed += (config.train.keep_checkpoints + 1) * num_weights * BYTES_A_WEIGHT
    _check_space(workdir, bytes_needed)
    return Machine(num_gpus, extractors)


def _check_cell(config: Config, evaluation: Evaluation, memory: _Memory) -> tuple[str, int]:
    """Check one run; return the SHA-256 of its extractor and the number of its weights."""
    plain = to_plain(config)
    model, data = plain["model"], plain["data"]
    origin = (data, model["img_size"], model["in_chans"])
    images = memory.once(
        lambda: load_training_images(config, show_progress=True), "images", *origin
    )
    if config.train.batch_size > len(images):
        raise InputError(
            f"train.batch_size = {config.train.batch_size} is larger than the data set, "
            f"which has {len(images)} images"
        )
    num_weights = memory.once(lambda: _count_weights(config), "weights", model)
    memory.once(
        lambda: _check_samplers(config, evaluation), "samplers", plain["sample"], plain["diffusion"]
    )
    sha256 = memory.once(
        lambda: _check_extractor(config, evaluation), "extractor", plain["eval"], *origin
    )
    return sha256, num_weights


def _count_weights(config: Config) -> int:
    """Build the model without its memory; return its number of weights."""
    with torch.device("meta"):
        return sum(p.numel() for p in make_model(config).parameters())


def _check_samplers(config: Config, evaluation: Evaluation) -> None:
    """Refuse samplers that previews or the evaluation would trip over; tell of odd ones."""
    measured = replace(config.sample, sampler=evaluation.sampler, num_steps=evaluation.num_steps)
    check_sampler(config.sample, config.diffusion)
    for note in sampler_notes(measured, config.diffusion):
        warn(note)


def _check_extractor(config: Config, evaluation: Evaluation) -> str:
    """Find the extractor that eval_fid.py will take and try it; return its file's SHA-256."""
    source = choose_extractor(config.eval, evaluation.extractor, evaluation.weights)
    check_num_images(evaluation.num_images, config.eval.distances)
    evaluator = make_evaluator(config, source, device="cpu", warn=warn)
    if not evaluator.is_comparable(evaluation.num_images):
        raise InputError(
            f"eval.num_images = {evaluation.num_images}: {source.label} has "
            f"{evaluator.num_features} features and needs at least as many images"
        )
    return source.sha256


def _check_processes_of_job(num_processes: int, gpus_per_run: int) -> None:
    """Refuse jobs whose processes would share GPUs.

    Without any, the jobs' processes are told to use CPUs.
    """
    if num_processes > 1 and gpus_per_run not in (0, num_processes):
        raise InputError(
            f"num_processes = {num_processes}, and slurm.gpus_per_run = {gpus_per_run}; "
            "a process needs a GPU of its own"
        )
    _check_processes(num_processes, gpus_per_run)


def _check_processes(num_processes: int, num_gpus: int) -> None:
    """Refuse a launch whose processes would each believe to be alone."""
    uses_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    if num_processes > 1 and not uses_cpu and num_gpus < num_processes:
        raise InputError(
            f"num_processes = {num_processes}, and there are {num_gpus} GPUs here; "
            "set ACCELERATE_USE_CPU=true to train on CPUs"
        )


def _check_space(workdir: Path, bytes_needed: int) -> None:
    place = workdir.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < bytes_needed:
        raise StorageError(
            f"no space for the checkpoints of all cells in {workdir}: "
            f"need {bytes_needed} bytes, have {free}"
        )
