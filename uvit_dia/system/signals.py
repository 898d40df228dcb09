"""Signals that ask a run to stop.

The step in hand is finished, the state saved, then the process ends.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType

from uvit_dia.system.errors import EXIT_STOPPED_EARLY
from uvit_dia.system.launch import launcher_words

Handler = Callable[[int, FrameType | None], object] | int | None  # what signal.signal takes

STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)
HANGUP = getattr(signal, "SIGHUP", None)
SAME_REQUEST_SECONDS = 1.0
LONG_STEP_SECONDS = 1.0  # from which on a request is acknowledged, since its answer takes a while


_is_of_caller = False


class StoppedAtOnce(KeyboardInterrupt):
    """A stop signal came where nothing would be lost.

    The message is its name. Raised by `StopRequest.at_once`.
    """


@contextmanager
def in_process_of_caller() -> Iterator[None]:
    """Let a second stop signal raise KeyboardInterrupt within this context, not end the process.

    The process is that of a notebook, say, in which a training is a call among others.
    """
    global _is_of_caller  # noqa: PLW0603  (handlers of signals belong to the process too)
    before, _is_of_caller = _is_of_caller, True
    try:
        yield
    finally:
        _is_of_caller = before


class StopRequest:
    """Context in which the first stop signal sets a flag, and a later one ends the process at once.

    Signals within `SAME_REQUEST_SECONDS` of the first count as the same request, and a hangup never
    hurries. A hangup that the process ignores, as under nohup, is ignored further. The end of a
    launcher (torchrun, accelerate launch) is a request too: it would otherwise leave a process
    behind that nobody knows of. In a thread other than the main one no signal is received.

    Attributes:
        signal_name: name of the signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._received = 0.0
        self._before: dict[int, Handler] = {}
        self._launcher = os.getppid() if launcher_words() else None
        self._raises = False
        self._asked = time.monotonic()
        self._step_seconds = 0.0

    def __bool__(self) -> bool:
        """Say whether the run was asked to stop; call it once a step."""
        now = time.monotonic()
        self._step_seconds, self._asked = now - self._asked, now
        if self._launcher is not None and os.getppid() != self._launcher:
            self.signal_name = self.signal_name or "the end of its launcher"
        return self.signal_name is not None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._receive)
                for number in STOP_SIGNALS
                if number != HANGUP or signal.getsignal(number) != signal.SIG_IGN
            }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise `StoppedAtOnce` where a stop signal comes within the block, or came before it."""
        self._raises = True
        try:
            if self.signal_name is not None:
                raise StoppedAtOnce(self.signal_name)
            yield
        finally:
            self._raises = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal_name is not None:
            # a launcher and its scheduler may both pass the same request on
            if now - self._received >= SAME_REQUEST_SECONDS and number != HANGUP:
                if _is_of_caller:
                    raise KeyboardInterrupt("second signal: left without saving")
                _say("second signal: leaving without saving")
                os._exit(EXIT_STOPPED_EARLY)
            return
        self._received = now
        self.signal_name = signal.Signals(number).name
        if self._raises:
            self._raises = False
            raise StoppedAtOnce(self.signal_name)
        if max(self._step_seconds, now - self._asked) >= LONG_STEP_SECONDS:
            _say(f"{self.signal_name}: finishing the step, then saving; again to leave at once")


def _say(line: str) -> None:
    """Write a line to stderr from within a signal handler, if somebody can read it."""
    with suppress(OSError):
        os.write(2, f"{line}\n".encode())
