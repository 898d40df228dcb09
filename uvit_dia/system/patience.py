"""Long silent work says what it does, but only where it really takes long. Needs no torch."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from uvit_dia.system import launch

SLOW_SECONDS = 10.0


@contextmanager
def told_if_slow(what: str, seconds: float = SLOW_SECONDS) -> Iterator[None]:
    """Print what is being done, on stderr, if the block still runs after some seconds; one process a machine does.

    Args:
        what: such as "importing torch".
        seconds: after which it is told.
    """
    if launch.local_rank() != 0:
        yield
        return
    timer = threading.Timer(seconds, _tell, [what])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _tell(what: str) -> None:
    print(f"{what} ...", file=sys.stderr, flush=True)
