"""Serving the page on this machine alone, with nothing loaded from elsewhere."""

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uvit_dia.config.schema import Config
from uvit_dia.demo.session import Session, open_session
from uvit_dia.system.accelerator import make_accelerator
from uvit_dia.system.errors import InputError

if TYPE_CHECKING:
    import gradio as gr

LOOPBACK = "127.0.0.1"
STYLE = Path(__file__).with_name("page.css")
FONTS = ("system-ui", "sans-serif")  # those of the reader's system
MONOSPACED = ("ui-monospace", "monospace")


def serve(paths: list[Path], *, config: Config | None, port: int) -> None:
    """Load models, and serve their page on 127.0.0.1 until the process is interrupted.

    Args:
        paths: one or two, as `find_source` gives them.
        config: of those that are files of weights.
        port: that the page is at; it was free, see `check_port`.

    Raises:
        InputError: if a model cannot be read or shown, or the port was taken meanwhile.
    """
    _keep_to_this_machine()
    session = open_session(paths, config=config, device=make_accelerator().device)
    page = _make_page(session)
    check_port(port)
    page.launch(server_name=LOOPBACK, server_port=port, prevent_thread_lock=True, **_options())
    print(f"http://{LOOPBACK}:{port}  (Ctrl-C ends it)", flush=True)
    try:
        page.block_thread()  # which catches Ctrl-C
    finally:
        page.close(verbose=False)


def serve_space(folder: Path) -> None:
    """Serve the page of an exported folder where a hosted Space wants it.

    Args:
        folder: that `uvit-dia export --space` wrote.

    Raises:
        InputError: if it is damaged.
    """
    page = _make_page(open_session([folder], device=make_accelerator().device))
    page.launch(**_options())  # the Space's environment says at which address


def check_port(port: int) -> None:
    """Check that nobody listens at a port of this machine.

    Raises:
        InputError: if somebody does, naming a port that is free.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            with socket.socket() as other:
                other.bind((LOOPBACK, 0))
                free = other.getsockname()[1]
            raise InputError(
                f"--port {port}: {os.strerror(error.errno or 0)}; {free} is free"
            ) from error


def _keep_to_this_machine() -> None:
    """Keep Gradio from telling its makers, and from asking a proxy for this machine's pages."""
    for name in ("NO_PROXY", "no_proxy"):
        known = os.environ.get(name, "")
        os.environ[name] = ",".join(part for part in (known, LOOPBACK, "localhost") if part)


def _make_page(session: Session) -> "gr.Blocks":
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # it is read when Gradio is imported
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    from uvit_dia.demo.page import make_page

    return make_page(session)


def _options() -> dict[str, Any]:
    import gradio as gr

    theme = gr.themes.Default(primary_hue="blue", font=FONTS, font_mono=MONOSPACED)
    return {
        "theme": theme,
        "css": STYLE.read_text(encoding="utf-8"),
        "share": False,
        "quiet": True,
        "ssr_mode": False,
        "pwa": False,
        "mcp_server": False,
        "enable_monitoring": False,
        "footer_links": [],
    }
