"""A lock that ends with its process; a marker folder where the file system has no locks.

`flock` ends with its process, however that ends. Some mounts have none (Lustre without `-o flock`,
some FUSE). There the lock is the folder NAME-held, with a file in it that says who holds it:
renaming a full folder to that name succeeds for one process only, and needs neither hard links nor
exclusive creation. Such a marker outlives a kill -9, so the next process asks whether the holder
still runs; on another machine it cannot see that, and refuses.
"""

import contextlib
import fcntl
import os
import weakref
from dataclasses import asdict
from errno import EACCES, EAGAIN, ENOLCK, EWOULDBLOCK
from pathlib import Path
from typing import IO

from uvit_dia.system.files import write_json
from uvit_dia.system.lock_owner import has_ended, read_owner, this_process
from uvit_dia.system.mounts import UNSUPPORTED, again_if_stale, remove_folder
from uvit_dia.system.notices import warn, warn_once

_HELD = {EACCES, EAGAIN, EWOULDBLOCK}
_NO_LOCKS = UNSUPPORTED | {ENOLCK}
_ATTEMPTS = 20  # to take a marker that other processes take and leave meanwhile


class LockHeldError(Exception):
    """Another process holds the lock.

    Attributes:
        holder: who, as far as the lock knows; "" if it does not.
        advice: what to do if that process has ended and this machine cannot see it; else "".
    """

    def __init__(self, holder: str = "", advice: str = "") -> None:
        super().__init__(holder)
        self.holder = holder
        self.advice = advice


class ProcessLock:
    """A lock of one process on a path; it ends with the process, or with this object.

    Args:
        path: the lock file, which is made and stays; the marker folder lies beside it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.marker = path.with_name(f"{path.name}-held")
        self._file: IO[bytes] | None = None
        self._leave_marker: weakref.finalize | None = None

    def acquire(self) -> None:
        """Take the lock at once or not at all.

        Raises:
            LockHeldError: if another process holds it.
            OSError: if the lock file cannot be made.
        """
        try:
            self._file = _locked_file(self.path, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            self._take_marker()
            warn_once(
                "flock",
                f"{self.path.parent}: this file system has no locks ({error.strerror}); the folder "
                f"{self.marker.name} in it keeps other runs out",
            )

    def release(self) -> None:
        """Give the lock back, if this process has it."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._leave_marker is not None:
            self._leave_marker()

    def is_held(self) -> bool:
        """Say whether some process holds the lock; the folder may be read-only."""
        try:
            _locked_file(self.path, os.O_RDONLY, fcntl.LOCK_SH).close()
        except LockHeldError:
            return True
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                return False  # there is no lock file that could be locked
            return self.marker.is_dir() and has_ended(read_owner(self.marker)) is not True
        return False

    def _take_marker(self) -> None:
        mine = self.path.with_name(f"{self.marker.name}-new.{os.getpid()}")
        _remove(mine)  # of a killed process of the same number
        mine.mkdir()
        try:
            write_json(mine / "owner.json", asdict(this_process()))
            for _ in range(_ATTEMPTS):
                if _renamed(mine, self.marker):
                    self._leave_marker = weakref.finalize(
                        self, _remove_marker, self.marker, os.getpid()
                    )
                    return
                self._remove_stale_marker()
            raise LockHeldError
        finally:
            _remove(mine)

    def _remove_stale_marker(self) -> None:
        """Move the marker of a process that has ended out of the way.

        It moves to a name made of its own content, and stays there until the next such move: of two
        processes that found the same stale marker, the slower one cannot move the new marker of the
        faster one.

        Raises:
            LockHeldError: if its process runs, or may run.
        """
        owner = read_owner(self.marker)
        if owner is None and not self.marker.exists():
            return  # its process has just given it back
        ended = has_ended(owner)
        if owner is None or not ended:
            advice = "" if ended is False else f"if that one has ended, delete {self.marker}"
            raise LockHeldError("" if owner is None else owner.describe(), advice)
        ended_name = f"{self.marker.name}-ended."
        earlier = list(self.path.parent.glob(f"{ended_name}*"))
        if _renamed(self.marker, self.path.with_name(ended_name + owner.nonce)):
            warn(f"{self.path.parent}: took over the lock of {owner.describe()}, which has ended")
            for path in earlier:
                _remove(path)


@again_if_stale
def _locked_file(path: Path, flags: int, kind: int) -> IO[bytes]:
    """Open a file and lock it; links are not followed, since a planted one may lead anywhere."""
    file = os.fdopen(os.open(path, flags | os.O_NOFOLLOW, 0o666), "rb", buffering=0)
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno in _HELD:
            raise LockHeldError from error
        raise
    return file


def _renamed(source: Path, target: Path) -> bool:
    """Rename a folder to a name that must be free; say whether it was."""
    try:
        source.rename(target)
    except OSError:
        if target.exists() or not source.exists():  # another process was faster
            return False
        raise
    return True


def _remove_marker(marker: Path, process: int) -> None:
    if os.getpid() != process:
        return  # a fork inherits the object, but not the lock
    left = marker.with_name(f"{marker.name}-left.{process}")
    with contextlib.suppress(OSError):  # the folder went away, or the marker was deleted by hand
        marker.rename(left)  # in one step: an empty marker could be renamed over
    _remove(left)


def _remove(folder: Path) -> None:
    with contextlib.suppress(OSError):  # it is not there, or in nobody's way
        remove_folder(folder)
