"""Evaluation from the command line: a trained run in, one JSON line out."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from uvit_dia.build import load_images, make_accelerator, make_references, make_sampler
from uvit_dia.cli import SamplingArguments
from uvit_dia.errors import InputError
from uvit_dia.evaluation import evaluate
from uvit_dia.extractors import Extractor, find_extractor
from uvit_dia.inference import TrainedModel, find_checkpoint, load_trained
from uvit_dia.metrics import COMPARABLE_IMAGES
from uvit_dia.run_folder import versions
from uvit_dia.sampling_run import sampler_settings, warn


@dataclass(frozen=True)
class EvaluationArguments:
    """What an evaluation is told beside the sampling; None stands for what the run's config says.

    Attributes:
        extractor: name of the feature extractor.
        weights: path of the Inception weights.
        download_weights: whether missing Inception weights are downloaded.
        allow_few_images: whether fewer images than the extractor has features are accepted.
    """

    extractor: str | None
    weights: str | None
    download_weights: bool
    allow_few_images: bool


def evaluate_to_json(sampling: SamplingArguments, arguments: EvaluationArguments) -> None:
    """Evaluate a run, print one JSON line and append it to the run's `eval.jsonl`.

    Raises:
        InputError: if something does not fit; found before any sampling starts.
    """
    checkpoint = find_checkpoint(sampling.checkpoint, warn)
    accelerator = make_accelerator()
    trained = load_trained(checkpoint, use_ema=sampling.use_ema, device=accelerator.device)
    config = trained.config
    settings = sampler_settings(sampling, trained)
    name = arguments.extractor or config.eval.extractor
    weights = arguments.weights
    if weights is None:
        weights = config.eval.weights if name == config.eval.extractor else ""
    with accelerator.main_process_first():
        source = find_extractor(name, weights, allow_download=arguments.download_weights)
    num_images = sampling.num_images or config.eval.num_images
    if num_images < 2:
        raise InputError(f"--num_images {num_images}: a distance needs at least 2")
    extractor = Extractor(source, accelerator.device)
    images = load_images(config, "train", show_progress=accelerator.is_main_process)
    reference, held_out = make_references(config, extractor, images, accelerator, warn)
    num_features = reference.features[extractor.feature_layer].shape[1]
    if num_images < num_features and not arguments.allow_few_images:
        raise InputError(
            f"--num_images {num_images}: {source.name} has {num_features} features and needs at least as many images; "
            "--allow_few_images measures anyway, comparable with nothing"
        )
    if num_images < COMPARABLE_IMAGES and accelerator.is_main_process:
        warn(
            f"{num_images} images: compare only with numbers from as many images, and look at the floor"
        )
    batch_size = min(sampling.batch_size or config.sample.batch_size, num_images)
    values = evaluate(
        make_sampler(
            trained.model, config, settings, batch_size=batch_size, device=accelerator.device
        ),
        extractor,
        reference,
        held_out,
        num_images=num_images,
        names=tuple(config.eval.metrics),
        accelerator=accelerator,
        show_progress=True,
    )
    if accelerator.is_main_process:
        main_metric = next((m for m in ("fid", "fd") if m in values), None)
        line = json.dumps(
            {
                "metric": main_metric,
                "value": values.get(main_metric),
                **values,
                "comparable": num_images >= num_features,
                "extractor": source.name.split(":")[0]
                if source.name.startswith("pt2:")
                else source.name,
                "extractor_sha256": source.sha256,
                "reference": reference.name,
                "reference_sha256": reference.fingerprint,
                "reference_num_images": len(reference),
                **settings.as_dict(),
                "batch_size": batch_size,
                **_origin(trained),
                "versions": versions(),
            },
            allow_nan=False,
        )
        print(line, flush=True)
        if trained.run is not None:
            with (Path(trained.run) / "eval.jsonl").open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        if main_metric is not None:
            print(
                f"{main_metric}@{num_images} = {values[main_metric]:.4g}, floor of real images at "
                f"N = {values['floor_num_images']} ({values['floor_split']} split): {values['floor']:.4g}",
                file=sys.stderr,
            )
    accelerator.wait_for_everyone()


def _origin(trained: TrainedModel) -> dict[str, object]:
    return {"weights": trained.weights, "weights_sha256": trained.sha256, "step": trained.step}
