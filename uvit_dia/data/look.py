"""What an image set is: counts, classes, the range of its pixels, images that are there twice."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from uvit_dia.config.schema import Config
from uvit_dia.config.training import LISTED
from uvit_dia.data.array_files import image_shape
from uvit_dia.data.decoding import first_side
from uvit_dia.data.image_grid import write_grid
from uvit_dia.data.images import ImageSet, sha256_of, to_model_range
from uvit_dia.data.latents import read_description
from uvit_dia.data.paths import data_path
from uvit_dia.data.sources import list_images, load_test_images, load_training_images
from uvit_dia.rng import permutation
from uvit_dia.system.errors import InputError

GRID_IMAGES = 64
CHUNK = 4096  # images that are looked at in one go


def look_at(config: Config, output: Path | None) -> None:
    """Print what a set is, split by split; write some of its training images, if asked.

    Raises:
        InputError: if it cannot be read.
    """
    config = _with_its_size(config)
    if config.is_latent and output is not None:
        raise InputError("--output: latents are no pictures; look at the images they were made of")
    images = load_training_images(config, show_progress=True)
    print(images.summary())
    for line in latent_facts(images) if config.is_latent else facts_of(images):
        print(f"  {line}")
    held_out = load_test_images(config, show_progress=True)
    print("no test split" if held_out is None else f"test split: {held_out.summary()}")
    if output is not None:
        chosen = permutation(0, "data grid", 0, len(images))[:GRID_IMAGES].sort().values
        write_grid(output, images.images[chosen])
        print(f"{output}: {len(chosen)} training images")


def _with_its_size(config: Config) -> Config:
    """Return a config whose images have the size of the first, if it stands for that."""
    if config.model.img_size != 1:
        return config
    model = config.model
    if config.data.name in LISTED:
        data = config.data
        listing = list_images(data.name, data.path, "train", stream_images=data.stream_images)
        assert listing is not None  # only a test split can be missing
        model = replace(model, img_size=first_side(listing))
    elif config.data.name == "npz":
        _, side, _, channels = image_shape(data_path(config.data.path))
        model = replace(model, in_chans=channels, img_size=side)
    elif config.is_latent:
        channels, side, _ = read_description(data_path(config.data.path)).shape
        model = replace(model, in_chans=channels, img_size=side)
    else:
        size = {"digits": (1, 8), "cifar10": (3, 32)}[config.data.name]
        model = replace(model, in_chans=size[0], img_size=size[1])
    return replace(config, model=model)


def facts_of(images: ImageSet) -> Iterator[str]:
    """Yield what is worth knowing of a set, a line each."""
    count = len(images)
    total = torch.zeros(images.shape[0], dtype=torch.float64)
    squares = torch.zeros_like(total)
    low, high = 255, 0
    seen: dict[str, int] = {}
    flat = 0
    for start in range(0, count, CHUNK):
        part = images.images[start : start + CHUNK]
        low, high = min(low, int(part.min())), max(high, int(part.max()))
        values = part.double()
        total += values.mean(dim=(2, 3)).sum(dim=0)
        squares += values.square().mean(dim=(2, 3)).sum(dim=0)
        pixels = part.flatten(1)
        flat += int((pixels.amin(dim=1) == pixels.amax(dim=1)).sum())
        for image in part:
            digest = sha256_of(image)
            seen[digest] = seen.get(digest, 0) + 1
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    spread = f"standard deviation {_each(std)}"
    yield f"pixels from {low} to {high} of 0 to 255; mean {_each(mean)}, {spread}"
    twice = sum(times - 1 for times in seen.values())
    yield f"{twice} images are there already" if twice else "no image is there twice"
    if flat:
        yield f"{flat} images are of one colour"
    yield f"fingerprint {images.fingerprint()}"


def latent_facts(images: ImageSet) -> Iterator[str]:
    """Yield what is worth knowing of latents: whether x_0 has the spread that noise is made for."""
    total = torch.zeros(2, images.shape[0], dtype=torch.float64)  # of x_0, and of its square
    for chunk in images.images.split(CHUNK):
        x_0 = to_model_range(chunk).double()
        total += torch.stack((x_0, x_0.square())).mean(dim=(3, 4)).sum(dim=1)
    mean, square = total / len(images)
    std = (square - mean.square()).clamp(min=0).sqrt()
    texts = [", ".join(f"{float(value):.2f}" for value in each) for each in (mean, std)]
    yield f"x_0: mean {texts[0]}, standard deviation {texts[1]} (near 0 and 1 is good)"
    yield f"fingerprint {images.fingerprint()}"


def _each(values: torch.Tensor) -> str:
    return ", ".join(f"{float(value):.1f}" for value in values)
