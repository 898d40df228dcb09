"""Show a trained model on a page: it samples while the gates of its unit are watched.

    python -m uvit_dia.demo RUN|DIR|ID [RUN2] [--port 7860]

RUN is a run's folder or a step folder, DIR an exported folder, ID one on the Hugging Face Hub. A
second model samples from the same noise beside the first, such as one without the unit. The page is
at http://127.0.0.1:PORT, for this machine alone.
"""

from importlib.util import find_spec

from absl import flags

from uvit_dia import cli
from uvit_dia.config.places import shown_usage
from uvit_dia.demo.port import DEFAULT_PORT, bind
from uvit_dia.runs.sources import find_source
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import user_path
from uvit_dia.system.notices import told_if_slow

USAGE = __doc__ or ""


def check_packages() -> None:
    """Look for the package that only the page needs.

    Raises:
        InputError: if it is missing.
    """
    if find_spec("gradio") is None:
        raise InputError("gradio is not installed; pip install 'uvit_dia[demo]'")


def main(argv: list[str]) -> None:
    """Read the command line, load the models and serve the page until it is interrupted.

    Raises:
        InputError: if a model, the port or two models together do not fit.
    """
    values = cli.new_flags()
    flags.DEFINE_integer("port", DEFAULT_PORT, "Of the page; 0 for any.", flag_values=values)
    flags.DEFINE_bool("use_ema", True, "Show the averaged weights.", flag_values=values)
    words, rest = [], list(argv[1:])
    while rest and not rest[0].startswith("-"):
        words.append(rest.pop(0))
    cli.parse_flags(values, [argv[0], *rest], shown_usage(USAGE, argv[0]))
    if len(words) not in (1, 2):
        raise InputError(
            "demo takes one or two words, the models to show; for example demo runs/quickstart"
        )
    check_packages()
    named = [user_path(word, "demo") for word in words]
    paths = [find_source(path, has_config=False, flag="demo") for path in named]
    listener = bind(int(values["port"].value or 0))
    with told_if_slow("importing torch, gradio and their companions"):
        from uvit_dia.demo.server import serve
        from uvit_dia.demo.session import open_session
        from uvit_dia.system.accelerator import make_accelerator

        device = make_accelerator().device
        session = open_session(paths, device=device, use_ema=bool(values["use_ema"].value))
    serve(session, listener)


if __name__ == "__main__":
    cli.run_command(main)
