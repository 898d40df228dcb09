"""Errors that end a command with one line, and the exit codes they carry.

Everything a user can cause is an `InputError` or one of its siblings below. Any other exception
that leaves a command is a bug of ours, and keeps its traceback.
"""

import difflib
from collections.abc import Iterable

EXIT_OK = 0
EXIT_BUG = 1
EXIT_BAD_INPUT = 2
EXIT_DIVERGED = 3
EXIT_IO_ERROR = 74  # EX_IOERR of BSD sysexits
EXIT_STOPPED_EARLY = 75  # EX_TEMPFAIL of BSD sysexits: state saved, run the same command again


class CommandError(Exception):
    """Base of the errors that a command reports in one line; `exit_code` is its exit status."""

    exit_code = EXIT_BUG


class InputError(CommandError, ValueError):
    """Wrong input or environment.

    The message names the key or file, what was found and what is allowed.
    """

    exit_code = EXIT_BAD_INPUT


class CorruptFileError(InputError):
    """A file is not what its recorded size or hash says it is."""


class MemoryShortageError(CommandError):
    """The memory of the device or of the host did not do.

    Unlike wrong input, one process may meet it alone.
    """

    exit_code = EXIT_BAD_INPUT


class DivergedError(CommandError):
    """A loss or gradient norm became non-finite; the weights were not updated with it."""

    exit_code = EXIT_DIVERGED


class NonFiniteImagesError(CommandError):
    """A sampler ended in values that are not finite, though the weights are.

    A result about the model, not images.

    It ends the commands that sample. In training it is recorded, and training goes on: its state is
    sound.
    """

    exit_code = EXIT_DIVERGED


class StorageError(CommandError, OSError):
    """Writing failed: the disk is full, or the folder went away."""

    exit_code = EXIT_IO_ERROR


class LostContactError(CommandError):
    """Another process of the run died, froze, or cannot be reached; the last checkpoint stands."""

    exit_code = EXIT_IO_ERROR


class StoppedEarly(CommandError):
    """A signal asked the run to stop; its state is saved and the same command goes on with it."""

    exit_code = EXIT_STOPPED_EARLY


def nearest(name: str, names: Iterable[object]) -> str:
    """Return ", did you mean X?" for the closest of the names, or an empty text."""
    close = difflib.get_close_matches(name, [str(n) for n in names], n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
