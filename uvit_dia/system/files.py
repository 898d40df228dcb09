"""Files that are there whole or not at all: atomic writes, fsync, hashes, checked downloads."""

import hashlib
import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from uvit_dia.system.errors import InputError, StorageError


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_path(path: Path) -> None:
    """Make a file's content, or a folder's entries, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one step: a reader, or a crash, sees the old content or the new, never a part.

    Raises:
        StorageError: if it cannot be written; an old file is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _storage_errors(path):
        try:
            temporary.write_bytes(content)
            fsync_path(temporary)
            temporary.replace(path)
        finally:
            with suppress(OSError):  # what happened to the folder has been told already
                temporary.unlink(missing_ok=True)
        fsync_path(path.parent)


def append_line(path: Path, line: str) -> None:
    """Append a line of JSON to a file; what a kill left of an earlier line is taken away first.

    Raises:
        StorageError: if it cannot be written.
    """
    with _storage_errors(path), path.open("a+b") as file:
        _mend_end(file)
        file.write(line.encode() + b"\n")


def _mend_end(file: BinaryIO) -> None:
    """End a last line that lacks its line end, or take it away if it is not whole."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    if file.read() in (b"", b"\n"):
        return
    file.seek(0)
    content = file.read()
    start = content.rfind(b"\n") + 1
    try:
        json.loads(content[start:])
    except (ValueError, RecursionError):
        file.truncate(start)
    else:
        file.write(b"\n")


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    """Tell a failed write in one line."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON, atomically; NaN and infinities are refused with ValueError."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_atomically(path, text.encode())


def cache_folder() -> Path:
    """Return the folder for what the package downloads or derives: $UVIT_DIA_CACHE, or uvit_dia in the user's cache."""
    chosen = os.environ.get("UVIT_DIA_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uvit_dia"


def download(url: str, target: Path, sha256: str, show_progress: bool) -> None:
    """Download a file beside its place, check its hash, then put it there.

    Raises:
        InputError: if it cannot be had, or is not what the hash says; nothing is kept then.
    """
    from tqdm import tqdm

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {target.parent}: {error.strerror}") from error
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        # S310, B310: the addresses are constants of this package, https all of them
        with urllib.request.urlopen(url, timeout=60) as response, temporary.open("wb") as file:  # noqa: S310  # nosec B310
            total = int(response.headers.get("Content-Length") or 0) or None
            with tqdm(
                total=total, unit="B", unit_scale=True, desc=target.name, disable=not show_progress
            ) as bar:
                while block := response.read(2**20):
                    file.write(block)
                    bar.update(len(block))
        found = sha256_file(temporary)
        if found != sha256:
            raise InputError(
                f"{url} sent SHA-256 {found[:16]}..., expected {sha256[:16]}...; nothing was kept"
            )
        temporary.replace(target)
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        TimeoutError,
        ConnectionError,
    ) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())[:80]
        raise InputError(f"cannot download {url} ({reason}); put the file at {target}") from error
    finally:
        temporary.unlink(missing_ok=True)
