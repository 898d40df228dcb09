"""Streams of Hugging Face's `datasets`: first images, kept in the user's cache, and later rows.

A set that is larger than the disk, or whose length nobody knows, is not read whole: its first
images are copied once into a parquet file, without the rest being downloaded. From then on they are
a set like any other, with a length, labels, an exact order and an exact resume, and no network is
asked. What is not exact is the choice: the first images stand for the set only if its order is a
random one. `stream_windows.py` goes on through the rest.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from uvit_dia.data.hf import IMAGE, LABEL, image_column, label_column, load, split_of
from uvit_dia.data.listing import Listing
from uvit_dia.data.parquet import list_parquet
from uvit_dia.system.errors import InputError, StorageError
from uvit_dia.system.files import cache_folder, fsync_path, name_in_cache
from uvit_dia.system.messages import clip
from uvit_dia.system.progress import progress_bar

VERSION = 1  # of what is kept; another one makes old copies unknown
ROWS_AT_A_TIME = 100
SILENT_SECONDS = 1.0


def list_first(path: str, split: str, count: int, *, show_progress: bool) -> Listing | None:
    """List the first images of a split, which are fetched if the cache has not got them.

    Args:
        path: as `data.path`; what is streamed is an id on the Hub, or files that the library's
            builders read.
        split: "train" or "test".
        count: how many images.
        show_progress: whether a bar shows the fetching.

    Returns:
        The images, fewer than `count` where the stream ends before; None where there is no test
        split.

    Raises:
        InputError: if the set cannot be streamed, has no column of images, or there is no cache.
        StorageError: if the copy cannot be written.
    """
    file = _place(path, split, count)
    if not file.is_file():
        stream = split_of(load(path, streaming=True), split, path)
        if stream is None:
            return None
        _keep(stream, path, count, file, show_progress=show_progress)
    kept = list_parquet(file, "train")
    assert kept is not None  # a file is a training set
    note = f"the first {kept.num_images} of a stream, kept in {file}"
    if kept.num_images < count:
        note += f"; it ended before {count}"
    return replace(
        kept,
        name=Path(path.partition(":")[0]).name,
        source=f"hf {path}, {split}, first {count}",
        notes=(*kept.notes, note),
    )


@dataclass(frozen=True)
class RowsOfStream:
    """The rows of a training split from one on, without end: the first follows the last.

    Attributes:
        rows: with the bytes of an image, None where there are none, and a label, if they have one.
        class_names: in the order of the labels; None where there are no labels.
    """

    rows: Iterator[dict[str, Any]]
    class_names: tuple[str, ...] | None


def rows_from(path: str, start: int) -> RowsOfStream:
    """Return rows of the training split of `data.path`, from row `start` on.

    Raises:
        InputError: if the set cannot be streamed, or has no column of images; from the rows, if
            there are none, or the stream breaks.
    """
    stream = split_of(load(path, streaming=True), "train", path)
    label = label_column(stream)
    names = None if label is None else tuple(stream.features[label].names)
    return RowsOfStream(_endless(stream, path, start), names)


def _endless(stream: Any, path: str, start: int) -> Iterator[dict[str, Any]]:  # noqa: ANN401
    while True:
        is_empty = True
        for row in _rows(stream.skip(start) if start else stream, path):
            is_empty = False
            yield row
        if not is_empty:
            start = 0
            continue
        # nothing at the start or behind it: only who has read all of it knows the length
        length = sum(1 for _ in _rows(stream, path))
        if not length:
            raise InputError(f"data.path: the stream of {path} has no images")
        start %= length


def _place(path: str, split: str, count: int) -> Path:
    try:
        folder = cache_folder()
    except RuntimeError as error:  # a user without a home
        raise InputError("data.stream_images needs a cache folder; set UVIT_DIA_CACHE") from error
    place = path.partition(":")[0]
    facts = [VERSION, path, split, count, *_files(Path(place).expanduser())]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return folder / "streams" / name_in_cache(Path(place).name, key, ".parquet")


def _files(local: Path) -> Iterator[tuple[str, int, int]]:
    """Yield name, size and time of what lies at a place, so that a change is noticed."""
    for file in (local, *sorted(local.rglob("*"))):
        if file.is_file():
            status = file.stat()
            yield str(file.resolve()), status.st_size, status.st_mtime_ns


def _keep(stream: Any, path: str, count: int, file: Path, *, show_progress: bool) -> None:  # noqa: ANN401
    """Write the first rows of a stream; the file is there whole or not at all."""
    import datasets

    label = label_column(stream)
    features = {IMAGE: datasets.Image(decode=False)}
    if label is not None:
        features[LABEL] = stream.features[label]
    schema = datasets.Features(features).arrow_schema
    rows = _rows(stream, path)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    bar = progress_bar(
        islice(rows, count),
        total=count,
        desc="fetching images",
        leave=False,
        delay=SILENT_SECONDS,
        disable=not show_progress,
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
            while part := list(islice(bar, ROWS_AT_A_TIME)):
                writer.write_table(pyarrow.Table.from_pylist(part, schema=schema))
        fsync_path(temporary)
        temporary.replace(file)
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"data.stream_images: cannot write {file.parent}: {reason}") from error
    finally:
        with suppress(OSError):  # what happened to the disk is told already
            temporary.unlink(missing_ok=True)


def _rows(stream: Any, path: str) -> Iterator[dict[str, Any]]:  # noqa: ANN401
    """Yield image and label of each row.

    Raises:
        InputError: if there is no column of images, or the stream breaks.
    """
    import datasets

    image, label = image_column(stream, path), label_column(stream)
    try:
        for row in stream.cast_column(image, datasets.Image(decode=False)):
            found = row[image] or {}
            content = found.get("bytes")
            if content is None and found.get("path"):
                content = Path(found["path"]).read_bytes()
            kept: dict[str, Any] = {IMAGE: {"bytes": content, "path": None}}
            yield kept if label is None else {**kept, LABEL: row[label]}
    except Exception as error:  # the library, the network and the Hub raise many kinds
        reason = clip(" ".join(str(error).split()), 140)
        raise InputError(f"data.path: the stream of {path} broke: {reason}") from error
