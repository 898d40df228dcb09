"""Errors that all processes must learn of, and errors of processes that lost one another.

Torch and Accelerate are imported by the functions that need them: commands ask here before torch is
there.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from uvit_dia.system.errors import CommandError

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")
MAX_TOLD = 3  # different messages in one line


@contextmanager
def failing_together(kind: type[CommandError] = CommandError) -> Iterator[None]:
    """Run a block on all processes.

    They wait for one another at its end, and fail if one of them did.

    The block must not make the processes wait for each other: one that fails would leave the others
    there.

    Args:
        kind: what the block may raise, errors that are made of their message alone. Nothing else is
            waited for.

    Raises:
        CommandError: of the kind of the first one, on all processes, if the block raised one on any
            of them.
    """
    from accelerate.utils import gather_object

    mine = None
    try:
        yield
    except kind as error:
        mine = error
    errors = gather_object([None if mine is None else (type(mine), str(mine))])
    if any(error is not None for error in errors):
        raise _together(errors) from mine


def _together(errors: Sequence[tuple[type[CommandError], str] | None]) -> CommandError:
    """Return one error for those of all processes.

    A message that not all have names its processes.
    """
    kinds = [error[0] for error in errors if error is not None]
    processes: dict[str, list[str]] = {}
    for process, error in enumerate(errors):
        if error is not None:
            processes.setdefault(error[1], []).append(str(process))
    if len(processes) == 1 and len(kinds) == len(errors):
        return kinds[0](*processes)
    told = [
        f"process{'es' if len(numbers) > 1 else ''} {', '.join(numbers)}: {message}"
        for message, numbers in processes.items()
    ]
    return kinds[0]("; ".join(told[:MAX_TOLD] + ["..."] * (len(told) > MAX_TOLD)))


def main_process_first(accelerator: "Accelerator", call: Callable[[], T]) -> T:
    """Call a function on the main process, then on the others, which find what it left behind.

    Returns:
        What the function returned on this process.

    Raises:
        CommandError: on all processes, if the function raised one on any of them.
    """
    results: list[T] = []
    for is_turn in (accelerator.is_main_process, not accelerator.is_main_process):
        with failing_together():
            if is_turn:
                results.append(call())
    return results[0]


def is_lost_contact(error: BaseException) -> bool:
    """Say whether a process of the run, or the place where all of them meet, could not be reached.

    Torch's errors are known by the name of their base class, since torch may not be there yet. Gloo
    has no exception of its own, but signs its plain RuntimeErrors with its source files.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    return "DistError" in names or (isinstance(error, RuntimeError) and "/gloo/" in str(error))
