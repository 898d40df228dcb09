"""Look inside a trained run: what its attention unit does, what it is worth, and what it costs.

    python -m uvit_dia.analysis COMMAND --checkpoint RUN [--output DIR]

writes RUN/analysis/COMMAND.json and its picture as COMMAND.png and COMMAND.svg. What each command
measures, and what it cannot show, stands in docs/analyses.md.
"""

from importlib.util import find_spec

from uvit_dia import cli
from uvit_dia.analysis.arguments import COMMANDS, read_arguments
from uvit_dia.runs.find import check_checkpoint
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
    check_checkpoint(arguments.checkpoint)
    if arguments.compare is not None:
        check_checkpoint(arguments.compare, "--compare")
    check_packages()
    # torch is imported from here on
    from uvit_dia.analysis.run import run_analysis

    print(run_analysis(arguments))


if __name__ == "__main__":
    cli.run_command(main)
