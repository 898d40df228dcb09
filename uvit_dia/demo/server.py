"""The page behind a port, on the loopback: nothing is loaded from outside and nothing sent out."""

import os
import socket
import tempfile
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from uvit_dia.demo.port import LOOPBACK
from uvit_dia.demo.session import Session
from uvit_dia.system.errors import NonFiniteImagesError

# Read by gradio when it is imported: no numbers sent home, no look for newer versions.
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_SSR_MODE": "False",
}
FONTS = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # of the visitor's system
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; form-action 'self'; base-uri 'self'; object-src 'none'"
)
NAMES = [LOOPBACK, "localhost"]  # by which a browser may ask: other names would be another site's
CLOSE_SECONDS = 2  # for what is still being sent when the server ends


def serve(session: Session, listener: socket.socket, *, is_public: bool = False) -> None:
    """Serve the page until a signal ends it.

    Args:
        session: its models.
        listener: a bound socket, see `port.bind`.
        is_public: whether others than this machine's users are to see it: on a hosted Space.
    """
    os.environ.update(QUIET)
    with tempfile.TemporaryDirectory(prefix="uvit-dia-demo.") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        import uvicorn

        app = make_app(session, Path(folder), is_public=is_public)
        config = uvicorn.Config(
            app,
            log_level="warning",
            timeout_graceful_shutdown=CLOSE_SECONDS,
            proxy_headers=is_public,
            forwarded_allow_ips="*" if is_public else None,
        )
        host, port = listener.getsockname()[:2]
        print(f"http://{host}:{port}  (Ctrl-C ends it)", flush=True)
        threading.Thread(target=warm_up, args=[session], daemon=True).start()
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def make_app(session: Session, folder: Path, *, is_public: bool = False) -> Any:  # noqa: ANN401
    """Return the ASGI application of the page; arguments as for `serve`."""
    import gradio as gr
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from uvit_dia.demo.page import build_page

    sans, mono = map(list, FONTS)
    app = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        build_page(session, folder),
        path="/",
        theme=gr.themes.Default(font=sans, font_mono=mono),
        css_paths=Path(__file__).with_name("page.css"),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        show_error=True,
        mcp_server=False,
        pwa=False,
    )
    if not is_public:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=NAMES)
        app.add_middleware(_WithPolicy)
    return app


class _WithPolicy:
    """Middleware that lets a browser load nothing but what this server sends."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        async def send_with_policy(message: Any) -> None:  # noqa: ANN401
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY.encode())
                message["headers"] = [*message.get("headers", ()), policy]
            await send(message)

        await self._app(scope, receive, send_with_policy)


def warm_up(session: Session) -> None:
    """Sample one image with each model, so that a visitor's first picture comes at once."""
    from dataclasses import replace

    with suppress(NonFiniteImagesError):  # a visitor will be told
        for _ in session.unfold(replace(session.first_wish, num_images=1), threading.Event()):
            pass
