"""The Frechet distance of the samples of a changed model, measured as `eval_fid.py` does."""

from dataclasses import replace

from accelerate import Accelerator

from uvit_dia.analysis.arguments import AnalysisArguments
from uvit_dia.cli import SamplingArguments
from uvit_dia.data.sources import load_training_images
from uvit_dia.evaluation.evaluator import evaluate, make_references
from uvit_dia.evaluation.extractors import Extractor, find_extractor
from uvit_dia.runs.trained_model import TrainedModel
from uvit_dia.sampling.run import warn
from uvit_dia.sampling.sampler import make_sampler
from uvit_dia.sampling.schedulers import sampler_facts, sampler_settings


class SampleDistance:
    """Samples from a model and measures them in the features of its run's extractor.

    Args:
        trained: the model; it may be changed between measurements.
        arguments: of the command line.
        accelerator: of this process.
        num_images: how many are sampled.

    Raises:
        InputError: if sampler or extractor do not fit.

    Attributes:
        images: the run's training images.
        metric: "fid" with Inception, else "fd".
        label: what pictures call it.
    """

    def __init__(
        self,
        trained: TrainedModel,
        arguments: AnalysisArguments,
        accelerator: Accelerator,
        *,
        num_images: int,
    ) -> None:
        config = trained.config
        self.settings = sampler_settings(
            SamplingArguments(
                checkpoint=arguments.checkpoint,
                num_images=num_images,
                sampler=arguments.sampler,
                num_steps=arguments.num_steps,
                seed=arguments.seed,
                batch_size=arguments.batch_size,
                use_ema=arguments.use_ema,
            ),
            config,
        )
        source = find_extractor(config.eval.extractor, config.eval.weights)
        self.metric = "fid" if source.is_inception else "fd"
        self.label = "FID" if source.is_inception else f"FD ({source.label})"
        self.images = load_training_images(config, show_progress=True)
        self._extractor = Extractor(source, accelerator.device)
        self._reference, self._held_out = make_references(
            config, self._extractor, self.images, accelerator, warn
        )
        self._trained = trained
        self._accelerator = accelerator
        self._num_images = num_images
        self._batch_size = min(arguments.batch_size or config.sample.batch_size, num_images)
        self._last: dict[str, object] = {}
        if not self.is_comparable:
            warn(
                f"{num_images} images are fewer than the {self.num_features} features of"
                f" {source.label}; compare these distances with each other only"
            )

    @property
    def num_features(self) -> int:
        """How many features the extractor gives an image."""
        return self._reference.features[self._extractor.feature_layer].shape[1]

    @property
    def is_comparable(self) -> bool:
        """Whether there are as many images as features, which a covariance needs."""
        return self._num_images >= self.num_features

    def measure(self, seed: int) -> float:
        """Sample with the model as it is now; return its distance to the training images."""
        settings = replace(self.settings, seed=seed)
        sampler = make_sampler(
            self._trained.model,
            self._trained.config,
            settings,
            batch_size=self._batch_size,
            device=self._accelerator.device,
        )
        self._last = evaluate(
            sampler,
            self._extractor,
            self._reference,
            self._held_out,
            num_images=self._num_images,
            names=("fid",),
            accelerator=self._accelerator,
            show_progress=True,
        )
        value = self._last[self.metric]
        assert isinstance(value, float)
        return value

    def facts(self) -> dict[str, object]:
        """Return what the last distance depends on, under the names that `eval_fid.py` gives."""
        source = self._extractor.source
        floor = ("floor", "floor_num_images", "floor_split", "nfe")
        return {
            "comparable": self.is_comparable,
            "extractor": source.label,
            "extractor_sha256": source.sha256,
            "reference": self._reference.name,
            "reference_sha256": self._reference.fingerprint,
            "reference_num_images": len(self._reference),
            **sampler_facts(self.settings),
            **{name: self._last[name] for name in floor},
        }
