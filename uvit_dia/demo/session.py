"""The models that a page shows, and what its visitors may ask of them."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import torch

from uvit_dia.cli import SamplingArguments, check_sampling
from uvit_dia.config.checks import check_sampler_of_process
from uvit_dia.config.sampling import ALL_SAMPLERS
from uvit_dia.config.schema import Config
from uvit_dia.demo.unfolding import Moment, count_calls, unfold
from uvit_dia.demo.wish import Wish, given, in_words_of_the_page, whole
from uvit_dia.runs.open_model import open_model
from uvit_dia.runs.trained_model import TrainedModel
from uvit_dia.sampling.guidance import ALL, chosen_labels
from uvit_dia.sampling.sampler import make_sampler
from uvit_dia.sampling.schedulers import sampler_settings
from uvit_dia.system.errors import InputError

MAX_IMAGES = 64  # of one picture
MAX_CLASSES_IN_A_ROW = 10


@dataclass(frozen=True)
class ShownModel:
    """A model of the page.

    Attributes:
        trained: the model.
        name: of the folder that it came from.
        lock: held during each call of the network.
    """

    trained: TrainedModel
    name: str
    lock: threading.Lock

    @property
    def blocks(self) -> tuple[int, ...]:
        """Which blocks carry the unit; () for a model without one."""
        return tuple(self.trained.model.attention_blocks)

    @property
    def facts(self) -> str:
        """What it is, in one line."""
        config = self.trained.config
        unit = config.model.attention
        weights = sum(each.numel() for each in self.trained.model.parameters())
        parts = [
            "without a unit" if unit == "none" else f"unit {unit}",
            f"{weights:,} weights",
            f"{config.data.name}, {config.model.img_size} x {config.model.img_size}",
            self.trained.named_weights,
        ]
        return ", ".join(parts)

    def arguments(self, wish: Wish) -> SamplingArguments:
        """Return a wish as the arguments of `uvit-dia sample` that give the same images.

        Raises:
            InputError: for a value that no model could take.
        """
        config = self.trained.config
        can_guide = config.null_class is not None
        return check_sampling(
            SamplingArguments(
                checkpoint=Path(self.name),
                num_images=whole("--num_images", wish.num_images),
                sampler=wish.sampler,
                num_steps=whole("--num_steps", wish.num_steps),
                seed=whole("--seed", wish.seed),
                batch_size=None,
                use_ema=True,
                class_labels=wish.class_label if config.is_conditional else None,
                guidance_scale=given("--guidance_scale", wish.guidance_scale) if can_guide else 1.0,
            )
        )

    def unfold(self, wish: Wish, stop: threading.Event) -> Iterator[Moment]:
        """Sample what a visitor asks for; see `unfolding.unfold`.

        Raises:
            InputError: at once, if this model cannot do it.
        """
        arguments = self.arguments(wish)
        trained, config = self.trained, self.trained.config
        settings = sampler_settings(arguments, config)
        num_images = arguments.num_images
        assert num_images is not None  # `whole` refuses None
        if num_images > MAX_IMAGES:
            raise InputError(f"--num_images {num_images}: allowed is 1 to {MAX_IMAGES}")
        device = next(trained.model.parameters()).device
        labels = chosen_labels(arguments.class_labels, config, trained.class_names)
        sampler = make_sampler(
            trained.model, config, settings, batch_size=num_images, device=device, labels=labels
        )
        num_calls = count_calls(settings, config.diffusion)
        return unfold(sampler, trained.model, num_calls=num_calls, lock=self.lock, stop=stop)


class Session:
    """What a page shows: one model, or two on the same noise.

    Args:
        models: one or two, of images of the same shape.

    Raises:
        InputError: if no page can show them, or not side by side.
    """

    def __init__(self, models: Sequence[ShownModel]) -> None:
        self.models = tuple(models)
        for shown in models:
            channels = shown.trained.config.model.in_chans
            if channels not in (1, 3):
                raise InputError(
                    f"{shown.name}: its images have {channels} channels; 1 or 3 are shown"
                )
        first, *others = (shown.trained.config for shown in models)
        for shown, config in zip(models[1:], others, strict=True):
            here, there = _shape(config), _shape(first)
            if here != there:
                raise InputError(
                    f"{shown.name} draws images of {here}, {models[0].name} of {there}"
                )
            both = config.is_conditional and first.is_conditional
            if both and config.num_data_classes != first.num_data_classes:
                raise InputError(
                    f"{shown.name} knows {config.num_data_classes} classes, {models[0].name} "
                    f"{first.num_data_classes}"
                )
        self.samplers = tuple(name for name in ALL_SAMPLERS if self._all_can(name))
        if not self.samplers:
            raise InputError("the two models have no sampler in common")

    def _all_can(self, sampler: str) -> bool:
        try:
            for shown in self.models:
                check_sampler_of_process(sampler, shown.trained.config.diffusion, "--sampler")
        except InputError:
            return False
        return True

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; () where no model is told any."""
        for shown in self.models:
            if shown.trained.config.is_conditional:
                number = shown.trained.config.num_data_classes
                return shown.trained.class_names or tuple(map(str, range(number)))
        return ()

    @property
    def can_guide(self) -> bool:
        """Whether a model knows "no class", which guidance needs."""
        return any(shown.trained.config.null_class is not None for shown in self.models)

    @property
    def first_wish(self) -> Wish:
        """What the page's fields show at first."""
        sample = self.models[0].trained.config.sample
        sampler = sample.sampler if sample.sampler in self.samplers else self.samplers[0]
        columns = self.columns(ALL)
        return Wish(
            sampler=sampler,
            num_steps=sample.num_steps,
            seed=sample.seed,
            num_images=16 if columns is None else 2 * columns,
            guidance_scale=sample.guidance_scale,
        )

    def columns(self, class_label: str) -> int | None:
        """Return the images of a row: each class once, if there are few; None for a square."""
        number = len(self.class_names)
        return number if class_label == ALL and 1 < number <= MAX_CLASSES_IN_A_ROW else None

    def unfold(self, wish: Wish, stop: threading.Event) -> Iterator[tuple[Moment, ...]]:
        """Let all models draw the same images from the same noise.

        Args:
            wish: of the visitor.
            stop: ends it when it is set.

        Yields:
            A moment of each model; of one that is ready before the other its last one.

        Raises:
            InputError: with the names of the page's fields, if the wish is not possible.
            NonFiniteImagesError: if a model's images are not finite.
        """
        try:
            unfoldings = [shown.unfold(wish, stop) for shown in self.models]
        except InputError as error:
            raise InputError(in_words_of_the_page(str(error))) from error
        last: list[Moment | None] = [None] * len(unfoldings)
        for moments in zip_longest(*unfoldings):
            last = [new or old for new, old in zip(moments, last, strict=True)]
            yield tuple(moment for moment in last if moment is not None)


def open_session(
    paths: Sequence[Path], *, config: Config | None = None, device: torch.device | str = "cpu"
) -> Session:
    """Load the models of a page.

    Args:
        paths: one or two, as `find_source` gives them.
        config: of those that are files of weights.
        device: where they shall run.

    Raises:
        InputError: if one cannot be read, or they do not go side by side.
    """
    names = _names(paths)
    return Session(
        [
            ShownModel(
                open_model(path, config=config, device=device, flag="demo"), name, threading.Lock()
            )
            for path, name in zip(paths, names, strict=True)
        ]
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the folders' own names, or, where they are the same, the whole paths."""
    names = [path.absolute().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _shape(config: Config) -> str:
    model = config.model
    return f"{model.img_size} x {model.img_size} x {model.in_chans}"
