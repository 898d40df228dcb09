"""Warnings of one line on stderr, told by one process a machine."""

import sys

from uvit_dia.system.launch import local_rank

_told: set[str] = set()  # what this process has told already


def warn(message: str) -> None:
    """Print a warning of one line; the other processes of a machine would only repeat it."""
    if local_rank() == 0:
        print(f"warning: {message}", file=sys.stderr, flush=True)


def warn_once(topic: str, message: str) -> None:
    """Print a warning unless this process has already printed one on the same topic."""
    if topic not in _told:
        _told.add(topic)
        warn(message)
