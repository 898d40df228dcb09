"""Standard streams that never end a command.

Other encodings, readers that went away, closed descriptors.

What a command is worth is what it did, and its exit code says that; a `| head`, a `| tee` that
Ctrl-C ended first, a terminal that was closed, or one that knows no UTF-8, must not take the state
of a training with it.
"""

import errno
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

GONE = (errno.EPIPE, errno.EIO)  # the reader of a pipe has ended; the terminal was closed


class _LastingOutput(io.FileIO):
    """The descriptor of a stream, which goes on as a sink when nobody can read it any more."""

    def write(self, content: "ReadableBuffer", /) -> int:
        """Write, or drop what nobody would read."""
        try:
            return super().write(content) or 0
        except OSError as error:
            if error.errno not in GONE:
                raise
            sink = os.open(os.devnull, os.O_WRONLY)
            os.dup2(sink, self.fileno())
            os.close(sink)
            return memoryview(content).nbytes


def prepare_streams() -> None:
    """Make stdout and stderr take any text to the end of the process.

    Call it once, before anything is written.
    """
    _open_closed_descriptors()
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        sys.stdout = _lasting(sys.stdout, 1)
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = _lasting(sys.stderr, 2)


def _open_closed_descriptors() -> None:
    """Give the descriptors 0, 1 and 2 to nothing where they are closed.

    Else the next file would get them.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor, which is this one


def _lasting(stream: TextIO | None, descriptor: int) -> TextIO:
    """Return a stream like the one that is there, in the encoding of the terminal,.

    Which takes any text.
    """
    if stream is not None:
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_LastingOutput(descriptor, "w", closefd=False)),
        encoding=getattr(stream, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=getattr(stream, "line_buffering", descriptor == 2),
        write_through=getattr(stream, "write_through", False),
    )
