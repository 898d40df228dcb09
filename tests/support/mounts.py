"""File systems that lack something, for the tests.

In this process, functions answer as on such a mount.
"""

import errno
import fcntl
import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _refuse(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def _no_chmod(code: int) -> None:
    def chmod(*arguments: Any, **named: Any) -> None:
        raise _refuse(code)

    os.chmod = chmod


def _no_fsync_of_folders(code: int) -> None:
    fsync = os.fsync

    def fsync_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise _refuse(code)
        fsync(descriptor)

    os.fsync = fsync_files  # type: ignore[assignment]


def _no_open_folders(code: int) -> None:
    open_ = os.open

    def open_files(path: Any, *arguments: Any, **named: Any) -> int:
        descriptor = open_(path, *arguments, **named)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise _refuse(code)
        return descriptor

    os.open = open_files


def _no_flock(code: int) -> None:
    def flock(*arguments: Any) -> None:
        raise _refuse(code)

    fcntl.flock = flock


def _no_hard_links(code: int) -> None:
    def link(*arguments: Any, **named: Any) -> None:
        raise _refuse(code)

    os.link = link


def _no_replacing(code: int) -> None:
    rename = os.rename

    def rename_to_free_name(source: Any, target: Any, **named: Any) -> None:
        if Path(target).is_file():
            raise _refuse(code)
        rename(source, target, **named)

    os.rename = os.replace = rename_to_free_name


def _no_count_of_free_bytes(code: int) -> None:
    def disk_usage(path: Any) -> Any:
        if code:
            raise _refuse(code)
        return shutil._ntuple_diskusage(0, 0, 0)  # type: ignore[attr-defined]

    shutil.disk_usage = disk_usage


def _always_full(code: int) -> None:
    shutil.disk_usage = lambda path: shutil._ntuple_diskusage(10**9, 10**9, 0)  # type: ignore[attr-defined]


LACKS: dict[str, Callable[[int], None]] = {
    "chmod": _no_chmod,
    "fsync of folders": _no_fsync_of_folders,
    "opening folders": _no_open_folders,
    "flock": _no_flock,
    "hard links": _no_hard_links,
    "replacing": _no_replacing,
    "count of free bytes": _no_count_of_free_bytes,
    "true count of free bytes": _always_full,
}


def take_away(*lacks: tuple[str, int]) -> None:
    """Let this process find a mount that lacks some of `LACKS`; its errno for each, 0 for none."""
    for lack, code in lacks:
        LACKS[lack](code)


class StaleOnce:
    """Lets the k-th look at a file or folder of this process fail with ESTALE, as NFS does.

    The others succeed.

    Args:
        root: the folder below which it happens.
        count: k, from 0.
    """

    EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "os.listdir")

    def __init__(self, root: Path, count: int) -> None:
        self.root = str(root)
        self.left = count
        self.is_armed = False
        sys.addaudithook(self._pass_by)
        self._stat = os.stat
        os.stat = self._stat_after_count  # type: ignore[assignment]

    def _pass_by(self, event: str, arguments: tuple) -> None:
        if self.is_armed and event in self.EVENTS and self._is_below_root(arguments[0]):
            self._count()

    def _is_below_root(self, path: object) -> bool:
        return isinstance(path, str | Path) and str(path).startswith(self.root)

    def _count(self) -> None:
        self.left -= 1
        if self.left == -1:
            raise _refuse(errno.ESTALE)

    def _stat_after_count(self, path: Any, *arguments: Any, **named: Any) -> os.stat_result:
        if self.is_armed and self._is_below_root(path):
            self._count()
        return self._stat(path, *arguments, **named)
