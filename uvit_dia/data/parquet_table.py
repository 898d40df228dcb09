"""One parquet file: its columns, known at once, and its rows, read a few at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet

from uvit_dia.data.file_kinds import what_it_is
from uvit_dia.system.errors import InputError

ROWS_AT_A_TIME = 32
MAX_LISTED = 3


@dataclass(frozen=True)
class ParquetTable:
    """A parquet file that could be opened.

    Attributes:
        file: the file.
        schema: names and types of its columns, with what its writer noted.
        num_rows: how many rows it has.
    """

    file: Path
    schema: pyarrow.Schema
    num_rows: int

    def cells(self, column: str) -> Iterator[pyarrow.Scalar]:
        """Read a column, a few rows at a time.

        Raises:
            InputError: if the file is damaged.
        """
        count = 0
        try:
            with pyarrow.parquet.ParquetFile(self.file) as file:
                for batch in file.iter_batches(ROWS_AT_A_TIME, columns=[column]):
                    count += batch.num_rows
                    if count <= self.num_rows:
                        yield from batch.column(column)
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(
                f"{self.file} is no readable parquet: {_reason(error, self.file)}"
            ) from error
        if count != self.num_rows:
            raise InputError(f"{self.file} is no readable parquet: {count} of {self.num_rows} rows")


def open_tables(files: Sequence[Path]) -> list[ParquetTable]:
    """Read what the files say of their columns.

    Raises:
        InputError: naming the files that are no readable parquet.
    """
    tables, damaged = [], []
    for path in files:
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                tables.append(ParquetTable(path, file.schema_arrow, file.metadata.num_rows))
        except (pyarrow.ArrowException, OSError) as error:
            damaged.append((path, _reason(error, path)))
    if len(damaged) == 1:
        raise InputError(f"{damaged[0][0]} is no readable parquet: {damaged[0][1]}")
    if damaged:
        shown = ", ".join(f"{path} ({reason})" for path, reason in damaged[:MAX_LISTED])
        more = f" and {len(damaged) - MAX_LISTED} more" if len(damaged) > MAX_LISTED else ""
        raise InputError(
            f"{len(damaged)} of {len(files)} files are no readable parquet: {shown}{more}"
        )
    return tables


def _reason(error: Exception, path: Path) -> str:
    """Say what lies in place of a table, or what is wrong with it."""
    try:
        with path.open("rb") as file:
            found = what_it_is(file.read(512))
    except OSError as unread:
        return unread.strerror or str(unread)
    return " ".join(str(error).split())[:80] if found == "a parquet file" else found
