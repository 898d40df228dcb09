"""Evaluation from the command line: a trained run in, one JSON line a seed out."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from uvit_dia.cli import SamplingArguments
from uvit_dia.config.rules import HELD_OUT_LOSS
from uvit_dia.evaluation.evaluation import Evaluation
from uvit_dia.evaluation.evaluator import Evaluator, make_evaluator
from uvit_dia.evaluation.extractor_files import ExtractorSource, choose_extractor
from uvit_dia.evaluation.held_out_loss import make_held_out_loss
from uvit_dia.evaluation.metrics import COMPARABLE_IMAGES, check_num_images
from uvit_dia.runs.folder import versions
from uvit_dia.runs.open_model import open_model
from uvit_dia.runs.trained_model import TrainedModel
from uvit_dia.sampling.guidance import ClassLabels, as_in, chosen_labels
from uvit_dia.sampling.probe import sampler_notes
from uvit_dia.sampling.run import advice_on_batch_size
from uvit_dia.sampling.sampler import make_sampler
from uvit_dia.sampling.schedulers import sampler_settings
from uvit_dia.system.accelerator import make_accelerator
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import append_line
from uvit_dia.system.notices import warn
from uvit_dia.system.processes import failing_together, main_process_first


@dataclass(frozen=True)
class EvaluationArguments:
    """What an evaluation is told beside the sampling.

    Attributes:
        extractor: name of the feature extractor; None for that of the run's config.
        weights: path of the Inception weights; None for that of the run's config.
        download_weights: whether missing Inception weights are downloaded.
        source: the extractor's checked file, if it has been found already.
        allow_few_images: whether fewer images than the extractor has features are accepted.
        num_repeats: how many seeds, from the first on, are measured one after the other.
        data_path: where the training images lie, if not where the run found them.
        allow_other_data: whether other images than the training's are measured against.
        held_out_loss: whether the held-out loss is measured, even if the config does not ask for
            it.
    """

    extractor: str | None
    weights: str | None
    download_weights: bool
    source: ExtractorSource | None
    allow_few_images: bool
    num_repeats: int
    data_path: str | None
    allow_other_data: bool
    held_out_loss: bool


def evaluate_to_json(sampling: SamplingArguments, arguments: EvaluationArguments) -> None:
    """Evaluate a run; print one JSON line for each seed and append it to the run's `eval.jsonl`.

    Raises:
        InputError: if something does not fit; found before any sampling starts.
        NonFiniteImagesError: if the sampler ends in values that are not finite; nothing is appended
            for that seed.
    """
    accelerator = make_accelerator()
    trained = open_model(
        sampling.checkpoint,
        config=sampling.config,
        use_ema=sampling.use_ema,
        device=accelerator.device,
        data_path=arguments.data_path,
    )
    for evaluation, record in evaluations(trained, sampling, arguments, accelerator):
        line = json.dumps(record, allow_nan=False)
        print(line, flush=True)
        if trained.run is not None:
            append_line(Path(trained.run) / "eval.jsonl", line)
        if evaluation.value is not None:
            print(evaluation.in_words(), file=sys.stderr)
    accelerator.wait_for_everyone()


def evaluations(
    trained: TrainedModel,
    sampling: SamplingArguments,
    arguments: EvaluationArguments,
    accelerator: Accelerator,
    *,
    show_progress: bool = True,
) -> Iterator[tuple[Evaluation, dict[str, object]]]:
    """Sample and measure, one seed after the other.

    Yields:
        On the main process what was measured, and its whole record; on the others nothing.

    Raises:
        InputError: see `evaluate_to_json`.
        NonFiniteImagesError: see there.
    """
    # -- what is measured, and against what
    config = trained.config
    settings = sampler_settings(sampling, config)
    num_images = sampling.num_images or config.eval.num_images
    check_num_images(num_images, config.eval.distances)
    source = arguments.source or _find_extractor(trained, arguments, accelerator)
    evaluator = make_evaluator(
        config,
        source,
        device=accelerator.device,
        warn=warn,
        show_progress=show_progress and accelerator.is_main_process,
    )
    _check_enough(evaluator, num_images, arguments, accelerator)
    with failing_together(InputError):
        if accelerator.is_main_process:
            images = evaluator.trained_on(config)
            trained.check_images(images, allow_other_data=arguments.allow_other_data)
            for note in sampler_notes(settings, config.diffusion):
                warn(note)
    labels = _labels(trained, sampling, evaluator, accelerator)
    # -- what does not depend on the seed of the samples
    extra: dict[str, object] = {}
    if arguments.held_out_loss or HELD_OUT_LOSS in config.eval.metrics:
        with failing_together(InputError):
            held_out = make_held_out_loss(config, show_progress=accelerator.is_main_process)
        extra = held_out.measure(trained.model, accelerator)
    # -- one seed after the other
    batch_size = min(sampling.batch_size or config.sample.batch_size, num_images)
    for seed in range(settings.seed, settings.seed + arguments.num_repeats):
        sampler = make_sampler(
            trained.model,
            config,
            replace(settings, seed=seed),
            batch_size=batch_size,
            device=accelerator.device,
            labels=labels,
        )
        with advice_on_batch_size(batch_size):
            evaluation = evaluator.measure(sampler, num_images, accelerator)
        if evaluation is not None:
            evaluation = replace(evaluation, values={**evaluation.values, **extra})
            yield evaluation, {**evaluation.record(), **_origin(trained)}


def _labels(
    trained: TrainedModel,
    sampling: SamplingArguments,
    evaluator: Evaluator,
    accelerator: Accelerator,
) -> ClassLabels | None:
    """Return the classes of a conditional network's samples: as asked, or as in the data."""
    config = trained.config
    chosen = chosen_labels(sampling.class_labels, config, trained.class_names)
    if chosen is not None or not config.is_conditional:
        return chosen
    found: list[ClassLabels | None] = [None]
    with failing_together(InputError):
        if accelerator.is_main_process:
            found = [as_in(evaluator.training_images, config)]
    return broadcast_object_list(found)[0]


def _find_extractor(
    trained: TrainedModel, arguments: EvaluationArguments, accelerator: Accelerator
) -> ExtractorSource:
    # the main process alone downloads, where that is allowed
    return main_process_first(
        accelerator,
        lambda: choose_extractor(
            trained.config.eval,
            arguments.extractor,
            arguments.weights,
            allow_download=arguments.download_weights,
        ),
    )


def _check_enough(
    evaluator: Evaluator,
    num_images: int,
    arguments: EvaluationArguments,
    accelerator: Accelerator,
) -> None:
    """Refuse what no covariance can be estimated from; warn of what is compared with care only."""
    if not evaluator.is_comparable(num_images) and not arguments.allow_few_images:
        raise InputError(
            f"--num_images {num_images}: {evaluator.extractor.source.label} has "
            f"{evaluator.num_features} features and needs as many images; --allow_few_images "
            "measures anyway, comparable with nothing"
        )
    if num_images < COMPARABLE_IMAGES and accelerator.is_main_process:
        warn(f"{num_images} images: compare only with numbers from as many, and look at the floor")


def _origin(trained: TrainedModel) -> dict[str, object]:
    return {
        "weights": trained.weights,
        "weights_sha256": trained.sha256,
        "step": trained.step,
        "versions": versions(),
    }
