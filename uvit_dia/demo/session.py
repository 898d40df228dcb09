"""The models of a page, and what a visitor may wish of them."""

import threading
from collections.abc import Generator, Sequence
from itertools import zip_longest
from pathlib import Path

import torch

from uvit_dia.config.sampling import ALL_SAMPLERS
from uvit_dia.config.schema import SampleConfig
from uvit_dia.demo.shown_model import ShownModel
from uvit_dia.demo.unfolding import Frame, expected_calls, stride, unfold
from uvit_dia.demo.wish import IN_TURN, Wish, in_the_pages_words
from uvit_dia.runs.open_model import open_model
from uvit_dia.sampling.probe import sampler_notes
from uvit_dia.sampling.sampler import make_sampler
from uvit_dia.system.errors import InputError


class Session:
    """The models of a page, which sample from the same noise; safe to use from several threads.

    Args:
        models: one or two.

    Raises:
        InputError: if two models cannot share noise, a sampler or their classes.
    """

    def __init__(self, models: Sequence[ShownModel]) -> None:
        self.models = tuple(models)
        self._lock = threading.Lock()  # of the networks: one computes at a time
        shapes = {model.shape for model in models}
        if len(shapes) > 1:
            told = " and ".join("x".join(map(str, model.shape)) for model in models)
            raise InputError(f"demo: these models make images of {told}; both need the same size")
        if not self.samplers:
            raise InputError(
                "demo: no sampler fits both models: one was trained with flow matching, the other "
                "was not; show each on a page of its own"
            )
        named = [model.class_names for model in models if model.class_names]
        if any(names != named[0] for names in named):
            raise InputError("demo: these models are told different classes; show one at a time")

    @property
    def samplers(self) -> list[str]:
        """The samplers that fit every model."""
        return [name for name in ALL_SAMPLERS if all(model.fits(name) for model in self.models)]

    @property
    def class_names(self) -> list[str]:
        """What classes are called; empty if no model is told any."""
        return next((model.class_names for model in self.models if model.class_names), [])

    @property
    def can_guide(self) -> bool:
        """Whether a model knows "no class", which guidance needs."""
        return any(model.trained.config.null_class is not None for model in self.models)

    @property
    def first_wish(self) -> Wish:
        """What the page begins with: the sampler of the first model's config."""
        sample = self.models[0].trained.config.sample
        sampler = sample.sampler if sample.sampler in self.samplers else self.samplers[0]
        return Wish(
            sampler=sampler,
            num_steps=sample.num_steps,
            seed=sample.seed,
            num_images=16,
            class_name=IN_TURN if self.class_names else None,
            guidance_scale=sample.guidance_scale if self.can_guide else None,
        )

    def settings(self, wish: Wish) -> list[SampleConfig]:
        """Check a wish; return the settings of each model's sampler.

        Raises:
            InputError: in the page's words: the field, what was found and what is allowed.
        """
        try:
            return [model.settings(wish) for model in self.models]
        except InputError as error:
            raise InputError(in_the_pages_words(str(error))) from error

    def notes(self, wish: Wish) -> list[str]:
        """Return what a visitor should know of a wish's sampler, one line each; mostly nothing."""
        found = [
            note
            for settings, model in zip(self.settings(wish), self.models, strict=True)
            for note in sampler_notes(settings, model.trained.config.diffusion)
        ]
        return [in_the_pages_words(note) for note in dict.fromkeys(found)]

    def num_frames(self, wish: Wish) -> int:
        """Return about how many frames a wish will have, the images at the end among them."""
        settings = self.settings(wish)[0]
        calls = expected_calls(settings.sampler, settings.num_steps)
        return -(-calls // stride(settings.sampler, settings.num_steps)) + 1

    def unfold(self, wish: Wish, stop: threading.Event) -> Generator[list[Frame]]:
        """Sample, and yield what is seen: for each model its newest frame.

        Args:
            wish: of the visitor.
            stop: ends it, once set.

        Raises:
            InputError: see `settings`.
            NonFiniteImagesError: if the sampler ends in values that are not finite.
        """
        runs = [
            self._unfold(model, settings, wish, stop)
            for model, settings in zip(self.models, self.settings(wish), strict=True)
        ]
        newest: list[Frame] = []
        try:
            for frames in zip_longest(*runs):
                # a sampler whose calls are fewer waits with its images
                newest = [f or newest[place] for place, f in enumerate(frames)]
                yield list(newest)
        finally:
            for run in runs:
                run.close()

    def _unfold(
        self, model: ShownModel, settings: SampleConfig, wish: Wish, stop: threading.Event
    ) -> Generator[Frame]:
        trained, num_images = model.trained, wish.num_images
        assert num_images is not None  # `settings` has seen to it
        sampler = make_sampler(
            trained.model,
            trained.config,
            settings,
            batch_size=num_images,
            device=trained.model.device,
            labels=model.labels(wish),
        )
        yield from unfold(
            sampler,
            trained.model,
            num_images=num_images,
            diffusion=trained.config.diffusion,
            lock=self._lock,
            stop=stop,
        )

    def labels(self, wish: Wish) -> torch.Tensor | None:
        """Return the classes of a wish's images, (N,) int64; None if no model is told any."""
        model = next((each for each in self.models if each.class_names), None)
        if model is None or wish.num_images is None:
            return None
        labels = model.labels(wish)
        return None if labels is None else labels.of(range(wish.num_images))


def open_session(
    paths: Sequence[Path], *, device: torch.device | str, use_ema: bool = True
) -> Session:
    """Load the models of a page.

    Args:
        paths: of runs, step folders or exported folders, as `find_source` found them.
        device: where they run.
        use_ema: whether the averaged weights of runs are used.

    Raises:
        InputError: if one cannot be loaded, or two do not go together.
    """
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    models = [
        ShownModel(name, open_model(path, use_ema=use_ema, device=device, flag="demo"))
        for name, path in zip(names, paths, strict=True)
    ]
    return Session(models)
