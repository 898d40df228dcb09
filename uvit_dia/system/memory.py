"""What is said when memory runs out.

One line, with what may help where it happened. Needs no torch.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from uvit_dia.system.errors import MemoryShortageError

NAMES = (
    "OutOfMemoryError",
    "MemoryError",
)  # of torch's error for accelerators, and of Python's own
HOST_ALLOCATOR = "can't allocate memory"  # torch's words, in a plain RuntimeError, for the host


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that the memory of the device or of the host did not do."""
    return type(error).__name__ in NAMES or HOST_ALLOCATOR in str(error)


@contextmanager
def memory_advice(message: str) -> Iterator[None]:
    """Turn an error of the allocators into one that carries advice.

    Args:
        message: what did not fit and what may help; "out of memory" is put before it.

    Raises:
        MemoryShortageError: if memory runs out in the block.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryShortageError(f"out of memory {message}") from error
