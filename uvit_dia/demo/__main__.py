"""Show trained models on a page of this machine.

    python -m uvit_dia.demo RUN [RUN2] [--port 7860]
    python -m uvit_dia.demo FILE.pth --config cifar10_uvit

RUN is a run's folder, a step folder, an exported folder, or its id on the Hugging Face Hub; RUN2 is
another one, which draws beside it from the same noise. The page is for browsers on this machine
alone: it listens on 127.0.0.1.
"""

from importlib.util import find_spec
from pathlib import Path

from absl import flags

from uvit_dia import cli
from uvit_dia.config.flag import define_config_flag, read_config
from uvit_dia.config.places import shown_usage
from uvit_dia.runs.sources import find_source, is_weight_file
from uvit_dia.system.commands import words_before_flags
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import user_path
from uvit_dia.system.notices import told_if_slow

USAGE = __doc__ or ""
DEFAULT_PORT = 7860  # Gradio's own


def main(argv: list[str]) -> None:
    """Read the command line, load the models, and serve the page until Ctrl-C.

    Raises:
        InputError: if the command line, a model or the port does not fit, or Gradio is missing.
    """
    values = cli.new_flags()
    define_config_flag(values, group=None)
    flags.DEFINE_integer("port", DEFAULT_PORT, "Of 127.0.0.1, for the page.", flag_values=values)
    words, rest = words_before_flags(argv[1:])
    cli.parse_flags(values, [argv[0], *rest], shown_usage(USAGE, argv[0]))
    if len(words) not in (1, 2):
        raise InputError("demo takes one or two models; for example demo runs/quickstart")
    port = int(values["port"].value or 0)
    if not 1 <= port <= 65535:
        raise InputError(f"--port {port}: allowed is 1 to 65535")
    config = None if values["config"].value is None else read_config(values)
    paths = [_source(word, has_config=config is not None) for word in words]
    check_packages()
    with told_if_slow("importing torch, gradio and their companions"):
        from uvit_dia.demo.server import check_port, serve

    check_port(port)
    serve(paths, config=config, port=port)


def check_packages() -> None:
    """Look for the package that only the page needs.

    Raises:
        InputError: if it is missing.
    """
    if find_spec("gradio") is None:
        raise InputError("gradio is not installed; pip install 'uvit_dia[demo]'")


def _source(word: str, *, has_config: bool) -> Path:
    path = user_path(word, "demo")
    return find_source(path, has_config=has_config and is_weight_file(path), flag="demo")


if __name__ == "__main__":
    cli.run_command(main)
