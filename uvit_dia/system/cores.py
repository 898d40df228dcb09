"""The processor cores that this process may use."""

import os


def usable_cores() -> int:
    """Return how many cores this process may run on, at least 1."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return found or 1
