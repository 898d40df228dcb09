"""NumPy's .npz archives of others: arrays by name, without pickles, and as long as they say."""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uvit_dia.data.archives import checked_members, read_member
from uvit_dia.system.errors import InputError
from uvit_dia.system.messages import clip

if TYPE_CHECKING:
    import numpy as np

_SUFFIX = ".npy"
_HEADER_BYTES = 2**16


@dataclass(frozen=True)
class ArrayHeader:
    """What an array says of itself.

    Attributes:
        shape: its sizes.
        dtype: NumPy's type.
    """

    shape: tuple[int, ...]
    dtype: Any


def array_headers(path: Path, flag: str) -> dict[str, ArrayHeader]:
    """Return what the arrays of an .npz say of themselves, by their names.

    Args:
        path: of the file.
        flag: that it was given to, for messages.

    Raises:
        InputError: if it is no such file, holds pickled objects, or an array is cut off.
    """
    found = {}
    for member in checked_members(path, flag):
        name = member.filename.removesuffix(_SUFFIX)
        if name == member.filename:
            raise InputError(f"{flag}: {path} holds {clip(repr(name), 60)}, which is no array")
        found[name] = _header(path, member, flag)
    return found


def _header(path: Path, member: zipfile.ZipInfo, flag: str) -> ArrayHeader:
    import zlib

    import numpy as np

    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            start = io.BytesIO(file.read(_HEADER_BYTES))
        version = np.lib.format.read_magic(start)
        shape, _, dtype = readers[version](start)
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError, LookupError) as error:
        reason = clip(error, 60)
        raise InputError(f"{flag}: {path}:{member.filename} is no array: {reason}") from error
    if dtype.hasobject:
        raise InputError(f"{flag}: {path}:{member.filename} holds pickled objects; none are read")
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if start.tell() + size != member.file_size:
        raise InputError(f"{flag}: {path}:{member.filename} is not as long as it says")
    return ArrayHeader(tuple(shape), dtype)


def read_array(path: Path, name: str, flag: str) -> "np.ndarray":
    """Return an array of a file whose headers were read.

    Raises:
        InputError: if it is damaged.
    """
    import numpy as np

    content = io.BytesIO(read_member(path, name + _SUFFIX, flag))
    try:
        return np.lib.format.read_array(content, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{flag}: {path}:{name} is damaged: {clip(error, 60)}") from error


def image_array(headers: Mapping[str, ArrayHeader], path: Path, flag: str) -> str:
    """Return which array of an .npz holds images, (N, H, W, C) uint8.

    Raises:
        InputError: if none or several do.
    """
    names = [
        name
        for name, header in headers.items()
        if header.dtype == "uint8" and len(header.shape) == 4 and header.shape[-1] in (1, 3)
    ]
    if len(names) == 1 and min(headers[names[0]].shape) > 0:
        return names[0]
    held = ", ".join(f"{name} {h.dtype}{list(h.shape)}" for name, h in headers.items())
    raise InputError(
        f"{flag}: {path} must hold one array of images, uint8 (N, H, W, C) with C = 1 or 3; it "
        f"holds {clip(held, 100)}"
    )
