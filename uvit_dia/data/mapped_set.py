"""A decoded set in a file that is mapped into memory, for sets that are larger than that.

The file lies in the user's cache, named after the files it was made of and what they were made
into. It is built once, and complete as soon as the description beside it is there, which is
written last. The pixels are those of the decoded set in memory, in the same order.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from uvit_dia.data import decoded_cache
from uvit_dia.data.decoded_set import DecodedSet, decode_all
from uvit_dia.data.decoding import ImageFormat
from uvit_dia.data.images import sha256_of
from uvit_dia.data.listing import Listing
from uvit_dia.system.errors import InputError, StorageError
from uvit_dia.system.files import fsync_path, write_json
from uvit_dia.system.records import read_json

SPARE_BYTES = 2**28  # that a map leaves free on its disk


@dataclass(frozen=True)
class MappedSet:
    """A decoded set whose pixels lie in a file.

    Attributes:
        decoded: the set; its images are a memory map.
        sha256: fingerprint of the images, see `ImageSet.fingerprint`.
    """

    decoded: DecodedSet
    sha256: str


def mapped(
    listing: Listing, image_format: ImageFormat, *, skip_unreadable: bool, show_progress: bool
) -> MappedSet:
    """Open the map of a set, or build it.

    Arguments as for `decode_all`.

    Raises:
        InputError: naming the images that cannot be read, or if there is no cache or no space.
        StorageError: if the disk fails while the map is written.
    """
    key = decoded_cache.key_of(listing, image_format, skip_unreadable=skip_unreadable)
    path = decoded_cache.place_of(listing, key, ".map")
    if path is None:
        raise InputError("data.memory_map = True needs a cache folder; set UVIT_DIA_CACHE")
    found = _open(path, key, image_format)
    if found is not None:
        return found
    _build(path, key, listing, image_format, skip_unreadable, show_progress)
    found = _open(path, key, image_format)
    if found is None:
        raise StorageError(f"{path}: what was written cannot be read")
    return found


def _open(path: Path, key: str, image_format: ImageFormat) -> MappedSet | None:
    """Return the map; None where there is none, or it is torn or of another set."""
    facts = read_json(_description(path)).values
    unread, notes, count = (facts.get(name) for name in ("unread_rows", "notes", "num_images"))
    sha256 = facts.get("sha256")
    if facts.get("key") != key or not isinstance(count, int) or not isinstance(sha256, str):
        return None
    if not isinstance(unread, list) or not isinstance(notes, list):
        return None
    shape = (count, *image_format.shape)
    if not path.is_file() or path.stat().st_size != int(np.prod(shape)):
        return None
    # "c": nothing is written back to the file
    images = np.memmap(path, dtype=np.uint8, mode="c", shape=shape)
    decoded = DecodedSet(images, tuple(unread), (*map(str, notes), f"memory-mapped from {path}"))
    return MappedSet(decoded, sha256)


def _build(
    path: Path,
    key: str,
    listing: Listing,
    image_format: ImageFormat,
    skip_unreadable: bool,
    show_progress: bool,
) -> None:
    shape = (listing.num_images, *image_format.shape)
    size = int(np.prod(shape))
    with _one_line(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if size + SPARE_BYTES > free:
            raise InputError(
                f"data.memory_map = True: {listing.num_images} images need {size} bytes in "
                f"{path.parent}, which has {free} free; UVIT_DIA_CACHE names another folder"
            )
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            images = np.memmap(temporary, dtype=np.uint8, mode="w+", shape=shape)
            decoded = decode_all(
                listing,
                image_format,
                skip_unreadable=skip_unreadable,
                show_progress=show_progress,
                into=images,
            )
            images.flush()
            sha256 = sha256_of(torch.from_numpy(decoded.images))
            os.truncate(temporary, decoded.images.nbytes)  # of images that could not be read
            facts = {
                "key": key,
                "num_images": len(decoded.images),
                "unread_rows": decoded.unread_rows,
                "notes": decoded.notes,
                "sha256": sha256,
            }
            fsync_path(temporary)
            _description(path).unlink(missing_ok=True)
            temporary.replace(path)
            write_json(_description(path), facts)
        finally:
            with suppress(OSError):  # the disk's failure is told already
                temporary.unlink(missing_ok=True)


def _description(path: Path) -> Path:
    return path.with_suffix(".json")


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except (InputError, StorageError):
        raise
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(
            f"data.memory_map = True: cannot write {path.parent}: {reason}"
        ) from error
