"""Images that exist, read for a measurement, and given by index as samplers give theirs."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor

from uvit_dia.data.arrays import read_array
from uvit_dia.data.decoding import first_side
from uvit_dia.data.images import ImageSet, images_of, in_order
from uvit_dia.data.listed_set import read_listing
from uvit_dia.evaluation.image_inputs import ImageInput
from uvit_dia.system.errors import InputError

RGB = 3


class ExistingImages:
    """Images of a set, by index; see `evaluation.Images`.

    Args:
        images: the set.
        batch_size: images of a block.
    """

    nfe: int | None = None

    def __init__(self, images: ImageSet, batch_size: int) -> None:
        self._images = images
        self.batch_size = batch_size

    def sample(self, indices: Iterable[int]) -> Iterator[tuple[list[int], Tensor]]:
        """Yield images, block by block, each with its indices."""
        blocks: dict[int, list[int]] = {}
        for index in indices:
            blocks.setdefault(index // self.batch_size, []).append(index)
        for wanted in blocks.values():
            yield wanted, self._images.images[wanted]

    def facts(self) -> dict[str, object]:
        """Return which images they are."""
        return {
            "images": self._images.name,
            "images_sha256": self._images.fingerprint(),
            "batch_size": self.batch_size,
        }


def read_images(source: ImageInput, *, show_progress: bool) -> ImageSet:
    """Read images from files, (N, 3, H, W) uint8, or (N, C, H, W) from an array.

    Raises:
        InputError: if one cannot be read, or they are of several sizes.
    """
    if source.listing is None:
        array = read_array(source.path, source.array, source.flag)  # N H W C
        images = images_of(array)
        return ImageSet(source.path.stem, images, source=f"array {source.array} of {source.path}")
    with _in_words_of(source.flag):
        side = first_side(source.listing)
        return read_listing(source.listing, side, RGB, show_progress=show_progress)


@contextmanager
def _in_words_of(flag: str) -> Iterator[None]:
    """Speak of the flag, where a refusal speaks of keys of a config."""
    try:
        yield
    except InputError as error:
        text = re.sub(r"model\.img_size = (\d+)", r"the first image has \1x\1", str(error))
        text = re.sub(r" \(data\.\w+ = [^)]*\)|; data\.\w+ = .*", "", text)
        raise InputError(f"{flag}: {text.removeprefix('data.path: ')}") from error


def with_channels(images: ImageSet, channels: int) -> ImageSet:
    """Return images of 1 or 3 channels: grey ones of three are the same as of one.

    Raises:
        InputError: if images in colour are to be made grey.
    """
    there = images.images.shape[1]
    if there == channels:
        return images
    if channels == RGB:
        return replace(images, images=in_order(images.images.expand(-1, RGB, -1, -1)))
    if not is_grey(images):
        raise InputError(f"{images.source or images.name}: images in colour; the others are grey")
    return replace(images, images=in_order(images.images[:, :1]))


def is_grey(images: ImageSet) -> bool:
    """Say whether no image has a colour."""
    pixels = images.images
    return bool((pixels == pixels[:, :1]).all())
