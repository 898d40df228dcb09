"""How a command ends: exit code, and one line on stderr for everything foreseen. Needs no torch."""

import errno
import sys
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path

from uvit_dia.system import launch
from uvit_dia.system.errors import (
    EXIT_BAD_INPUT,
    EXIT_IO_ERROR,
    EXIT_OK,
    EXIT_STOPPED_EARLY,
    CommandError,
    InputError,
)
from uvit_dia.system.memory import is_out_of_memory
from uvit_dia.system.messages import clip, printable, shorten_paths
from uvit_dia.system.notices import told_once_a_machine
from uvit_dia.system.processes import is_lost_contact
from uvit_dia.system.streams import prepare_streams

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
TOO_MANY = {
    errno.EMFILE: "too many open files; raise `ulimit -n`",
    errno.ENFILE: "too many open files on this machine",
}
NO_TEMPORARY = "No usable temporary directory"  # Python's words, in a FileNotFoundError
NO_THREAD = "can't start new thread"  # Python's words, in a plain RuntimeError


def words_before_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide a command line into the words before its first flag, and the rest.

    absl's flags know no words by place.

    Args:
        arguments: the command line without its program.
    """
    words = list(takewhile(lambda word: not word.startswith("-"), arguments))
    return words, list(arguments[len(words) :])


def run_command(main: Callable[[list[str]], None], *, name: str = "") -> None:
    """Run a command's main function and exit.

    One line on stderr and its exit code for every foreseen error.

    Of several processes, wrong input is told once a machine; another failure by each process that
    meets it.

    Args:
        main: takes the command line.
        name: what the command is called; "" for the name of the script that was started.
    """
    name = name or _script_name()
    prepare_streams()
    try:
        _check_current_folder()
        main(sys.argv)
    except InputError as error:
        message = clip(error, len(str(error)))
        with told_once_a_machine(message) as tells:
            if tells:
                _print_line(message, name)
        sys.exit(error.exit_code)
    except CommandError as error:
        _exit_with_line(str(error), error.exit_code, name)
    except KeyboardInterrupt:
        line = "interrupted; the same command goes on where it can"
        _exit_with_line(line, EXIT_STOPPED_EARLY, name)
    except Exception as error:
        foreseen = _foreseen(error)
        if foreseen is None:
            raise
        _exit_with_line(*foreseen, name)
    sys.exit(EXIT_OK)


def _check_current_folder() -> None:
    """Refuse to work in a folder that was deleted.

    Libraries below Python's end without a reason there.
    """
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise InputError("the current folder was deleted; change to another one") from error


def _foreseen(error: Exception) -> tuple[str, int] | None:
    """Return message and exit code of an error that tells of the machine, not of a bug of ours."""
    if is_out_of_memory(error):
        return f"out of memory: {clip(error)}", EXIT_BAD_INPUT
    if is_lost_contact(error):
        return f"lost contact with another process: {clip(error, 80)}", EXIT_IO_ERROR
    if isinstance(error, RuntimeError) and NO_THREAD in str(error):
        return "too many threads; raise `ulimit -u`", EXIT_BAD_INPUT
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return f"no space left while writing {error.filename or ''}", EXIT_IO_ERROR
    if isinstance(error, FileNotFoundError) and NO_TEMPORARY in str(error):
        return "no folder for temporary files can be written; name one in TMPDIR", EXIT_BAD_INPUT
    if isinstance(error, OSError) and error.errno in TOO_MANY:
        return TOO_MANY[error.errno], EXIT_BAD_INPUT
    return None


def _exit_with_line(message: str, code: int, name: str) -> None:
    _print_line(message, name)
    sys.exit(code)


def _print_line(message: str, name: str) -> None:
    rank = launch.rank()
    place = f" [rank {rank}]" if rank else ""
    line = shorten_paths(f"{name}{place}: {clip(message, len(message))}")
    print(printable(line), file=sys.stderr, flush=True)


def _script_name() -> str:
    script = Path(sys.argv[0])  # of python -m uvit_dia.sweep: .../uvit_dia/sweep/__main__.py
    if script.stem != "__main__":
        return script.name
    package = script.parent
    is_inside = (package.parent / "__init__.py").is_file()
    return f"{package.parent.name}.{package.name}" if is_inside else package.name
