"""From a listing to an image set: its images decoded, or read from what an earlier start kept."""

import time
from dataclasses import replace

import torch

from uvit_dia.data import decoded_cache
from uvit_dia.data.decoded_set import DecodedSet, decode_all
from uvit_dia.data.decoding import ImageFormat
from uvit_dia.data.images import ImageSet
from uvit_dia.data.listing import Listing
from uvit_dia.data.mapped_set import mapped

WORTH_KEEPING_SECONDS = 10.0  # of decoding, after which a second start reads a copy


def _decode(
    listing: Listing, image_format: ImageFormat, skip_unreadable: bool, show_progress: bool
) -> DecodedSet:
    """Read the copy that an earlier start kept, or decode, and keep a copy of what took long."""
    key = decoded_cache.key_of(listing, image_format, skip_unreadable=skip_unreadable)
    decoded, note = decoded_cache.read(listing, image_format, key)
    if decoded is not None:
        return decoded
    started = time.monotonic()
    decoded = decode_all(
        listing, image_format, skip_unreadable=skip_unreadable, show_progress=show_progress
    )
    notes = [note] if note else []
    if time.monotonic() - started >= WORTH_KEEPING_SECONDS:
        # files that changed meanwhile are not what the name of a copy says
        now = decoded_cache.key_of(listing, image_format, skip_unreadable=skip_unreadable)
        notes += [decoded_cache.write(listing, key, decoded)] if now == key else []
    return replace(decoded, notes=(*decoded.notes, *notes))


def set_in_memory(
    listing: Listing, image_format: ImageFormat, skip_unreadable: bool, show_progress: bool
) -> ImageSet:
    """Return the images of a listing, decoded; arguments and errors as for `decode_all`."""
    return image_set(listing, _decode(listing, image_format, skip_unreadable, show_progress))


def set_in_map(
    listing: Listing, image_format: ImageFormat, skip_unreadable: bool, show_progress: bool
) -> ImageSet:
    """Return the images of a listing as a map of a file; arguments and errors as for `mapped`."""
    kept = mapped(
        listing, image_format, skip_unreadable=skip_unreadable, show_progress=show_progress
    )
    return replace(image_set(listing, kept.decoded), known_sha256=kept.sha256)


def read_listing(
    listing: Listing, img_size: int, in_chans: int, *, show_progress: bool
) -> ImageSet:
    """Read the images of a listing, all of one size.

    Raises:
        InputError: if one cannot be read, or has another size.
    """
    image_format = ImageFormat(img_size, in_chans)
    return set_in_memory(listing, image_format, False, show_progress)


def image_set(listing: Listing, decoded: DecodedSet) -> ImageSet:
    """Return what was decoded of a listing, with the labels of the images that could be read."""
    labels = None
    if listing.labels is not None:
        is_read = torch.ones(listing.num_images, dtype=torch.bool)
        is_read[list(decoded.unread_rows)] = False
        labels = torch.tensor(listing.labels, dtype=torch.int64)[is_read]
    return ImageSet(
        listing.name,
        torch.from_numpy(decoded.images),
        labels,
        listing.class_names,
        listing.source,
        (*decoded.notes, *listing.notes),
    )
