"""A copy of a decoded set in the user's cache, so that a second start need not decode it again.

The copy is named after the files it was made of (path, size, times) and what they were made into.
It is optional: what cannot be written or read is told and done without. A file is one line of JSON,
then the pixels.
"""

import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import PIL

from uvit_dia.data.decoded_set import DecodedSet
from uvit_dia.data.decoding import ImageFormat
from uvit_dia.data.listing import Listing
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import cache_folder, fsync_path, name_in_cache

VERSION = 1  # of what decoding does; another one makes old copies unknown
MAX_HEADER_BYTES = 2**24
SHARE_OF_FREE_SPACE = 0.1  # that a copy may take


def key_of(listing: Listing, image_format: ImageFormat, *, skip_unreadable: bool) -> str:
    """Return a name for the decoded images that changes if a file or a setting does.

    Raises:
        InputError: naming a file that is not there any more.
    """
    facts = [VERSION, PIL.__version__, asdict(image_format), skip_unreadable, listing.source]
    digest = hashlib.sha256(json.dumps([*facts, listing.num_images]).encode())
    here, quoted = Path.cwd(), json.encoder.encode_basestring_ascii
    for file in map(str, listing.files):
        try:
            status = os.stat(file)  # noqa: PTH116, a Path would take longer than the call
        except OSError as error:
            raise InputError(f"cannot read {file}: {error.strerror}") from error
        place = file if file.startswith("/") else str(here / Path(file))
        times = f"{status.st_mtime_ns}, {status.st_ctime_ns}"
        # what json.dumps makes of a list, in a fifth of its time: there may be a million files
        digest.update(f"[{quoted(place)}, {status.st_size}, {times}]".encode())
    return digest.hexdigest()


def read(listing: Listing, image_format: ImageFormat, key: str) -> tuple[DecodedSet | None, str]:
    """Return the kept copy, None where there is none; and a note where one is damaged."""
    path = place_of(listing, key)
    if path is None or not path.is_file():
        return None, ""
    try:
        with path.open("rb") as file:
            header = json.loads(file.readline(MAX_HEADER_BYTES))
            unread, notes = tuple(header["unread_rows"]), tuple(header["notes"])
            shape = (listing.num_images - len(unread), *image_format.shape)
            images = np.fromfile(file, dtype=np.uint8)
        if (header["key"], header["sha256"]) == (key, hashlib.sha256(images.data).hexdigest()):
            note = f"decoded by an earlier start ({path})"
            return DecodedSet(images.reshape(shape), unread, (*notes, note)), ""
        reason = "its content is not what it says"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:80]
    return None, f"warning: {path} is damaged ({reason}), so the images were decoded again"


def write(listing: Listing, key: str, decoded: DecodedSet) -> str:
    """Keep a copy of decoded images; return a note that says where, or why not."""
    path = place_of(listing, key)
    if path is None:
        return "warning: not kept for the next start (no cache folder)"
    header = {
        "key": key,
        "sha256": hashlib.sha256(decoded.images.data).hexdigest(),
        "unread_rows": decoded.unread_rows,
        "notes": decoded.notes,
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if decoded.images.nbytes > SHARE_OF_FREE_SPACE * shutil.disk_usage(path.parent).free:
            return f"not kept for the next start (too little space in {path.parent})"
        with temporary.open("wb") as file:
            file.write(json.dumps(header).encode() + b"\n")
            file.write(decoded.images.data)
        fsync_path(temporary)
        temporary.replace(path)
    except OSError as error:
        return f"warning: not kept for the next start ({path.parent}: {error.strerror or error})"
    finally:
        with suppress(OSError):  # what happened to the folder has been told already
            temporary.unlink(missing_ok=True)
    return f"kept for the next start in {path}"


def place_of(listing: Listing, key: str, suffix: str = ".bin") -> Path | None:
    """Return the file of a set in the cache; None for a user without one."""
    try:
        folder = cache_folder()
    except (RuntimeError, InputError):  # a user without a home
        return None
    return folder / "images" / name_in_cache(listing.name, key, suffix)
