"""Images that exist against a reference, without any model: `eval_fid.py --images --reference`."""

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from uvit_dia.config.schema import Config
from uvit_dia.data.images import ImageSet
from uvit_dia.data.latents import pixel_config
from uvit_dia.data.sources import load_test_images, load_training_images
from uvit_dia.evaluation.cache import Cache
from uvit_dia.evaluation.evaluation import Real
from uvit_dia.evaluation.evaluator import Evaluator
from uvit_dia.evaluation.existing_images import (
    RGB,
    ExistingImages,
    is_grey,
    read_images,
    with_channels,
)
from uvit_dia.evaluation.extractor_files import ExtractorSource, find_extractor
from uvit_dia.evaluation.extractors import Extractor
from uvit_dia.evaluation.image_inputs import ImageInput
from uvit_dia.evaluation.metrics import MIN_IMAGES, statistics_of
from uvit_dia.evaluation.real_images import RealImages
from uvit_dia.evaluation.real_statistics import RealStatistics
from uvit_dia.evaluation.statistics import Facts, Statistics, write_statistics
from uvit_dia.runs.folder import versions
from uvit_dia.system.accelerator import make_accelerator
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import sha256_file
from uvit_dia.system.memory import memory_advice
from uvit_dia.system.notices import warn
from uvit_dia.system.processes import main_process_first

OF_STATISTICS = ("fid", "isc")  # metrics that need no images of the reference
OTHER_TOOLS = (
    "the statistics do not say which extractor they are of. Those of pytorch-fid come from images "
    "that it resized in another way than torch-fidelity does: the distance compares with no other"
)


@dataclass(frozen=True)
class ScoreArguments:
    """What is measured, against what.

    Attributes:
        images: what is measured; None where only statistics are saved.
        reference: what it is measured against.
        save_stats: where the statistics of the reference are written; None for nowhere.
        extractor: name of the extractor.
        weights: path of its published weights; "" for torch-fidelity's place.
        source: the extractor's checked file, if it has been found already.
        batch_size: images at a time; None for that of the config, or 64.
        allow_few_images: whether fewer images than the extractor has features are accepted.
    """

    images: ImageInput | None
    reference: ImageInput
    save_stats: Path | None
    extractor: str
    weights: str
    source: ExtractorSource | None
    batch_size: int | None
    allow_few_images: bool


def score_to_json(arguments: ScoreArguments) -> None:
    """Measure images, print one JSON line, and save the statistics of the reference.

    Raises:
        InputError: if something does not fit; found before any feature is computed.
    """
    # -- what there is
    accelerator = make_accelerator()
    show = accelerator.is_main_process
    source = arguments.source or main_process_first(
        accelerator,
        lambda: find_extractor(arguments.extractor, arguments.weights, allow_download=True),
    )
    extractor = Extractor(source, accelerator.device)
    images = None
    if arguments.images is not None:
        images = read_images(arguments.images, show_progress=show)
    real, images = _real(arguments, extractor, images, show_progress=show)
    # -- measured
    with memory_advice("in an evaluation; give a lower --batch_size"):
        if images is not None:
            evaluator = _evaluator(arguments, extractor, real, images, show_progress=show)
            existing = ExistingImages(images, _batch_size(arguments))
            evaluation = evaluator.measure(existing, len(images), accelerator)
            if evaluation is not None:
                record = {**evaluation.record(), "versions": versions()}
                if isinstance(real, RealStatistics) and not record["reference_num_images"]:
                    record |= {"comparable": False, "reference_note": OTHER_TOOLS}
                    warn(OTHER_TOOLS)
                print(json.dumps(record, allow_nan=False), flush=True)
                print(evaluation.in_words(), file=sys.stderr)
        if arguments.save_stats is not None and accelerator.is_main_process:
            write_statistics(arguments.save_stats, _statistics(real, extractor))
            print(f"{arguments.save_stats}: statistics of {real.reference.name}", file=sys.stderr)
    accelerator.wait_for_everyone()


def _batch_size(arguments: ScoreArguments) -> int:
    config = arguments.reference.config
    return arguments.batch_size or (64 if config is None else config.sample.batch_size)


def _real(
    arguments: ScoreArguments,
    extractor: Extractor,
    images: ImageSet | None,
    *,
    show_progress: bool,
) -> tuple[Real, ImageSet | None]:
    """Return the reference, and the images with channels that it and the extractor take."""
    reference, config = arguments.reference, arguments.reference.config
    if reference.statistics is not None:
        statistics = reference.statistics
        sha256 = sha256_file(reference.path)
        real = RealStatistics(statistics, extractor, name=reference.path.stem, sha256=sha256)
        _check_width(statistics, extractor, images)
        return real, images and with_channels(images, _channels(extractor, images))
    if config is not None:
        config = pixel_config(config)
        train = load_training_images(config, show_progress=show_progress)
        batch_size, test = config.eval.batch_size, _test_images(config, show_progress)
        channels = config.model.in_chans
    else:
        train = read_images(reference, show_progress=show_progress)
        batch_size, test = _batch_size(arguments), _no_test_images
        channels = _channels(extractor, train, *([] if images is None else [images]))
        train = with_channels(train, channels)
    real_images = RealImages(
        extractor,
        lambda: train,
        test,
        batch_size=batch_size,
        cache=Cache.of_user(warn),
        show_progress=show_progress,
    )
    return real_images, images and with_channels(images, channels)


def _test_images(config: Config, show_progress: bool) -> Callable[[], ImageSet | None]:
    return lambda: load_test_images(config, show_progress=show_progress)


def _no_test_images() -> None:
    return None


def _channels(extractor: Extractor, *sets: ImageSet) -> int:
    """Return 1 where all images are grey and the extractor takes such, else 3."""
    if all(map(is_grey, sets)):
        side = sets[0].images.shape[-2:]
        with suppress(InputError):
            extractor.features(torch.zeros(1, 1, *side, dtype=torch.uint8))
            return 1
    return RGB


def _check_width(statistics: Statistics, extractor: Extractor, images: ImageSet | None) -> None:
    """Refuse statistics of another dimension than the extractor's features."""
    if images is None:
        return
    fitted = with_channels(images, _channels(extractor, images))
    width = extractor.features(fitted.images[:1])[extractor.feature_layer].shape[1]
    if width != len(statistics.mu):
        raise InputError(
            f"--reference: statistics of {len(statistics.mu)} features; the extractor "
            f"{extractor.source.label} has {width}"
        )


def _evaluator(
    arguments: ScoreArguments,
    extractor: Extractor,
    real: Real,
    images: ImageSet,
    *,
    show_progress: bool,
) -> Evaluator:
    """Make the evaluator; refuse what it could not measure."""
    config = arguments.reference.config
    names = tuple(MIN_IMAGES) if config is None else config.eval.distances
    if isinstance(real, RealStatistics):
        names = tuple(name for name in names if name in OF_STATISTICS)
    evaluator = Evaluator(
        extractor,
        real,
        names=names,
        shape=images.shape,
        show_progress=show_progress,
    )
    sets = {"--images": len(images)}
    if isinstance(real, RealImages):
        sets["--reference"] = len(real.images)
    for flag, count in sets.items():
        needed = max(2, *(MIN_IMAGES[name] for name in names))
        if count < needed:
            raise InputError(f"{flag}: {count} images; these metrics need at least {needed}")
        if not evaluator.is_comparable(count) and not arguments.allow_few_images:
            raise InputError(
                f"{flag}: {count} images; {extractor.source.label} has {evaluator.num_features} "
                "features and needs as many; --allow_few_images measures anyway, comparable with "
                "nothing"
            )
    return evaluator


def _statistics(real: Real, extractor: Extractor) -> Statistics:
    """Return mean and covariance of the reference's features, and whose they are."""
    reference, layer = real.reference, extractor.feature_layer
    found = statistics_of(reference.features[layer])
    if isinstance(real, RealStatistics) and len(reference) == 0:
        return Statistics(found["mu"], found["sigma"], None)
    facts = Facts(
        extractor=extractor.source.label,
        extractor_sha256=extractor.source.sha256,
        layer=layer,
        reference=reference.name,
        reference_sha256=reference.fingerprint,
        num_images=len(reference),
    )
    return Statistics(found["mu"], found["sigma"], facts)
