"""A folder that one process fills, over several starts if need be."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from uvit_dia.system.errors import InputError, StorageError
from uvit_dia.system.locks import LockHeldError, ProcessLock


@contextmanager
def filled_alone(partial: Path) -> Iterator[Path]:
    """Make the folder that is being filled, and keep other processes out of it.

    Raises:
        InputError: if another process is filling it.
        StorageError: for an `OSError` within the context.
    """
    lock = ProcessLock(partial.with_name(f".{partial.name}.lock"))
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except LockHeldError as error:
        raise InputError(f"--output: another process is filling {partial}") from error
    except OSError as error:
        raise StorageError(f"cannot write {partial}: {error.strerror or error}") from error
    try:
        partial.mkdir(exist_ok=True)
        yield partial
    except (InputError, StorageError):
        raise
    except OSError as error:
        raise StorageError(f"cannot write {partial}: {error.strerror or error}") from error
    finally:
        lock.path.unlink(missing_ok=True)
        lock.release()
