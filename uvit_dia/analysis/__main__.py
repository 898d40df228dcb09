"""Look inside a trained run: what its attention unit does, what it is worth, and what it costs.

    python -m uvit_dia.analysis COMMAND --checkpoint RUN [--output DIR]

writes RUN/analysis/COMMAND.json and its picture as COMMAND.png and COMMAND.svg. What each command
measures, and what it cannot show, stands in docs/analyses.md.
"""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from uvit_dia import cli
from uvit_dia.analysis.arguments import COMMANDS, read_arguments
from uvit_dia.runs.find import check_checkpoint
from uvit_dia.runs.sources import find_source, is_weight_file
from uvit_dia.system.errors import InputError

USAGE = """Look inside a trained run.

    python -m uvit_dia.analysis COMMAND --checkpoint RUN [--output DIR]

Commands:
""" + "\n".join(f"  {name:<14} {text}" for name, text in COMMANDS.items())


def check_packages() -> None:
    """Look for the package that only pictures need.

    Raises:
        InputError: if it is missing.
    """
    if find_spec("matplotlib") is None:
        raise InputError("matplotlib is not installed; pip install 'uvit_dia[sweep]'")


def main(argv: list[str]) -> None:
    """Read the command line, analyse, write the results and print one line.

    Raises:
        InputError: if the command line does not fit, or the run does not fit the command.
    """
    arguments = read_arguments(argv, USAGE)
    arguments = replace(arguments, checkpoint=_found(arguments.checkpoint, "--checkpoint"))
    if arguments.compare is not None:
        arguments = replace(arguments, compare=_found(arguments.compare, "--compare"))
    check_packages()
    # torch is imported from here on
    from uvit_dia.analysis.run import run_analysis

    print(run_analysis(arguments))


def _found(path: Path, flag: str) -> Path:
    """Return where a run, a step folder or an exported folder lies; fetch one from the Hub."""
    if is_weight_file(path):  # whose network no flag of an analysis names
        check_checkpoint(path, flag)
    return find_source(path, has_config=False, flag=flag)


if __name__ == "__main__":
    cli.run_command(main)
