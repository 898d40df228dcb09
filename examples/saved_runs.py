"""Open finished runs of `examples.classification` and `examples.xray` again.

A run's config.json says what it is, but not where its data lie now.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples import classification, xray
from examples.classification import Classification
from examples.classification_data import DATA_NAMES
from examples.classification_models import MODEL_NAMES, Images
from examples.training import load_weights
from examples.xray import XrayClassification
from uvit_dia.system.errors import InputError
from uvit_dia.system.records import read_json


@dataclass(frozen=True)
class Kind:
    """A command whose runs can be opened.

    Attributes:
        module: its name.
        data: what a run's `data` may be.
        parser: makes the parser of its command line.
        make_task: makes what a command line asks for.
        places: flags that say where things lie, and are not of the run.
        same: facts that a run has of its data.
        recipe: the fact that says how it was trained.
    """

    module: str
    data: tuple[str, ...]
    parser: Callable[[], argparse.ArgumentParser]
    make_task: Callable[[argparse.Namespace], Classification]
    places: tuple[str, ...]
    same: tuple[str, ...]
    recipe: str


CLASSIFICATION = Kind(
    "examples.classification",
    DATA_NAMES,
    classification.parser,
    classification.make_task,
    ("workdir", "path"),
    ("train_sha256",),
    "recipe",
)
XRAY = Kind(
    "examples.xray",
    ("xray",),
    xray.parser,
    xray.make_task,
    ("workdir", "path", "masks"),
    ("train_sha256", "test_sha256", "class_names"),
    "training",
)


@dataclass(frozen=True)
class SavedRun:
    """A run with the weights of its last epoch.

    Attributes:
        folder: of the run.
        arguments: the command line that made it.
        task: its network, data and loss.
        num_epochs: how many its weights have seen.
    """

    folder: Path
    arguments: argparse.Namespace
    task: Classification
    num_epochs: int

    @property
    def images(self) -> Images:
        """What its network is built for."""
        data, names = self.task.data, self.task.facts.get("class_names")
        num_classes = len(names) if isinstance(names, list) else data.num_classes
        return Images(data.in_chans, data.img_size, num_classes)


def open_run(folder: Path, path: str, kinds: tuple[Kind, ...], *, masks: str = "") -> SavedRun:
    """Open a run, and the data that it was trained on.

    Args:
        folder: of the run.
        path: of the data.
        kinds: of runs that are taken.
        masks: folder of masks of X-rays, "" for none.

    Raises:
        InputError: if it is no such run, or one on other data, or one that has ended no epoch.
    """
    config = read_json(folder / "config.json")
    facts: dict[str, Any] = config.values
    kind = next((kind for kind in kinds if facts.get("data") in kind.data), None)
    if kind is None or facts.get("model") not in MODEL_NAMES:
        reason = config.problem or "it holds no config.json of one"
        modules = " or ".join(kind.module for kind in kinds)
        raise InputError(f"{folder} is no run of {modules}: {reason}")
    places = {"workdir": str(folder), "path": path, "masks": masks}
    words = [f"--{name}={places[name]}" for name in kind.places]
    flags = vars(kind.parser().parse_args(words))
    known = {name: facts[name] for name in flags if name not in kind.places and name in facts}
    if (
        kind is CLASSIFICATION
    ):  # runs without `given` are older; they had all images, or are refused
        known |= facts.get("given") or {"recipe": None, "num_train": None}
    arguments = argparse.Namespace(**{**flags, **known})
    task = kind.make_task(arguments)
    ours = json.loads(json.dumps(task.facts))
    for name in kind.same:
        if ours[name] != facts.get(name):
            raise InputError(f"--path {path}: {folder} was trained on other data (its {name})")
    if ours[kind.recipe] != facts.get(kind.recipe):
        raise InputError(f"{folder} was trained by a recipe that no flag gives now")
    return SavedRun(folder, arguments, task, load_weights(folder, task.model))


def open_xrays(folder: Path, path: str, masks: str) -> XrayClassification:
    """Open a run of `examples.xray`, and the data that it was trained on.

    Args:
        folder: of the run.
        path: of the data.
        masks: folder of masks, "" for none.

    Raises:
        InputError: see `open_run`.
    """
    task = open_run(folder, path, (XRAY,), masks=masks).task
    assert isinstance(task, XrayClassification)  # the only kind
    return task
