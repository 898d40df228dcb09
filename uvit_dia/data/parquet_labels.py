"""The labels of parquet tables: numbers, or names that become numbers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow

from uvit_dia.data.parquet_table import ParquetTable
from uvit_dia.system.errors import InputError

LABEL = "label"
NO_LABEL = -1  # as in the Hugging Face layout


@dataclass(frozen=True)
class Labels:
    """The labels of a set.

    Attributes:
        values: one for each row, -1 for none; None where no row has one.
        class_names: in the order of the values.
        notes: why labels were left out.
    """

    values: tuple[int, ...] | None = None
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def features_of(schema: pyarrow.Schema) -> dict[str, dict]:
    """Return what Hugging Face datasets note of each column, {} if others wrote the file."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {str(name): each for name, each in features.items() if isinstance(each, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def read_labels(tables: Sequence[ParquetTable]) -> Labels:
    """Read the column "label": integers, or names, which become numbers in sorted order.

    No training needs labels, so a column of other values is left out, with a note.

    Raises:
        InputError: if the tables differ in it, or a number has no name though others have.
    """
    _check_one_meaning(tables)
    if LABEL not in tables[0].schema.names:
        return Labels()
    try:
        values = [cell.as_py() for table in tables for cell in table.cells(LABEL)]
    except UnicodeDecodeError:
        return Labels(notes=("column label left out: it holds text that is no UTF-8",))
    given = [value for value in values if value is not None]
    kinds = {type(value) for value in given}
    if kinds == {str}:
        names = tuple(sorted(set(given)))
        numbers = {name: number for number, name in enumerate(names)}
        return Labels(tuple(numbers.get(value, NO_LABEL) for value in values), names)
    wrong = [value for value in given if not _is_number(value)]
    if wrong or len(kinds) > 1:
        found = repr(wrong[0])[:40] if wrong else " and ".join(sorted(k.__name__ for k in kinds))
        return Labels(notes=(f"column label left out: it holds {found}",))
    names = ("False", "True") if kinds == {bool} else _class_names(tables[0].schema)
    labels = tuple(NO_LABEL if value is None else int(value) for value in values)
    _check_named(tables, labels, names)
    return Labels(labels, names)


def _is_number(value: object) -> bool:
    """Say whether a value stands for an integer of 64 bits, as 2, 2.0 and True do."""
    if isinstance(value, float):
        return value.is_integer() and abs(value) < 2**63
    return isinstance(value, int) and -(2**63) <= value < 2**63


def _class_names(schema: pyarrow.Schema) -> tuple[str, ...]:
    names = features_of(schema).get(LABEL, {}).get("names")
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def _check_named(
    tables: Sequence[ParquetTable], labels: Sequence[int], names: Sequence[str]
) -> None:
    """Refuse a label beyond the class names, with its table and row."""
    row = next((i for i, v in enumerate(labels) if names and not NO_LABEL <= v < len(names)), None)
    if row is None:
        return
    label = labels[row]
    for table in tables:
        if row < table.num_rows:
            raise InputError(
                f"{table.file}, row {row}: column label holds {label}; its {len(names)} class "
                f"names go with 0 to {len(names) - 1}"
            )
        row -= table.num_rows


def _check_one_meaning(tables: Sequence[ParquetTable]) -> None:
    """Refuse tables in which labels are of other kinds, or number other classes."""
    first = tables[0]
    for table in tables:
        mine, theirs = _kind(first.schema), _kind(table.schema)
        if mine != theirs:
            raise InputError(f"{table.file} has {theirs}, but {first.file} has {mine}")
        if _class_names(table.schema) != _class_names(first.schema):
            raise InputError(f"{table.file} has other class names than {first.file}")


def _kind(schema: pyarrow.Schema) -> str:
    number = schema.names.count(LABEL)
    if number != 1:
        return f"{number or 'no'} column{'s' if number > 1 else ''} label"
    kind = schema.field(LABEL).type
    if pyarrow.types.is_integer(kind):
        return "labels of integers"
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        return "labels of text"
    return f"labels of {kind}"
