"""Which images make up a split, before any of them is decoded."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from uvit_dia.system.errors import InputError

SKIP_ADVICE = "data.skip_unreadable = True trains without them"
MAX_LISTED = 3


class UnreadableImageError(InputError):
    """An image that cannot be decoded.

    Args:
        origin: the file, or the table and its row.
        reason: what was found in place of an image.
        message: both in one sentence; by default "ORIGIN is no readable image: REASON".
    """

    def __init__(self, origin: str, reason: str, message: str = "") -> None:
        super().__init__(message or f"{origin} is no readable image: {reason}")
        self.origin = origin
        self.reason = reason


class WrongSizeError(InputError):
    """An image of a size that is not read without scaling.

    Args:
        fact: the image and its size.
        advice: what would read it; by default the config key.
    """

    def __init__(
        self, fact: str, advice: str = "data.resize = True would scale and crop it"
    ) -> None:
        super().__init__(f"{fact} ({advice})")
        self.fact = fact


@dataclass(frozen=True)
class EncodedImage:
    """One image as it lies on disk.

    Attributes:
        origin: what messages call it: its file, or its table and row.
        read: returns its bytes; raises UnreadableImageError where there are none.
    """

    origin: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Listing:
    """The images of a split, and all that is known of them before they are decoded.

    Attributes:
        name: what the set is called in results.
        source: what was read, such as "folder IMAGES, train".
        num_images: how many there are.
        encoded: starts a new round over them.
        files: whose size and times tell whether the images may have changed.
        labels: one for each image, -1 for none; None where no image has one.
        class_names: names of the classes, in the order of the labels.
        unreadable: what cannot be read, as is known without decoding; not among the images.
        notes: what else is worth knowing.
    """

    name: str
    source: str
    num_images: int
    encoded: Callable[[], Iterator[EncodedImage]]
    files: tuple[Path | str, ...]
    labels: tuple[int, ...] | None = None
    class_names: tuple[str, ...] = ()
    unreadable: tuple[UnreadableImageError, ...] = ()
    notes: tuple[str, ...] = ()


def refuse_unreadable(unreadable: list[UnreadableImageError], num_images: int) -> None:
    """Refuse what cannot be read, all at once.

    Raises:
        InputError: if there is any; it names the first few and their number.
    """
    if not unreadable:
        return
    if len(unreadable) == 1:
        raise InputError(f"{unreadable[0]} ({SKIP_ADVICE.replace('them', 'it')})")
    folder = os.path.commonpath([each.origin for each in unreadable])
    shown = ", ".join(
        f"{each.origin.removeprefix(folder).lstrip('/')} ({each.reason})"
        for each in unreadable[:MAX_LISTED]
    )
    more = len(unreadable) - MAX_LISTED
    raise InputError(
        f"{len(unreadable)} of {num_images} images in {folder} cannot be read: {shown}"
        f"{f' and {more} more' if more > 0 else ''}; {SKIP_ADVICE}"
    )
