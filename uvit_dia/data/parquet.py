"""Parquet tables of encoded images, as the Hugging Face Hub keeps them."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow

from uvit_dia.data.listing import EncodedImage, Listing, UnreadableImageError
from uvit_dia.data.parquet_labels import LABEL, features_of, read_labels
from uvit_dia.data.parquet_table import ParquetTable, open_tables
from uvit_dia.data.shards import find_shards
from uvit_dia.system.errors import InputError

IMAGE_COLUMNS = ("img", "image")  # are told from other columns that hold bytes


def list_parquet(path: Path, split: str) -> Listing | None:
    """List the images of a split.

    Args:
        path: a parquet file, which is a training set, or a folder of them.
        split: "train" or "test"; a validation split stands in for a missing test split.

    Returns:
        The listing, or None where there is no test split.

    Raises:
        InputError: if files are missing, damaged, or of several sets, or no column holds images.
    """
    shards = find_shards(path, split)
    if shards is None:
        return None
    tables = open_tables(shards.files)
    column, notes = _image_column(tables)
    labels = read_labels(tables)
    return Listing(
        path.stem or path.resolve().stem,
        f"parquet {path}, {split}",
        sum(table.num_rows for table in tables),
        partial(_encoded, tables, column),
        shards.files,
        labels=labels.values,
        class_names=labels.class_names if labels.values is not None else (),
        notes=(*notes, *labels.notes, *shards.notes),
    )


def _image_column(tables: Sequence[ParquetTable]) -> tuple[str, tuple[str, ...]]:
    """Return the column that holds the images, and a note on others that may.

    Raises:
        InputError: if none or several may be meant, or a table lacks it.
    """
    first = tables[0]
    names = first.schema.names
    named = [name for name in IMAGE_COLUMNS if name in names]
    holding = [f.name for f in first.schema if _holds_bytes(f.type) and f.name != LABEL]
    noted = [n for n, f in features_of(first.schema).items() if f.get("_type") == "Image"]
    noted = [name for name in noted if name in holding]
    chosen = next((names for names in (named, noted, holding) if len(names) == 1), None)
    if chosen is None or names.count(chosen[0]) > 1:
        raise InputError(
            f"{first.file} has columns {names}; one must be img or image"
            + (f", since several hold bytes: {', '.join(holding)}" if len(holding) > 1 else "")
        )
    column = chosen[0]
    for table in tables:
        if table.schema.names.count(column) != 1:
            raise InputError(
                f"{table.file} has columns {table.schema.names}, but {first.file} holds its images "
                f"in {column}"
            )
        kinds = first.schema.field(column).type, table.schema.field(column).type
        if len({_holds_bytes(kind) for kind in kinds}) > 1:
            raise InputError(
                f"{table.file} holds {kinds[1]} in column {column}, but {first.file} {kinds[0]}"
            )
    others = [name for name in holding if name != column]
    notes = [f"images from column {column}"] if column not in IMAGE_COLUMNS else []
    notes += [f"left out: column {name}" for name in others]
    return column, tuple(notes)


def _holds_bytes(kind: pyarrow.DataType) -> bool:
    """Say whether a column may hold encoded images: bytes, or a structure with a field of bytes."""
    if pyarrow.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return str(kind) in ("binary", "large_binary", "binary_view")


def _encoded(tables: Sequence[ParquetTable], column: str) -> Iterator[EncodedImage]:
    for table in tables:
        for row, cell in enumerate(table.cells(column)):
            origin = f"{table.file}, row {row}"
            yield EncodedImage(origin, partial(_content, cell, column, origin))


def _content(cell: pyarrow.Scalar, column: str, origin: str) -> bytes:
    try:
        value = cell.as_py()
    except ValueError:  # text that is no UTF-8
        value = None
    path = value.get("path") if isinstance(value, dict) else None
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        reason = f"column {column} holds no bytes" + (f", only the path {path}" if path else "")
        raise UnreadableImageError(origin, reason, f"{origin}: {reason}")
    return content
