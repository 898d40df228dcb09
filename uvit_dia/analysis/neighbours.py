"""The training images nearest to samples, in pixels and in features: has the network copied them?

A sample near to a training image is no copy for that alone: unseen real images lie near some, too.
So the distance of each sample to its nearest training image is set beside that of held-out images
(Meehan et al. 2020, arXiv:2004.05675), or, where none are held out, that of each training image to
the nearest other one. The number that sums it up is the share of pairs (sample, unseen image) in
which the sample is the nearer one: 0.5 if samples are like unseen images, 1 if all are copies.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from uvit_dia.analysis.arguments import AnalysisArguments
from uvit_dia.analysis.neighbours_figure import draw_neighbours
from uvit_dia.analysis.result import AnalysisResult
from uvit_dia.analysis.sample_distance import chosen_settings
from uvit_dia.analysis.subject import checkpoint_facts
from uvit_dia.data.latents import pixel_config
from uvit_dia.data.sources import load_test_images
from uvit_dia.evaluation.cache import Features
from uvit_dia.evaluation.evaluator import Evaluator, make_evaluator
from uvit_dia.evaluation.extractor_files import ExtractorSource, choose_extractor
from uvit_dia.evaluation.features import extract
from uvit_dia.evaluation.real_images import RealImages
from uvit_dia.plots.parts import quantiles
from uvit_dia.rng import permutation
from uvit_dia.runs.trained_model import TrainedModel
from uvit_dia.sampling.guidance import as_in
from uvit_dia.sampling.sampler import ImageSampler, make_sampler
from uvit_dia.system.errors import InputError
from uvit_dia.system.notices import warn
from uvit_dia.system.progress import progress_bar

DEFAULT_NUM_IMAGES = 500
NUM_NEIGHBOURS = 5
CHUNK = 4096  # training images that are looked at in one go
GREY_LEVELS = 255
TITLE = "Samples, and the training images nearest to them"
HOW_TO_READ = (
    "Above: a row a sample, those first that lie nearest to a training image. Below: distance to "
    "the nearest training image, of all samples and of {what}. Curves that agree are no sign of "
    "copies; samples that lie further left are nearer than real images that were not copied."
)


@dataclass(frozen=True)
class Nearest:
    """The nearest training images of some images.

    Attributes:
        distances: (n, k) float32, rising.
        indices: (n, k) int64, into the training set.
    """

    distances: Tensor
    indices: Tensor


def nearest(points: Tensor, training: Tensor, k: int, *, own: Tensor | None = None) -> Nearest:
    """Find the k nearest training points by Euclidean distance.

    Args:
        points: (n, d) float32.
        training: (N, d) of any type, which is read chunk by chunk.
        k: at most N, or N - 1 with `own`.
        own: (n,) which training point each point is itself; that one is passed over.
    """
    best = torch.full((len(points), k), torch.inf)
    where = torch.zeros(len(points), k, dtype=torch.long)
    for start in range(0, len(training), CHUNK):
        chunk = training[start : start + CHUNK].float()
        # without the shortcut by products, whose rounding would hide exact copies
        found = torch.cdist(points, chunk, compute_mode="donot_use_mm_for_euclid_dist")
        if own is not None:
            column = own - start
            inside = (column >= 0) & (column < len(chunk))
            found[inside.nonzero()[:, 0], column[inside]] = torch.inf
        places = torch.arange(start, start + len(chunk)).expand(len(points), -1)
        both = torch.cat((best, found), dim=1), torch.cat((where, places), dim=1)
        best, order = both[0].topk(k, dim=1, largest=False, sorted=True)
        where = both[1].gather(1, order)
    return Nearest(best, where)


def nearer_share(samples: Tensor, unseen: Tensor) -> float:
    """Return the share of pairs in which the sample is nearer; a tie counts half.

    Args:
        samples: (n,) distances to the nearest training image.
        unseen: (m,) those of images that were not trained on.
    """
    ordered = unseen.sort().values.contiguous()
    below = torch.searchsorted(ordered, samples.contiguous(), right=False)
    up_to = torch.searchsorted(ordered, samples.contiguous(), right=True)
    return float(1 - (below + up_to).double().mean() / (2 * len(ordered)))


def analyse_neighbours(
    arguments: AnalysisArguments, trained: TrainedModel, accelerator: Accelerator
) -> AnalysisResult:
    """Sample from a run and look for the training images nearest to the samples.

    Raises:
        InputError: if sampler, extractor or images do not fit.
    """
    config = trained.config
    count = arguments.num_images or DEFAULT_NUM_IMAGES
    source = choose_extractor(config.eval)
    evaluator = make_evaluator(
        config, source, device=accelerator.device, warn=warn, names=("fid",), show_progress=True
    )
    real = _real_images(evaluator)
    training = real.images
    trained.check_images(evaluator.trained_on(config), allow_other_data=arguments.allow_other_data)
    batch_size = min(arguments.batch_size or config.sample.batch_size, count)
    sampler = make_sampler(
        trained.model,
        config,
        chosen_settings(arguments, config, count),
        batch_size=batch_size,
        device=accelerator.device,
        labels=as_in(training, config),
    )
    samples = _sample(sampler, count)
    # -- images that were not trained on, or training images without themselves
    held_out = load_test_images(pixel_config(config), show_progress=True)
    everything = training.images.cpu()
    pool = everything if held_out is None else held_out.images.cpu()
    chosen = permutation(arguments.seed, "neighbours", 0, len(pool))[:count]
    own = chosen if held_out is None else None
    of_training = real.reference.features
    values = {
        "pixels": _in_pixels(samples, pool[chosen], everything, own),
        "features": _in_features(samples, pool[chosen], of_training, own, evaluator, batch_size),
    }
    values["features"]["identical"] = values["pixels"]["identical"]  # features round by the batch
    what = "training images, themselves left out" if held_out is None else "held-out images"
    sentence = HOW_TO_READ.format(what=what)
    return AnalysisResult(
        title=TITLE,
        how_to_read=sentence,
        summary=_summary(values, what),
        facts={
            **checkpoint_facts(trained),
            **sampler.facts(),
            "num_images": count,
            "num_compared": len(chosen),
            "compared_with": what,
            "images": training.name,
            "images_sha256": training.fingerprint(),
            **_named(source),
        },
        values=dict(values),
        figure=draw_neighbours(
            samples, everything, values, compared=what, title=TITLE, sentence=sentence
        ),
    )


def _real_images(evaluator: Evaluator) -> RealImages:
    assert isinstance(evaluator.real, RealImages)  # a run has its training images
    if len(evaluator.real.images) <= NUM_NEIGHBOURS:
        raise InputError(f"neighbours needs more than {NUM_NEIGHBOURS} training images")
    return evaluator.real


def _summary(values: Mapping[str, Mapping[str, Any]], what: str) -> str:
    shares = [f"{record['nearer_share']:.0%} ({space})" for space, record in values.items()]
    return (
        f"samples are nearer to a training image than {what} in {' and '.join(shares)} of pairs; "
        "50% is no sign of copies"
    )


def _named(source: ExtractorSource) -> dict[str, object]:
    return {"extractor": source.name, "extractor_sha256": source.sha256}


def _sample(sampler: ImageSampler, count: int) -> Tensor:
    """Return so many samples, (count, C, H, W) uint8."""
    parts = []
    with progress_bar(total=count, unit="image", desc="sampling") as bar:
        for indices, images in sampler.sample(range(count)):
            parts.append(images)
            bar.update(len(indices))
    return torch.cat(parts)


def _in_pixels(
    samples: Tensor, unseen: Tensor, training: Tensor, own: Tensor | None
) -> dict[str, Any]:
    """Compare pixels; distances are root mean square differences of values in [0, 1]."""
    scale = samples[0].numel() ** -0.5 / GREY_LEVELS
    record = _record(samples.flatten(1), unseen.flatten(1), training.flatten(1), own, scale=scale)
    return {**record, "identical": int((record["distances"] == 0).sum())}


def _in_features(
    samples: Tensor,
    unseen: Tensor,
    training: Features,
    own: Tensor | None,
    evaluator: Evaluator,
    batch_size: int,
) -> dict[str, Any]:
    """Compare what the extractor makes of the images; `training` holds that already."""
    extractor = evaluator.extractor
    layer = extractor.feature_layer
    mine, others = (
        extract(extractor, images.split(batch_size))[layer].cpu() for images in (samples, unseen)
    )
    return _record(mine, others, training[layer].cpu(), own)


def _record(
    samples: Tensor, unseen: Tensor, training: Tensor, own: Tensor | None, *, scale: float = 1.0
) -> dict[str, Any]:
    """Return what a space says: distances of samples, and of images that were not copied.

    Args:
        samples: (n, d).
        unseen: (m, d).
        training: (N, d).
        own: (m,) which training image each unseen one is; None if it is none.
        scale: of the distances.
    """
    found = nearest(samples.float(), training, NUM_NEIGHBOURS)
    mine = found.distances[:, 0] * scale
    others = nearest(unseen.float(), training, 1, own=own).distances[:, 0] * scale
    return {
        "nearer_share": nearer_share(mine, others),
        "quantiles_5_25_50_75_95": quantiles(mine.numpy()),
        "compared_quantiles_5_25_50_75_95": quantiles(others.numpy()),
        "distances": mine.numpy(),
        "compared_distances": others.numpy(),
        "neighbours": found.indices.numpy(),
    }
