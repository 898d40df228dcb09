"""Classes of sampled images, and classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598).

With the prediction eps(x, c) for a class c and eps(x) for no class, guidance of scale w predicts
eps(x) + w (eps(x, c) - eps(x)): w = 1 is the conditional network, w = 0 the unconditional one. (The
paper's own w is ours less 1.) An interval of timesteps may limit it (Kynkaanniemi et al. 2024,
arXiv:2404.07724).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from uvit_dia.config.guidance_interval import check_interval
from uvit_dia.config.schema import Config, SampleConfig
from uvit_dia.data.images import ImageSet
from uvit_dia.data.labels import check_labels
from uvit_dia.system.errors import InputError, nearest
from uvit_dia.system.messages import clip

ALL = "all"


@dataclass(frozen=True)
class ClassLabels:
    """Which class each image of a seed has: a row of classes, dealt out in turn.

    Attributes:
        in_turn: (n,) int64; image i has class `in_turn[i % n]`.
        rule: what results call it.
    """

    in_turn: Tensor
    rule: str

    def of(self, indices: Iterable[int]) -> Tensor:
        """Return the classes of images, (len(indices),) int64 on the CPU."""
        return self.in_turn[torch.tensor(list(indices)) % len(self.in_turn)]


def all_in_turn(config: Config) -> ClassLabels | None:
    """Return the rule of samples that nobody chose classes for; None for other networks."""
    if not config.is_conditional:
        return None
    return ClassLabels(torch.arange(config.num_data_classes), ALL)


def as_in(images: ImageSet, config: Config) -> ClassLabels | None:
    """Return the rule of an evaluation: classes are as frequent as among the images.

    The N labels of the set, sorted, are walked through in the order of a Weyl sequence: the
    multiples of the golden ratio modulo 1, which spread any first n of them evenly. So a class is
    among any first n images as often as its share asks, give or take a few, and among N exactly. A
    shuffled order would have it off by several times as many, which a distance at a few hundred
    images measures.
    """
    if not config.is_conditional:
        return None
    check_labels(images, config)
    assert images.labels is not None
    place = torch.arange(len(images), dtype=torch.float64) * ((5**0.5 - 1) / 2) % 1
    in_turn = images.labels.cpu().sort().values[place.argsort().argsort()]
    return ClassLabels(in_turn, "as in the training set")


def chosen_labels(
    value: str | int | Iterable[int | str] | np.ndarray | Tensor | None,
    config: Config,
    class_names: Sequence[str] | None,
) -> ClassLabels | None:
    """Read the classes that a user wants.

    Args:
        value: a class, several (a sequence, an array, or a text with commas), or "all"; by number
            or name. None leaves the choice to the caller.
        config: of the run.
        class_names: of its training set, in the order of the labels; None where unknown.

    Returns:
        The rule; None if the user left it open.

    Raises:
        InputError: for an unconditional network, or a class that there is not, with the nearest.
    """
    if value is None:
        return None
    if not config.is_conditional:
        raise InputError("--class_labels: this network was trained without classes")
    if isinstance(value, np.ndarray | np.generic | Tensor):
        value = value.tolist()
    if value == ALL:
        return all_in_turn(config)
    if isinstance(value, str):
        items: list[int | str] = [item.strip() for item in value.split(",")]
    else:
        items = list(value) if isinstance(value, Iterable) else [value]
    numbers = [_number(item, config.num_data_classes, class_names or ()) for item in items]
    if not numbers:
        raise InputError("--class_labels: no class is named")
    return ClassLabels(torch.tensor(numbers), ",".join(map(str, numbers)))


def _number(item: int | str, num_classes: int, names: Sequence[str]) -> int:
    """Return the number of a class; a name wins over a number."""
    if isinstance(item, str) and item in names:
        return list(names).index(item)
    text = str(item)
    if text.isdecimal() and int(text) < num_classes:
        return int(text)
    known = f", or a name such as {names[0]}" if names else ""
    raise InputError(
        f"--class_labels {clip(text, 40)!r}: allowed is 0 to {num_classes - 1}{known}"
        f"{nearest(text, names)}"
    )


def check_guidance(settings: SampleConfig, config: Config) -> None:
    """Refuse guidance of a network that knows no "no class", and an interval without timesteps.

    Raises:
        InputError: saying what the network lacks, or which timesteps it has.
    """
    num_timesteps = config.diffusion.num_train_timesteps
    check_interval(settings, num_timesteps, is_conditional=config.is_conditional)
    if settings.guidance_scale == 1 or config.null_class is not None:
        return
    lacks = "train.label_dropout above 0" if config.is_conditional else "classes"
    raise InputError(
        f"--guidance_scale {settings.guidance_scale:g}: this network was trained without {lacks}; "
        "allowed is 1"
    )


class GuidedDenoiser:
    """A conditional network as a sampler sees it: (x_t, timesteps) -> prediction.

    Args:
        model: the network.
        class_labels: (B,) int64 on the network's device.
        null_class: the label for no class; None if the network has none.
        settings: scale and interval of the guidance.

    Attributes:
        nfe: network calls an image so far; a guided step has two, in one batch.
    """

    def __init__(
        self,
        model: Callable[..., Tensor],
        class_labels: Tensor,
        null_class: int | None,
        settings: SampleConfig,
    ) -> None:
        self.nfe = 0
        self._model = model
        self._labels = class_labels
        self._scale = settings.guidance_scale
        self._interval = (settings.guidance_low, settings.guidance_high)
        self._has_interval = settings.has_interval
        if null_class is None:
            self._scale = 1.0
        else:
            self._no_class = torch.full_like(class_labels, null_class)

    def __call__(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        """Return the prediction, (B, C, H, W); all images are at one timestep."""
        scale = self._scale if self._guides_at(timesteps) else 1.0
        if scale in (0.0, 1.0):
            self.nfe += 1
            return self._model(x_t, timesteps, self._labels if scale else self._no_class)
        self.nfe += 2
        both = self._model(
            torch.cat((x_t, x_t)),
            torch.cat((timesteps, timesteps)),
            torch.cat((self._labels, self._no_class)),
        )
        with_class, without = both.float().chunk(2)
        # eps(x) + w (eps(x, c) - eps(x))
        return without + scale * (with_class - without)

    def _guides_at(self, timesteps: Tensor) -> bool:
        if not self._has_interval:  # the usual case needs no look at the device
            return True
        low, high = self._interval
        return low <= float(timesteps[0]) <= high


def guidance_facts(settings: SampleConfig, labels: ClassLabels | None) -> dict[str, object]:
    """Return what a conditional network's images depend on, as JSON's types; {} for others."""
    if labels is None:
        return {}
    facts: dict[str, object] = {
        "class_labels": labels.rule,
        "guidance_scale": settings.guidance_scale,
    }
    if settings.has_interval:
        facts["guidance_interval"] = [settings.guidance_low, settings.guidance_high]
    return facts
