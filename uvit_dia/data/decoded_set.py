"""All images of a listing, decoded into one array."""

import sys
from collections import Counter
from dataclasses import dataclass

import numpy as np

from uvit_dia.data.decoding import ImageFormat, decode
from uvit_dia.data.listing import Listing, UnreadableImageError, refuse_unreadable
from uvit_dia.data.summary import LeftOut
from uvit_dia.system.errors import InputError
from uvit_dia.system.progress import progress_bar

MAX_MEMORY_BYTES = 64 * 2**30  # of decoded images; larger sets would need streaming
SILENT_SECONDS = 1.0  # of decoding, before a bar is shown
SECONDS_A_LINE = 30.0  # between the states of a bar in a log file


@dataclass(frozen=True)
class DecodedSet:
    """The images of a listing.

    Attributes:
        images: (N, C, H, W) uint8.
        unread_rows: the images of the listing that could not be read, and are not among these.
        notes: what was done to the images, and what was left out.
    """

    images: np.ndarray
    unread_rows: tuple[int, ...]
    notes: tuple[str, ...]


def decode_all(
    listing: Listing,
    image_format: ImageFormat,
    *,
    skip_unreadable: bool,
    show_progress: bool,
    into: np.ndarray | None = None,
) -> DecodedSet:
    """Decode the images of a listing, in its order.

    Args:
        listing: the images.
        image_format: what they become.
        skip_unreadable: whether images that cannot be read are left out, and not refused.
        show_progress: whether a bar is shown.
        into: where the images are written, (N, C, H, W) uint8; None for new memory.

    Raises:
        InputError: naming the images that cannot be read, or if the set does not fit into memory.
    """
    unreadable = list(listing.unreadable)
    total = listing.num_images + len(unreadable)
    if not skip_unreadable:
        refuse_unreadable(unreadable, total)
    images = _new_array(listing, image_format) if into is None else into
    remarks: Counter[str] = Counter()
    unread_rows: list[int] = []
    bar = progress_bar(
        listing.encoded(),
        total=listing.num_images,
        desc="decoding images",
        leave=False,
        delay=SILENT_SECONDS,
        mininterval=0.1 if sys.stderr.isatty() else SECONDS_A_LINE,
        disable=not show_progress,
    )
    for row, encoded in enumerate(bar):
        try:
            decoded = decode(encoded.read(), encoded.origin, image_format)
        except UnreadableImageError as error:
            unreadable.append(error)
            unread_rows.append(row)
            continue
        images[row - len(unread_rows)] = decoded.pixels
        remarks.update(decoded.remarks)
    if not skip_unreadable or len(unread_rows) == listing.num_images:
        refuse_unreadable(unreadable, total)
    left_out = LeftOut()
    for each in unreadable:
        left_out.add("unreadable", f"{each.origin}: {each.reason}")
    notes = tuple(f"{count} {remark}" for remark, count in remarks.items()) + left_out.notes()
    return DecodedSet(images[: len(images) - len(unread_rows)], tuple(unread_rows), notes)


def _new_array(listing: Listing, image_format: ImageFormat) -> np.ndarray:
    size = listing.num_images * int(np.prod(image_format.shape))
    if size > MAX_MEMORY_BYTES:
        raise InputError(
            f"data.path: {listing.num_images} images of this size need {size} bytes; at most "
            f"{MAX_MEMORY_BYTES} without data.memory_map = True"
        )
    return np.empty((listing.num_images, *image_format.shape), dtype=np.uint8)
