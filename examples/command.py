"""What the commands of the examples have in common: their help, and how they refuse wrong input."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from uvit_dia.system.errors import EXIT_BAD_INPUT, InputError


def command_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Make the parser of a command.

    Args:
        name: of its module in `examples`.
        description: for --help, whose lines stay as they are.
    """
    return argparse.ArgumentParser(
        prog=f"python -m examples.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


@contextmanager
def refusing_in_one_line(name: str) -> Iterator[None]:
    """Return a context in which wrong input ends the program with one line and exit code 2.

    Args:
        name: of the command, for the line.
    """
    try:
        yield
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
