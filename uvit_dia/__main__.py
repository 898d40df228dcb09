"""The console command `uvit-dia`: one word chooses what is done. It needs no torch to answer."""

import sys
from importlib import import_module
from pathlib import Path

from uvit_dia import __version__
from uvit_dia.system.commands import run_command
from uvit_dia.system.errors import InputError, nearest

PROGRAM = "uvit-dia"
# word -> (module whose `main` takes the command line, what it does)
COMMANDS = {
    "train": ("training.command", "train a network, or go on with a run"),
    "sample": ("sampling.command", "sample images from a trained run"),
    "eval": ("evaluation.command", "measure samples, or images that exist: FID and others"),
    "sweep": ("sweep.__main__", "run a grid of variants, batch sizes and seeds"),
    "report": ("report.__main__", "write tables, tests and figures of a sweep"),
    "analyse": ("analysis.__main__", "look inside a trained run"),
    "export": ("export.__main__", "write a folder that diffusers loads"),
    "data": ("data.__main__", "look at image sets"),
    "encode": ("data.encode", "encode images once, for training on latents"),
    "demo": ("demo.__main__", "show a trained run on a page"),
}


def commands() -> dict[str, tuple[str, str]]:
    """Return those of `COMMANDS` whose module is part of this package."""
    here = Path(__file__).parent
    return {
        word: (module, text)
        for word, (module, text) in COMMANDS.items()
        if here.joinpath(*module.split(".")).with_suffix(".py").is_file()
    }


def usage() -> str:
    """Return the help: every command in a line."""
    lines = "\n".join(f"  {word:<8} {text}" for word, (_, text) in commands().items())
    return (
        f"uvit_dia {__version__}: U-ViT diffusion models whose blocks share one attention unit.\n\n"
        f"    {PROGRAM} COMMAND ...\n\nCommands:\n{lines}\n\n"
        f"Flags of a command: {PROGRAM} COMMAND --help"
    )


def choose(argv: list[str]) -> None:
    """Print the help or the version, or refuse the first word.

    Args:
        argv: the command line, program name first; its first word is no command.

    Raises:
        InputError: naming the word, with the nearest command.
    """
    word = argv[1] if len(argv) > 1 else ""
    if word in ("--help", "-h", "-help", "help"):
        print(usage())
    elif word == "--version":
        print(__version__)
    elif not word or word.startswith("-"):
        raise InputError(f"the command is missing; the first word is one of {_allowed()}")
    else:
        hint = nearest(word, commands())
        raise InputError(f"unknown command {word[:40]!r}; allowed is {_allowed()}{hint}")


def _allowed() -> str:
    return ", ".join(commands())


def main() -> None:
    """Run the command that the first word names, and exit."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    if word not in commands():
        run_command(choose, name=PROGRAM)
    name = f"{PROGRAM} {word}"

    def run(argv: list[str]) -> None:
        module, _ = commands()[word]
        import_module(f"uvit_dia.{module}").main([name, *argv[2:]])

    run_command(run, name=name)


if __name__ == "__main__":
    main()
