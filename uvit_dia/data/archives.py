"""Zip archives of others, checked before anything in them is read. Needs no torch.

Nothing is ever unpacked to disk: members are read by name, one by one.
"""

import stat
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath

from uvit_dia.system.errors import InputError
from uvit_dia.system.messages import clip

MAX_BYTES = 64 * 2**30  # of all members unpacked
FREE_BYTES = 256 * 2**20  # up to which no ratio is looked at
MAX_RATIO = 100  # of unpacked to packed; images, and arrays of them, stay far below
_READ_ERRORS = (OSError, ValueError, RuntimeError, NotImplementedError, EOFError)


def checked_members(path: Path, flag: str) -> list[zipfile.ZipInfo]:
    """Return the files in an archive, in the order of their names.

    Args:
        path: of the archive.
        flag: that it was given to, for messages.

    Raises:
        InputError: if it is no zip archive, empty, a bomb, encrypted, or holds links, names that
            lead out of it, or two files of one name.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        packed = path.stat().st_size
    except (zipfile.BadZipFile, *_READ_ERRORS) as error:
        raise InputError(f"{flag}: {path} is no readable zip archive: {clip(error, 60)}") from error
    files = sorted((each for each in members if not each.is_dir()), key=lambda each: each.filename)
    if not files:
        raise InputError(f"{flag}: {path} is empty")
    total = sum(each.file_size for each in files)
    if total > MAX_BYTES or total > max(FREE_BYTES, MAX_RATIO * packed):
        raise InputError(
            f"{flag}: {path} of {packed} bytes would unpack to {total}; at most {MAX_RATIO} times "
            f"its size is read, and at most {MAX_BYTES} bytes"
        )
    for each in members:
        if reason := _reason(each):
            raise InputError(f"{flag}: {path} holds {clip(repr(each.filename), 60)}, {reason}")
    name, count = Counter(each.filename for each in files).most_common(1)[0]
    if count > 1:
        raise InputError(f"{flag}: {path} holds {count} files called {clip(repr(name), 60)}")
    return files


def _reason(member: zipfile.ZipInfo) -> str:
    """Say why a member is not read; "" for one that is."""
    name = PurePosixPath(member.filename)
    if name.is_absolute() or ".." in name.parts or "\\" in member.orig_filename:
        return "which leads out of the archive"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "a link"
    if member.flag_bits & 1:
        return "which is encrypted"
    return ""


def read_member(path: Path, member: str, flag: str) -> bytes:
    """Return the content of a file in an archive that was checked.

    Raises:
        InputError: if it is damaged.
    """
    import zlib

    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(member)
    except (zipfile.BadZipFile, zlib.error, KeyError, *_READ_ERRORS) as error:
        raise InputError(f"{flag}: {path}:{member} is damaged: {clip(error, 60)}") from error
