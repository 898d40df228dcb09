"""Which of several processes says something, and when: refusals, warnings, long silent work.

Needs no torch.
"""

import hashlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from uvit_dia.system.launch import local_rank, num_launched, rank

SLOW_SECONDS = 10.0
# What tells launches apart that one shell started one after the other.
LAUNCH_MARKS = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
WAIT_SECONDS = 5.0  # for the same refusal of another process of this machine
LINGER_SECONDS = 1.0  # for which a mark stays, and its process with it
STALE_SECONDS = 30.0  # after which a mark was left by a process that was killed


def warn_first(message: str) -> None:
    """Print a warning of one line, on the first process of all."""
    if rank() == 0:
        print(f"warning: {message}", file=sys.stderr, flush=True)


@contextmanager
def told_if_slow(what: str, seconds: float = SLOW_SECONDS) -> Iterator[None]:
    """Print what is being done, on stderr, if the block still runs after some seconds.

    One process a machine does.

    Args:
        what: such as "importing torch".
        seconds: after which it is told.
    """
    if local_rank() != 0:
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


# ---------------------------------------------------------------- told once a machine


@contextmanager
def told_once_a_machine(message: str) -> Iterator[bool]:
    """Yield whether this process is to tell a refusal that others of its machine may have met.

    The first process of a machine always is. Another one waits for a moment whether one before it
    tells the same. They know it of each other by a mark among the temporary files: a refusal may
    come before torch is there, and may be of one process alone, so that no process can be asked.
    """
    if num_launched() == 1:
        yield True
        return
    is_first = local_rank() == 0
    try:
        mark = Path(tempfile.gettempdir()) / _mark(message)
    except FileNotFoundError:  # no folder can be written to: then each process tells
        yield True
        return
    if not is_first and _is_left_within(mark, WAIT_SECONDS):
        yield False
        return
    is_mine = _leave(mark)
    yield is_first or is_mine is not False
    if is_mine:
        time.sleep(LINGER_SECONDS)
        with suppress(OSError):
            mark.unlink()


def _mark(message: str) -> str:
    """Return the name of the mark that a refusal of this launch was told on this machine."""
    launch = [str(os.getppid()), *(os.environ.get(name, "") for name in LAUNCH_MARKS), message]
    name = hashlib.sha256("\0".join(launch).encode(errors="replace")).hexdigest()[:24]
    return f".uvit_dia-told-{name}"


def _is_left_within(mark: Path, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError):
            if time.time() - mark.lstat().st_mtime < STALE_SECONDS:
                return True
        time.sleep(0.05)
    return False


def _leave(mark: Path) -> bool | None:
    """Leave a mark; False if another process just did, None where none can be left."""
    try:
        if time.time() - mark.lstat().st_mtime >= STALE_SECONDS:
            mark.unlink()
    except OSError:
        pass  # there is none, as it should be
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    except OSError:
        return None
    return True
