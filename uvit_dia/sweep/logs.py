"""The logs of a cell's processes, to which each start appends."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

MAX_TAIL_BYTES = 2**16


def mark_start(log: BinaryIO) -> int:
    """Write the time of a start into a log that is open for appending.

    Return the position behind it.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    log.write(f"--- {now}\n".encode())
    log.flush()
    return log.tell()


def last_line(path: Path, start: int) -> str:
    """Return the last line of a log after a position.

    Carriage returns of progress bars count as ends.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - MAX_TAIL_BYTES))
        lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
