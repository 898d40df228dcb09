"""Encodes an image set once, into a folder of latents; an interrupted encoding goes on.

The values are appended to files in OUTPUT.partial, which becomes OUTPUT when all is there.
"""

import hashlib
import json
import math
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from uvit_dia.config.schema import Config
from uvit_dia.data.autoencoder import Autoencoder, load_autoencoder
from uvit_dia.data.filling import filled_alone
from uvit_dia.data.images import ImageSet, sha256_of
from uvit_dia.data.latents import (
    DESCRIPTION,
    VERSION,
    Description,
    MadeBy,
    Source,
    SplitFacts,
    read_description,
)
from uvit_dia.data.sources import load_test_images, load_training_images
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import fsync_path, write_json
from uvit_dia.system.progress import progress_bar
from uvit_dia.system.records import read_json

PROGRESS = "progress.json"
BATCHES_A_NOTE = 64  # of progress, after which a killed encoding goes on
SPARE_BYTES = 2**28  # that an encoding leaves free on its disk


@dataclass(frozen=True)
class Request:
    """What shall be encoded, and how.

    Attributes:
        config: whose groups `data` and `model` say which images there are.
        vae: folder or id of the autoencoder.
        has_std: whether the standard deviation of the posterior is kept too.
        dtype: of the values, one of `config.latents.DTYPES`.
        is_mirrored: whether mirrored training images are added.
        batch_size: images at a time.
    """

    config: Config
    vae: str
    has_std: bool
    dtype: str
    is_mirrored: bool
    batch_size: int


def encode_set(request: Request, output: Path, device: torch.device) -> None:
    """Encode the splits of a set into a folder, or go on with it, and say so.

    Raises:
        InputError: if images or autoencoder cannot be read or do not fit, or if the folder holds
            something else.
        StorageError: if the disk fails; the next start goes on from there.
    """
    vae = load_autoencoder(request.vae, device)
    model = request.config.model
    shape = vae.latent_shape(model.in_chans, model.img_size)
    sets = {"train": load_training_images(request.config, show_progress=True)}
    test = load_test_images(request.config, show_progress=True)
    if test is not None:
        sets["test"] = test
    for images in sets.values():
        print(images.summary())
    planned = _planned(request, vae, shape, sets)
    if output.exists():
        _keep(output, planned)
        return
    with filled_alone(output.with_name(f"{output.name}.partial")) as partial:
        _start(partial, planned, _size(request, planned, sets))
        splits = {
            name: _encode_split(request, partial, planned, name, images, vae)
            for name, images in sets.items()
        }
        write_json(partial / DESCRIPTION, replace(planned, splits=splits).as_dict())
        (partial / PROGRESS).unlink()
        partial.rename(output)
    fsync_path(output.parent)
    total = sum(each.num_images for each in splits.values())
    print(f"{output}: {total} latents of shape {shape}; train with")
    print(
        f"  --config.data.name=latents --config.data.path={output} "
        f"--config.model.in_chans={shape[0]} --config.model.img_size={shape[1]}"
    )


def _planned(
    request: Request, vae: Autoencoder, shape: tuple[int, int, int], sets: dict[str, ImageSet]
) -> Description:
    """Return the description without its splits; its key depends on content, not on places."""
    train = sets["train"]
    content = {
        "version": VERSION,
        "vae": vae.sha256,
        "images": {name: each.fingerprint() for name, each in sets.items()},
        "labels": {name: each.labels_fingerprint() for name, each in sets.items()},
        "class_names": train.class_names,
        "values": [request.has_std, request.dtype, request.is_mirrored],
    }
    model = request.config.model
    return Description(
        key=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
        name=train.name,
        shape=shape,
        has_std=request.has_std,
        dtype=request.dtype,
        is_mirrored=request.is_mirrored,
        autoencoder=MadeBy(vae.name, vae.sha256),
        source=Source(request.config.data.to_dict(), model.img_size, model.in_chans),
        class_names=train.class_names,
        splits={},
    )


def _keep(output: Path, planned: Description) -> None:
    """Leave finished latents as they are, but for the places of images and autoencoder.

    Raises:
        InputError: if they are of other images, another autoencoder or other settings.
    """
    found = read_description(output)
    if found.key != planned.key:
        raise InputError(
            f"--output {output}: holds latents of other images, another autoencoder or other "
            "settings; name another folder"
        )
    moved = replace(found, source=planned.source, autoencoder=planned.autoencoder)
    if moved != found:
        write_json(output / DESCRIPTION, moved.as_dict())
    print(f"{output}: these latents are there already")


def _num_latents(request: Request, name: str, images: ImageSet) -> int:
    return len(images) * (2 if request.is_mirrored and name == "train" else 1)


def _size(request: Request, planned: Description, sets: dict[str, ImageSet]) -> int:
    total = sum(_num_latents(request, name, images) for name, images in sets.items())
    return total * math.prod(planned.values_shape) * np.dtype(planned.dtype).itemsize


def _start(partial: Path, planned: Description, size: int) -> None:
    """Go on with what lies in the folder if it is of the same key, else begin.

    Raises:
        InputError: if there is too little space.
    """
    if read_json(partial / PROGRESS).values.get("key") == planned.key:
        return
    shutil.rmtree(partial)
    partial.mkdir()
    free = shutil.disk_usage(partial).free
    if size + SPARE_BYTES > free:
        partial.rmdir()
        raise InputError(f"--output: the latents need {size} bytes; {partial.parent} has {free}")
    write_json(partial / PROGRESS, {"key": planned.key, "done": {}})


def _encode_split(
    request: Request,
    partial: Path,
    planned: Description,
    name: str,
    images: ImageSet,
    vae: Autoencoder,
) -> SplitFacts:
    """Encode what is missing of a split; return what it is."""
    path = partial / f"{name}.latents"
    total = _num_latents(request, name, images)
    shape, step = (total, *planned.values_shape), request.batch_size
    row_bytes = math.prod(shape[1:]) * np.dtype(planned.dtype).itemsize
    progress = read_json(partial / PROGRESS).values
    first = progress["done"].get(name, 0)
    bar = progress_bar(total=total, initial=first, unit="image", desc=f"encoding {name}")
    with path.open("r+b" if first else "wb") as file, bar:
        file.truncate(first * row_bytes)
        file.seek(first * row_bytes)
        for count, start in enumerate(range(first, total, step), start=1):
            rows = torch.arange(start, min(start + step, total))
            values = _encoded(vae, images, rows, has_std=planned.has_std, dtype=planned.dtype)
            file.write(values.numpy().tobytes())
            bar.update(len(rows))
            if count % BATCHES_A_NOTE == 0 or rows[-1] == total - 1:
                file.flush()
                os.fsync(file.fileno())
                progress["done"][name] = int(rows[-1]) + 1
                write_json(partial / PROGRESS, progress)
    labels = images.labels
    if labels is not None:
        labels = labels.repeat(total // len(images))
        (partial / f"{name}.labels").write_bytes(labels.numpy().tobytes())
        fsync_path(partial / f"{name}.labels")
    latents = torch.from_numpy(np.memmap(path, dtype=planned.dtype, mode="c", shape=shape))
    return SplitFacts(
        num_images=total,
        sha256=sha256_of(latents),
        labels_sha256=None if labels is None else sha256_of(labels),
        source_sha256=images.fingerprint(),
    )


def _encoded(
    vae: Autoencoder, images: ImageSet, rows: Tensor, *, has_std: bool, dtype: str
) -> Tensor:
    """Encode some rows, (n, C, h, w) or (n, 2, C, h, w); those past the last image are mirrored."""
    pixels = images.images[rows % len(images)]
    mirrored = (rows >= len(images))[:, None, None, None]
    mean, std = vae.encode(torch.where(mirrored, pixels.flip(-1), pixels))
    values = torch.stack((mean, std), dim=1) if has_std else mean
    values = values.to(getattr(torch, dtype)).cpu()
    if not torch.isfinite(values).all():
        raise InputError(
            f"the autoencoder {vae.name} gives values that {dtype} does not hold, for images "
            f"{int(rows[0])} to {int(rows[-1])}; try --dtype float32, or another autoencoder"
        )
    return values
