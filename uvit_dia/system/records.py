"""JSON files read as data and with distrust.

A kill may have cut them, an editor or another system changed them.

Nothing here raises for what a file holds: a reader gets what is whole, and is told what is not.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uvit_dia.system.mounts import again_if_stale

MAX_JSON_BYTES = 2**26
MAX_LINES_BYTES = 2**29
BLANK = "it is empty"

Record = dict[str, Any]


@dataclass(frozen=True)
class JsonFile:
    """A JSON object that was read from a file.

    Attributes:
        values: the object; {} where there is none.
        problem: what is wrong with the file, as the rest of a sentence that begins with its name;
            "" if it is whole, or if there is no such file.
    """

    values: Record
    problem: str


@dataclass(frozen=True)
class JsonLines:
    """A file of one JSON object a line, such as `metrics.jsonl`.

    Attributes:
        rows: the objects by line number, from 1.
        damaged: what is wrong with the other lines, by line number. Of a log that is being written,
            or whose writer was killed, the last line may be cut.
        problem: why the file as a whole could not be read, as in `JsonFile`.
    """

    rows: dict[int, Record]
    damaged: dict[int, str]
    problem: str

    @property
    def num_lines(self) -> int:
        """The number of lines, blank and damaged ones included."""
        return max([0, *self.rows, *self.damaged])

    @property
    def summary(self) -> str:
        """What is wrong with the file or its lines, as in `JsonFile`.

        Blank lines are not counted.
        """
        count = sum(reason != BLANK for reason in self.damaged.values())
        return self.problem or (f"has {count} damaged line(s)" if count else "")


def read_json(path: Path) -> JsonFile:
    """Read a file that holds one JSON object."""
    text, problem = _read_text(path, MAX_JSON_BYTES)
    if text is None:
        return JsonFile({}, problem)
    values, problem = _parse(text)
    return JsonFile({}, "is damaged") if values is None else JsonFile(values, "")


def read_json_lines(path: Path, *, last_bytes: int | None = None) -> JsonLines:
    """Read a file of one JSON object a line, with the line ends of any system.

    Args:
        path: the file.
        last_bytes: read only so much of its end, and count lines from there; None for all of it.
    """
    text, problem = _read_text(path, MAX_LINES_BYTES, last_bytes)
    rows: dict[int, Record] = {}
    damaged: dict[int, str] = {}
    lines = (text or "").split("\n")
    if not lines[-1]:  # what follows the last line end
        lines.pop()
    for number, line in enumerate(lines, start=1):
        values, reason = _parse(line)
        if values is None:
            damaged[number] = reason
        else:
            rows[number] = values
    return JsonLines(rows, damaged, problem)


def number(value: object) -> float:
    """Return a JSON value as a float; NaN where it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value) if math.isfinite(value) else math.nan
    except OverflowError:  # an int beyond every float
        return math.nan


def _read_text(path: Path, max_bytes: int, last_bytes: int | None = None) -> tuple[str | None, str]:
    """Return the text of a file without byte order mark, or None and what is wrong with it."""

    @again_if_stale
    def read() -> bytes:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = 0 if last_bytes is None else max(0, size - last_bytes)
            file.seek(start)
            if start:  # most likely within a line
                file.readline()
            return file.read(max_bytes + 1)

    try:
        content = read()
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, f"cannot be read ({error.strerror})"
    if len(content) > max_bytes:
        return None, f"is larger than {max_bytes} bytes and was not read"
    return content.decode("utf-8-sig", errors="replace"), ""


def _parse(text: str) -> tuple[Record | None, str]:
    """Return the JSON object that a text holds, or None and why it holds none."""
    if not text.strip():
        return None, BLANK
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return None, " ".join(str(error).split())[:80]
    return (value, "") if isinstance(value, dict) else (None, "it is not an object")
