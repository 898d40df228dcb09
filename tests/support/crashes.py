"""Crashes at every file operation: the process ends there, and the power may go too."""

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from uvit_dia.runs import commit

_OPERATIONS = {"open", "os.chmod", "os.mkdir", "os.remove", "os.rename", "os.rmdir"}
KILLED = 137  # what a shell reports for kill -9


class Crash:
    """Ends this process before its k-th file operation.

    Args:
        root: the folder whose files are written.
        count: k, from 0.
        note: where to write, at the end, what a power cut would spare: see `lost_with_the_power`.
    """

    def __init__(self, root: Path, count: int, note: Path | None = None) -> None:
        self.left = count
        self.note = note
        self.is_armed = False
        self._lock = threading.Lock()
        self._crashing: int | None = None  # the thread that does
        self._safe = {path.stat().st_ino for path in root.rglob("*")}
        self._fsync, self._save_file = os.fsync, commit.save_file
        sys.addaudithook(lambda event, _: self.pass_by() if event in _OPERATIONS else None)
        os.fsync = self._fsync_and_note  # type: ignore[assignment]
        commit.save_file = self._save_file_torn

    def pass_by(self) -> None:
        """Count one operation, or end here."""
        if not self.is_armed or self._crashing == threading.get_ident():
            return
        with (
            self._lock
        ):  # which the crash keeps: what other threads were about to do, they never do
            if self.left == 0:
                self._crashing = threading.get_ident()
                if self.note is not None:
                    self.note.write_text(json.dumps(sorted(self._safe)))
                os._exit(KILLED)
            self.left -= 1

    def _fsync_and_note(self, descriptor: int) -> None:
        self.pass_by()
        self._fsync(descriptor)
        self._safe.add(os.fstat(descriptor).st_ino)

    def _save_file_torn(self, tensors: dict, path: Path, *arguments: Any) -> None:
        """Write half of something first: safetensors' own writing is not seen by audit hooks."""
        path.write_bytes(b"half of a file")
        self.pass_by()
        self._save_file(tensors, path, *arguments)
        self.pass_by()


def lost_with_the_power(root: Path, note: Path) -> list[Path]:
    """Return the files of a folder whose content was not fsynced before a crash left its note."""
    safe = set(json.loads(note.read_text()))
    return [
        path.relative_to(root)
        for path in root.rglob("*")
        if path.is_file() and path.stat().st_ino not in safe
    ]


def run_armed(crash: Crash, function: Callable[..., object], *arguments: Any, **named: Any) -> None:
    """Call a function in which the crash may happen."""
    crash.is_armed = True
    function(*arguments, **named)
    crash.is_armed = False
