"""Evaluation from the command line: a trained run in, one JSON line a seed out."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import Accelerator

from uvit_dia.cli import SamplingArguments
from uvit_dia.data.sources import load_training_images
from uvit_dia.evaluation.evaluator import evaluate, make_references
from uvit_dia.evaluation.extractors import Extractor, ExtractorSource, find_extractor
from uvit_dia.evaluation.metrics import COMPARABLE_IMAGES, check_num_images
from uvit_dia.runs.folder import versions
from uvit_dia.runs.trained_model import TrainedModel, find_checkpoint, load_trained
from uvit_dia.sampling.run import advice_on_batch_size, warn
from uvit_dia.sampling.sampler import make_sampler
from uvit_dia.sampling.schedulers import sampler_facts, sampler_settings
from uvit_dia.system.accelerator import make_accelerator
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import append_line


@dataclass(frozen=True)
class EvaluationArguments:
    """What an evaluation is told beside the sampling; None stands for what the run's config says.

    Attributes:
        extractor: name of the feature extractor.
        weights: path of the Inception weights.
        download_weights: whether missing Inception weights are downloaded.
        allow_few_images: whether fewer images than the extractor has features are accepted.
        num_repeats: how many seeds, from the first on, are measured one after the other.
    """

    extractor: str | None
    weights: str | None
    download_weights: bool
    allow_few_images: bool
    num_repeats: int


def evaluate_to_json(sampling: SamplingArguments, arguments: EvaluationArguments) -> None:
    """Evaluate a run; print one JSON line for each seed and append it to the run's `eval.jsonl`.

    Raises:
        InputError: if something does not fit; found before any sampling starts.
        NonFiniteImagesError: if the sampler ends in values that are not finite; nothing is appended for that seed.
    """
    accelerator = make_accelerator()
    trained = load_trained(
        find_checkpoint(sampling.checkpoint, warn),
        use_ema=sampling.use_ema,
        device=accelerator.device,
    )
    config = trained.config
    settings = sampler_settings(sampling, trained.config)
    num_images = sampling.num_images or config.eval.num_images
    check_num_images(num_images, config.eval.metrics)
    source = _find_extractor(trained, arguments, accelerator)
    extractor = Extractor(source, accelerator.device)
    images = load_training_images(config, show_progress=accelerator.is_main_process)
    num_features = extractor.features(images.images[:1])[extractor.feature_layer].shape[1]
    _check_num_images(num_images, num_features, source, arguments, accelerator)
    reference, held_out = make_references(config, extractor, images, accelerator, warn)
    batch_size = min(sampling.batch_size or config.sample.batch_size, num_images)
    for seed in range(settings.seed, settings.seed + arguments.num_repeats):
        repeat = replace(settings, seed=seed)
        with advice_on_batch_size(batch_size):
            values = evaluate(
                make_sampler(
                    trained.model, config, repeat, batch_size=batch_size, device=accelerator.device
                ),
                extractor,
                reference,
                held_out,
                num_images=num_images,
                names=config.eval.metrics,
                accelerator=accelerator,
                show_progress=True,
            )
        if accelerator.is_main_process:
            facts = {
                "comparable": num_images >= num_features,
                "extractor": source.label,
                "extractor_sha256": source.sha256,
                "reference": reference.name,
                "reference_sha256": reference.fingerprint,
                "reference_num_images": len(reference),
                **sampler_facts(repeat),
                "batch_size": batch_size,
            }
            _report(values, facts, trained)
    accelerator.wait_for_everyone()


def _find_extractor(
    trained: TrainedModel, arguments: EvaluationArguments, accelerator: Accelerator
) -> ExtractorSource:
    """Find the extractor of the command line, or of the run's config, and check its file."""
    configured = trained.config.eval
    name = arguments.extractor or configured.extractor
    weights = arguments.weights
    if weights is None:
        weights = configured.weights if name == configured.extractor else ""
    with accelerator.main_process_first():  # which alone downloads, where that is allowed
        return find_extractor(name, weights, allow_download=arguments.download_weights)


def _check_num_images(
    num_images: int,
    num_features: int,
    source: ExtractorSource,
    arguments: EvaluationArguments,
    accelerator: Accelerator,
) -> None:
    """Refuse what no covariance can be estimated from, and warn of what is compared with care only."""
    if num_images < num_features and not arguments.allow_few_images:
        raise InputError(
            f"--num_images {num_images}: {source.label} has {num_features} features and needs as many images; "
            "--allow_few_images measures anyway, comparable with nothing"
        )
    if num_images < COMPARABLE_IMAGES and accelerator.is_main_process:
        warn(f"{num_images} images: compare only with numbers from as many, and look at the floor")


def _report(values: dict[str, object], facts: dict[str, object], trained: TrainedModel) -> None:
    """Print one result as a JSON line, append it to the run's `eval.jsonl`, and say it in words on stderr."""
    metric = next((m for m in ("fid", "fd") if m in values), None)
    value = None if metric is None else values[metric]
    origin = {"weights": trained.weights, "weights_sha256": trained.sha256, "step": trained.step}
    result = {"metric": metric, "value": value, **values, **facts, **origin, "versions": versions()}
    line = json.dumps(result, allow_nan=False)
    print(line, flush=True)
    if trained.run is not None:
        append_line(Path(trained.run) / "eval.jsonl", line)
    if metric is not None:
        print(
            f"{metric}@{values['num_images']} = {value:.4g}, floor of real images at "
            f"N = {values['floor_num_images']} ({values['floor_split']} split): {values['floor']:.4g}",
            file=sys.stderr,
        )
