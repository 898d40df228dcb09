"""File operations that some file systems lack: done without there, and lost safety told once a run.

SMB, exFAT, FUSE (object stores, sshfs) and NFS each lack some of: permissions, fsync of folders,
renaming over a file, a count of free bytes, and handles that stay valid.
"""

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from uvit_dia.system.notices import warn, warn_once

# How a file system says that it has no such operation.
UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_NO_MODES = UNSUPPORTED | {errno.EPERM, errno.EACCES}
_NO_FOLDER_OPEN = UNSUPPORTED | {errno.EPERM, errno.EACCES, errno.EISDIR, errno.EBADF}
_NO_REPLACE = UNSUPPORTED | {errno.EEXIST, errno.EPERM, errno.EACCES, errno.EBUSY}
_PROBE_BYTES = 2**20

P = ParamSpec("P")
T = TypeVar("T")


def again_if_stale(function: Callable[P, T]) -> Callable[P, T]:
    """Let a repeatable function start again, once, if NFS answers that a handle is stale."""

    @wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> T:
        try:
            return function(*arguments, **named)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        return function(*arguments, **named)

    return call


@again_if_stale
def fsync_path(path: Path) -> None:
    """Make a file's content, or a folder's entries, survive a power cut, if the mount can."""
    is_folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in (_NO_FOLDER_OPEN if is_folder else UNSUPPORTED):
            raise
        kind = "folders" if is_folder else "files"
        warn_once(
            f"fsync of {kind}",
            f"{path}: this file system cannot sync {kind} ({error.strerror}); after a power cut "
            "the newest files may be missing",
        )


@again_if_stale
def remove_folder(folder: Path) -> None:
    """Remove a folder of files, also where a mount lets nobody open folders, as rmtree does."""
    try:
        shutil.rmtree(folder)
    except OSError as error:
        if error.errno not in _NO_FOLDER_OPEN:
            raise
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def set_mode(path: Path, mode: int) -> None:
    """Set the permissions of a file, unless the mount gives all of its files the same."""
    try:
        path.chmod(mode)
    except OSError as error:
        if error.errno not in _NO_MODES:
            raise


def replace(source: Path, target: Path) -> None:
    """Rename a file over another; in two steps if the file system refuses to do it in one."""
    try:
        source.replace(target)
        return
    except OSError as error:
        if error.errno not in _NO_REPLACE or not target.is_file():
            raise
        reason = error.strerror
    aside = _aside(target)
    aside.unlink(missing_ok=True)
    target.rename(aside)
    try:
        source.rename(target)
    except OSError:
        aside.rename(target)
        raise
    aside.unlink()
    warn_once(
        "replace",
        f"{target}: this file system cannot rename a file over another ({reason}); a kill while "
        "a file is written may leave its older content",
    )


@again_if_stale
def restore_replaced(path: Path) -> None:
    """Put the old file back if a kill came between the two steps of `replace`."""
    aside = _aside(path)
    if not aside.is_file():
        return
    if path.exists():
        aside.unlink()
    else:
        aside.rename(path)
        warn(f"a kill interrupted the writing of {path}; its older content is back")


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def free_bytes(folder: Path) -> int | None:
    """Return how many bytes a folder has room for; None if the mount gives no true count."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    if usage.total == 0 or (usage.free == 0 and _can_write(folder)):
        return None
    return usage.free


def _can_write(folder: Path) -> bool:
    """Say whether a file of 1 MiB finds room."""
    probe = folder / f".space.{os.getpid()}"
    try:
        probe.write_bytes(bytes(_PROBE_BYTES))
        fsync_path(probe)
    except OSError:
        return False
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return True
