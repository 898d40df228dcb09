"""Image sets that `uvit-dia encode` has encoded: latents in files that are mapped into memory.

A set is a folder: TRAIN.latents with the values, TRAIN.labels with the classes (int64), the same of
the test split, and `description.json`, written last, which says what they are and of which images,
by which autoencoder, they were made.
"""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uvit_dia.config.fields import check_tree, make_group, schema_of
from uvit_dia.config.latents import DTYPES
from uvit_dia.config.schema import Config, DataConfig
from uvit_dia.data.images import ImageSet, sha256_of
from uvit_dia.data.paths import data_path
from uvit_dia.system.errors import InputError
from uvit_dia.system.records import read_json

DESCRIPTION = "description.json"
VERSION = 1
HASHED_BYTES = 2**30  # of larger files only the size is compared at each start


@dataclass(frozen=True)
class MadeBy:
    """Which autoencoder made latents: its name, and the SHA-256 of weights and config."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Source:
    """Which images latents were made of.

    Attributes:
        data: the group `data` of a config that reads them.
        img_size: their side in pixels.
        in_chans: their channels.
    """

    data: dict[str, Any]
    img_size: int
    in_chans: int


@dataclass(frozen=True)
class SplitFacts:
    """What a split must be to be the one that was encoded.

    Attributes:
        num_images: of latents, mirrored ones included.
        sha256: of the latents, as `ImageSet.fingerprint`.
        labels_sha256: of their labels; None where there are none.
        source_sha256: fingerprint of the images.
    """

    num_images: int
    sha256: str
    labels_sha256: str | None
    source_sha256: str


@dataclass(frozen=True)
class Description:
    """What a folder of latents is.

    Attributes:
        key: a hash of images, autoencoder and settings.
        name: of the image set.
        shape: (C, h, w) of x_0.
        has_std: whether mean and standard deviation are there, (N, 2, C, h, w), or the mean alone.
        dtype: one of `DTYPES`.
        is_mirrored: whether the mirrored training images follow the others.
        autoencoder: that made them.
        source: the images.
        class_names: in the order of the labels.
        splits: "train", and "test" if there is one.
    """

    key: str
    name: str
    shape: tuple[int, int, int]
    has_std: bool
    dtype: str
    is_mirrored: bool
    autoencoder: MadeBy
    source: Source
    class_names: tuple[str, ...]
    splits: dict[str, SplitFacts]

    @property
    def values_shape(self) -> tuple[int, ...]:
        """The shape of what is stored of an image."""
        return (2, *self.shape) if self.has_std else self.shape

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        return {"version": VERSION, **asdict(self)}


def read_description(folder: Path) -> Description:
    """Read what a folder of latents is.

    Raises:
        InputError: if it is none, or was not finished.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise InputError(
            f"data.path: {folder} holds no latents, which `uvit-dia encode` writes (there is no "
            f"{DESCRIPTION})"
        )
    found = read_json(path)
    values = found.values
    if values.get("version") != VERSION:
        reason = found.problem or f"is of version {values.get('version')}, not {VERSION}"
        raise InputError(f"data.path: {path}: {reason}")
    try:
        description = Description(
            **{
                **{name: value for name, value in values.items() if name != "version"},
                "shape": tuple(map(int, values["shape"])),
                "class_names": tuple(map(str, values["class_names"])),
                "autoencoder": MadeBy(**values["autoencoder"]),
                "source": Source(**values["source"]),
                "splits": {name: SplitFacts(**each) for name, each in values["splits"].items()},
            }
        )
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"data.path: {path} was changed: {' '.join(str(error).split())}"
        ) from error
    if description.dtype not in DTYPES or len(description.shape) != 3:
        raise InputError(f"data.path: {path} was changed: it names no values that there can be")
    return description


def read_latents(path: str, split: str) -> ImageSet | None:
    """Map a split of latents into memory.

    Args:
        path: as `data.path`.
        split: "train" or "test".

    Returns:
        The set, whose images `to_model_range` makes x_0 of; None where there is no such split.

    Raises:
        InputError: if there are no latents, or the files are not those that the description tells
            of.
    """
    folder = data_path(path)
    description = read_description(folder)
    facts = description.splits.get(split)
    if facts is None:
        return None
    file = folder / f"{split}.latents"
    latents = _mapped(file, description.dtype, (facts.num_images, *description.values_shape))
    if latents.nbytes <= HASHED_BYTES and sha256_of(latents) != facts.sha256:
        raise InputError(f"data.path: {file} was changed since it was encoded; encode it again")
    labels = None
    if facts.labels_sha256 is not None:
        labels = _mapped(folder / f"{split}.labels", "int64", (facts.num_images,)).clone()
        if sha256_of(labels) != facts.labels_sha256:
            raise InputError(f"data.path: {folder / f'{split}.labels'} was changed; encode again")
    kind = "means and standard deviations" if description.has_std else "means"
    return ImageSet(
        description.name,
        latents,
        labels,
        description.class_names,
        source=f"latents {folder}, {split}",
        notes=(
            f"{kind} in {description.dtype} of images of {description.source.img_size} pixels",
            *(("mirrored images follow",) if description.is_mirrored and split == "train" else ()),
        ),
        known_sha256=facts.sha256,
    )


def _mapped(path: Path, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    try:
        found = path.stat().st_size
        if found != size:
            raise InputError(
                f"data.path: {path} is torn: it has {found} bytes of {size}; encode the set again"
            )
        # "c": nothing is written back to the file
        return torch.from_numpy(np.memmap(path, dtype=dtype, mode="c", shape=shape))
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"data.path: cannot read {path}: {error}") from error


def pixel_config(config: Config) -> Config:
    """Return the config that reads the images of latents; a config of images as it is.

    Samples are compared with these images, not with what an autoencoder makes of them.

    Raises:
        InputError: if the latents do not say where they came from.
    """
    if not config.is_latent:
        return config
    source = read_description(data_path(config.data.path)).source
    origin = f"{config.data.path}/{DESCRIPTION}"
    check_tree(source.data, schema_of(DataConfig), origin, "data.")
    model = replace(config.model, img_size=source.img_size, in_chans=source.in_chans)
    return replace(config, data=make_group(DataConfig, source.data), model=model)


def check_source(config: Config, split: str, images: ImageSet) -> None:
    """Check that images are those that the latents of a config were made of.

    Raises:
        InputError: if they were changed or are others.
    """
    if not config.is_latent:
        return
    facts = read_description(data_path(config.data.path)).splits.get(split)
    if facts is None or facts.source_sha256 != images.fingerprint():
        raise InputError(
            f"data.path: the images {images.source or images.name} changed since the latents "
            f"{config.data.path} were made of them; encode them again"
        )
