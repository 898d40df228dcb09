"""The Frechet distance of samples, as `eval_fid.py` measures it, for a model that is changed."""

from dataclasses import replace

from accelerate import Accelerator

from uvit_dia.analysis.arguments import AnalysisArguments
from uvit_dia.cli import SamplingArguments
from uvit_dia.config.schema import Config, SampleConfig
from uvit_dia.data.images import ImageSet
from uvit_dia.evaluation.evaluation import Evaluation
from uvit_dia.evaluation.evaluator import make_evaluator
from uvit_dia.evaluation.extractor_files import choose_extractor
from uvit_dia.evaluation.real_images import RealImages
from uvit_dia.runs.trained_model import TrainedModel
from uvit_dia.sampling.guidance import as_in
from uvit_dia.sampling.probe import sampler_notes
from uvit_dia.sampling.sampler import make_sampler
from uvit_dia.sampling.schedulers import sampler_settings
from uvit_dia.system.notices import warn

MARKS = ("floor", "gaussian_mark", "matched")  # how the names of a record's marks begin


def chosen_settings(arguments: AnalysisArguments, config: Config, num_images: int) -> SampleConfig:
    """Return the sampler's settings of an analysis; what a user should know of them is told."""
    settings = sampler_settings(
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
    for note in sampler_notes(settings, config.diffusion):
        warn(note)
    return settings


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
        self._settings = chosen_settings(arguments, config, num_images)
        source = choose_extractor(config.eval)
        self.metric = source.frechet_name
        self.label = source.title
        self._evaluator = make_evaluator(
            config,
            source,
            device=accelerator.device,
            warn=warn,
            names=("fid",),
            show_progress=True,
        )
        trained.check_images(
            self._evaluator.trained_on(config), allow_other_data=arguments.allow_other_data
        )
        self._trained = trained
        self._accelerator = accelerator
        self._num_images = num_images
        self._batch_size = min(arguments.batch_size or config.sample.batch_size, num_images)
        self._last: Evaluation | None = None
        if not self._evaluator.is_comparable(num_images):
            warn(
                f"{num_images} images are fewer than the {self._evaluator.num_features} features "
                f"of {source.label}; compare these distances with each other only"
            )

    @property
    def images(self) -> ImageSet:
        """The run's training images."""
        assert isinstance(self._evaluator.real, RealImages)  # a run has its training images
        return self._evaluator.real.images

    def measure(self, seed: int) -> float:
        """Sample with the model as it is now; return its distance to the training images."""
        sampler = make_sampler(
            self._trained.model,
            self._trained.config,
            replace(self._settings, seed=seed),
            batch_size=self._batch_size,
            device=self._accelerator.device,
            labels=as_in(self.images, self._trained.config),
        )
        self._last = self._evaluator.measure(sampler, self._num_images, self._accelerator)
        assert self._last is not None and self._last.value is not None  # analyses have one process
        return self._last.value

    def facts(self) -> dict[str, object]:
        """Return what the distances depend on, under the names of `eval_fid.py`.

        Call it after `measure`. The batch size is left out: analyses have one of their own.
        """
        assert self._last is not None
        record = self._last.record()
        marks = {name: value for name, value in record.items() if name.startswith(MARKS)}
        facts = {name: value for name, value in self._last.facts.items() if name != "batch_size"}
        return {**facts, **marks, "nfe": record["nfe"]}
