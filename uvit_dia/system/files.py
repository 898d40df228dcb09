"""Files that are there whole or not at all, their hashes, and the paths that users type."""

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
from uvit_dia.system.mounts import again_if_stale, fsync_path, replace
from uvit_dia.system.progress import progress_bar


def expand_home(text: str, origin: str) -> str:
    """Return a path with `~` or `~name` at its start replaced by that home folder.

    A shell leaves the tilde of `--workdir=~/run` alone, and config files never meet a shell.

    Args:
        text: the path.
        origin: the flag, config key or variable that it comes from, for the message.

    Raises:
        InputError: if there is no such user, or no home folder is known.
    """
    if not text.startswith("~"):
        return text
    expanded = os.path.expanduser(text)  # noqa: PTH111  (Path.expanduser raises RuntimeError)
    if expanded.startswith("~"):
        name = text.partition("/")[0]
        raise InputError(
            f"{origin}: no home folder is known for {name:.40} of {text!r:.80} "
            f"(a folder of that name is ./{name:.40})"
        )
    return expanded


def user_path(text: str, origin: str) -> Path:
    """Return the path that a user typed, see `expand_home`."""
    return Path(expand_home(text, origin))


@again_if_stale
def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one step: a reader, or a crash, sees the old content or the new.

    Raises:
        StorageError: if it cannot be written; an old file is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    @again_if_stale
    def write() -> None:
        temporary.write_bytes(content)
        fsync_path(temporary)
        replace(temporary, path)

    with _storage_errors(path):
        try:
            write()
        finally:
            with suppress(OSError):  # what happened to the folder has been told already
                temporary.unlink(missing_ok=True)
        fsync_path(path.parent)


def append_line(path: Path, line: str) -> None:
    """Append a line of JSON to a file; what a kill left of an earlier line is taken away first.

    Raises:
        StorageError: if it cannot be written.
    """

    @again_if_stale
    def append() -> None:
        with path.open("a+b") as file:
            _mend_end(file)
            file.write(line.encode() + b"\n")

    with _storage_errors(path):
        append()


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
    """Write a value as indented JSON, atomically; NaN and infinities raise ValueError."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_atomically(path, text.encode())


def cache_folder() -> Path:
    """Return where downloads and features are kept: $UVIT_DIA_CACHE, or the user's cache.

    Raises:
        InputError: if neither is set and no home folder is known.
    """
    chosen = os.environ.get("UVIT_DIA_CACHE")
    if chosen:
        return user_path(chosen, "UVIT_DIA_CACHE")
    return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "XDG_CACHE_HOME") / "uvit_dia"


def name_in_cache(name: str, key: str, suffix: str) -> str:
    """Return the name of a file in the cache: what it is of, for people, and the key it has.

    Args:
        name: of the set; only its start, and plain letters and digits, are kept.
        key: hexadecimal digest of what the content depends on.
        suffix: with its dot.
    """
    plain = "".join(c if c.isalnum() and c.isascii() else "_" for c in name[:40])
    return f"{plain}-{key[:32]}{suffix}"


def download(url: str, target: Path, sha256: str, show_progress: bool) -> None:
    """Download a file beside its place, check its hash, then put it there.

    Raises:
        InputError: if it cannot be had, or is not what the hash says; nothing is kept then.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {target.parent}: {error.strerror}") from error
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        # S310, B310: the addresses are constants of this package, https all of them
        with urllib.request.urlopen(url, timeout=60) as response, temporary.open("wb") as file:  # noqa: S310  # nosec B310
            total = int(response.headers.get("Content-Length") or 0) or None
            with progress_bar(
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
        replace(temporary, target)
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
