"""Signals that ask a run to stop: the step in hand is finished, the state saved, then the process ends."""

import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType, TracebackType

from uvit_dia.system.errors import EXIT_STOPPED_EARLY

Handler = Callable[[int, FrameType | None], object] | int | None  # what signal.signal takes

STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)


SAME_REQUEST_SECONDS = 1.0


class StopRequest:
    """Context in which the first stop signal sets a flag, and a later one ends the process at once.

    Signals within `SAME_REQUEST_SECONDS` of the first count as the same request.

    Attributes:
        signal_name: name of the signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._received = 0.0
        self._before: dict[int, Handler] = {}

    def __bool__(self) -> bool:
        return self.signal_name is not None

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._receive) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal_name is not None and now - self._received < SAME_REQUEST_SECONDS:
            return  # a launcher and its scheduler may both pass the same request on
        if self.signal_name is not None:
            os.write(sys.stderr.fileno(), b"second signal: leaving without saving\n")
            os._exit(EXIT_STOPPED_EARLY)
        self._received = now
        self.signal_name = signal.Signals(number).name
