"""One evaluator for training, eval_fid.py, analyses and sweeps: images in, a record out.

What does not depend on the images is computed once (`real_images.py`). Images are asked for by
index, so that every process has its share: whatever gives images by index can be measured, a
sampler as well as images that exist.
"""

import time
from collections.abc import Iterator
from contextlib import closing
from functools import cached_property
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from uvit_dia.config.schema import Config
from uvit_dia.data.images import ImageSet
from uvit_dia.data.latents import check_source, pixel_config
from uvit_dia.data.sources import load_test_images, load_training_images
from uvit_dia.evaluation.cache import Cache, Features, Warn
from uvit_dia.evaluation.evaluation import Evaluation, Images, Real
from uvit_dia.evaluation.extractor_files import ExtractorSource
from uvit_dia.evaluation.extractors import Extractor
from uvit_dia.evaluation.features import extract
from uvit_dia.evaluation.floor import Floor
from uvit_dia.evaluation.gather import gather_features
from uvit_dia.evaluation.metrics import check_num_images, compute_metrics, frechet_distance
from uvit_dia.evaluation.real_images import RealImages
from uvit_dia.sampling.sampler import share_of_rank
from uvit_dia.system.errors import InputError, NonFiniteImagesError
from uvit_dia.system.processes import failing_together
from uvit_dia.system.progress import progress_bar

FRECHET = "fid"  # the metric that floor and mark belong to, under its name in a config


class Evaluator:
    """Measures images against a training set.

    Args:
        extractor: gives the features.
        real: the training set and its test split, or what stands for them.
        names: metrics, see `compute_metrics`.
        shape: (C, H, W) of an image.
        show_progress: whether a bar counts the images.
    """

    def __init__(
        self,
        extractor: Extractor,
        real: Real,
        *,
        names: tuple[str, ...],
        shape: tuple[int, int, int],
        show_progress: bool,
    ) -> None:
        self.extractor = extractor
        self.real = real
        self._names = names
        self._shape = shape
        self._show_progress = show_progress

    @property
    def metric(self) -> str | None:
        """The name of the Frechet distance in results; None where it is not asked for."""
        return self.extractor.source.frechet_name if FRECHET in self._names else None

    @property
    def training_images(self) -> ImageSet:
        """The training images of the run that this evaluator is of; of latents their pixels."""
        assert isinstance(self.real, RealImages)
        return self.real.images

    def trained_on(self, config: Config) -> ImageSet:
        """Return what a run trained on, pixels or latents, for `TrainedModel.check_images`."""
        if not config.is_latent:
            return self.training_images
        return load_training_images(config, show_progress=self._show_progress)

    @cached_property
    def num_features(self) -> int:
        """How many features an image has; an extractor that does not take such images is refused.

        Raises:
            InputError: if the extractor does not fit the images.
        """
        black = torch.zeros(1, *self._shape, dtype=torch.uint8)
        return self.extractor.features(black)[self.extractor.feature_layer].shape[1]

    def is_comparable(self, num_images: int) -> bool:
        """Say whether there are as many images as features, which a covariance needs."""
        return num_images >= self.num_features

    def measure(
        self, images: Images, num_images: int, accelerator: Accelerator
    ) -> Evaluation | None:
        """Measure images 0 .. num_images - 1; call it on all processes, each does its share.

        Args:
            images: which.
            num_images: N.
            accelerator: the processes.

        Returns:
            On the main process what was measured; None elsewhere.

        Raises:
            InputError: on all processes, if N is too small, or real images cannot be read.
            NonFiniteImagesError: on all processes, if one of them sampled non-finite values.
        """
        check_num_images(num_images, self._names)
        # -- what the images are compared with, before hours of sampling
        marks: dict[str, object] = {}
        with failing_together(InputError):
            if accelerator.is_main_process:
                marks = self._marks(num_images)
        # -- features of the images
        started = time.monotonic()
        features = self._features_of(images, num_images, accelerator)
        if not accelerator.is_main_process:
            return None
        # -- distances
        real = self.real.reference.features
        values: dict[str, object] = {**compute_metrics(features, real, self.extractor, self._names)}
        values.update(marks)
        if fewer := marks.get("matched_num_images"):
            layer = self.extractor.feature_layer
            values["matched_value"] = frechet_distance(features[layer][:fewer], real[layer])
        values["num_images"] = num_images
        if images.nfe is not None:
            values["nfe"] = images.nfe
        values["seconds"] = round(time.monotonic() - started, 3)
        return Evaluation(self.metric, values, self._facts(images, num_images))

    def _marks(self, num_images: int) -> dict[str, Any]:
        """Return floor and mark, which belong to the Frechet distance."""
        if FRECHET not in self._names:
            return Floor.missing("no floor: no Frechet distance was asked for").as_dict()
        floor = self.real.floor(num_images)
        marks = {**floor.as_dict(), **self.real.gaussian_mark(num_images)}
        smaller = None if floor.value is not None else self.real.smaller_floor(num_images)
        if smaller is not None:
            marks |= {f"matched_{name}": value for name, value in smaller.as_dict().items()}
            marks["matched_num_images"] = marks.pop("matched_floor_num_images")
        return marks

    def _features_of(self, images: Images, num_images: int, accelerator: Accelerator) -> Features:
        """Extract the features of this process's share; return those of all on the main process."""
        rank, ranks = accelerator.process_index, accelerator.num_processes
        share = share_of_rank(num_images, images.batch_size, rank, ranks)
        bar = progress_bar(
            total=num_images,
            unit="image",
            desc="measuring" if images.nfe is None else "sampling",
            leave=False,
            disable=not (self._show_progress and accelerator.is_main_process),
        )

        def batches() -> Iterator[Tensor]:
            for indices, part in images.sample(share):
                yield part
                bar.update(len(indices) * ranks)

        with failing_together(NonFiniteImagesError), closing(bar):
            features = extract(self.extractor, batches()) if share else {}
        layers = self.extractor.layers
        return gather_features(features, layers, num_images, images.batch_size, accelerator)

    def _facts(self, images: Images, num_images: int) -> dict[str, object]:
        source, reference = self.extractor.source, self.real.reference
        return {
            "comparable": self.is_comparable(num_images),
            "extractor": source.label,
            "extractor_sha256": source.sha256,
            "reference": reference.name,
            "reference_sha256": reference.fingerprint,
            "reference_num_images": len(reference) or None,  # of others' statistics not known
            **images.facts(),
        }


def make_evaluator(
    config: Config,
    source: ExtractorSource,
    *,
    device: torch.device | str,
    warn: Warn,
    names: tuple[str, ...] | None = None,
    images: ImageSet | None = None,
    show_progress: bool = False,
) -> Evaluator:
    """Make the evaluator of a run.

    Args:
        config: of the run; its training images are the reference.
        source: the extractor's checked file.
        device: where the extractor runs.
        warn: called with one line where the cache is damaged or cannot be used.
        names: metrics; None for those of the config.
        images: the training images, if they are at hand; else they are read when needed. Those
            that latents were made of are always read.
        show_progress: whether bars are drawn.
    """
    extractor = Extractor(source, device)
    pixels = pixel_config(config)

    def load_train() -> ImageSet:
        if images is not None and not config.is_latent:
            return images
        found = load_training_images(pixels, show_progress=show_progress)
        check_source(config, "train", found)
        return found

    real = RealImages(
        extractor,
        load_train,
        lambda: load_test_images(pixels, show_progress=show_progress),
        batch_size=config.eval.batch_size,
        cache=Cache.of_user(warn),
        show_progress=show_progress,
    )
    model = pixels.model
    return Evaluator(
        extractor,
        real,
        names=config.eval.distances if names is None else names,
        shape=(model.in_chans, model.img_size, model.img_size),
        show_progress=show_progress,
    )
