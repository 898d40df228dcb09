"""Errors that one process meets and all must know of: the others would wait for it, and not learn why it is gone."""

from collections.abc import Iterator
from contextlib import contextmanager

from accelerate.utils import gather_object

from uvit_dia.system.errors import CommandError


@contextmanager
def failing_together(kind: type[CommandError]) -> Iterator[None]:
    """Run a block on all processes; they wait for one another at its end, and fail if one of them did.

    Args:
        kind: what the block may raise, an error that is made of its message alone. Nothing else is waited for.

    Raises:
        CommandError: of this kind, on all processes, if the block raised one on any of them.
    """
    mine = None
    try:
        yield
    except kind as error:
        mine = error
    messages: list[str | None] = gather_object([None if mine is None else str(mine)])
    if mine is not None:
        raise mine
    for process, message in enumerate(messages):
        if message is not None:
            raise kind(f"process {process}: {message}")
