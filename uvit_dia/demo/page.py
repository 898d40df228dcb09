"""The page: fields on the left, pictures on the right, made with Gradio."""

import html
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from uvit_dia.demo.pictures import figure_html, write_files
from uvit_dia.demo.session import MAX_IMAGES, Session
from uvit_dia.demo.unfolding import Moment
from uvit_dia.demo.wish import Wish
from uvit_dia.sampling.guidance import ALL
from uvit_dia.system.errors import InputError, NonFiniteImagesError

MAX_VISITORS = 8  # whose samplings take turns; further ones wait
LEAST_SECONDS = 0.06  # from one picture to the next
KEPT_SECONDS = 3600  # for which a visitor's files can be downloaded
MAX_GUIDANCE = 10.0
EMPTY = '<p class="empty">Press Sample: the images form here, out of noise.</p>'
FILES = ("Grid (PNG)", "Animation (WebP)", "Animation (GIF)")
NO_FILES = tuple(gr.skip() for _ in FILES)


class Visits:
    """The samplings that run, one a visitor: each visitor's Stop ends their own."""

    def __init__(self) -> None:
        self._stops: dict[str | None, threading.Event] = {}

    def begin(self, visitor: str | None) -> threading.Event:
        """Return what ends a new sampling of a visitor; one that still runs is ended."""
        self.end(visitor)
        self._stops[visitor] = threading.Event()
        return self._stops[visitor]

    def end(self, visitor: str | None) -> None:
        """End a visitor's sampling, if one runs."""
        stop = self._stops.pop(visitor, None)
        if stop is not None:
            stop.set()


def make_page(session: Session) -> gr.Blocks:
    """Make the page of some models; `server.py` serves it."""
    visits = Visits()

    def draw(  # Gradio knows `request` by its annotation
        sampler: str,
        num_steps: float | None,
        seed: float | None,
        num_images: float | None,
        class_label: str,
        guidance_scale: float | None,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        wish = Wish(sampler, num_steps, seed, num_images, class_label, guidance_scale)
        stop = visits.begin(request.session_hash)
        yield _status("Starting ..."), gr.skip(), *(gr.update(interactive=False) for _ in FILES)
        try:
            yield from _unfold(session, wish, stop)
        except (InputError, NonFiniteImagesError) as error:
            yield _status(str(error), is_error=True), gr.skip(), *NO_FILES

    def end(request: gr.Request) -> None:
        visits.end(request.session_hash)

    with gr.Blocks(
        title="uvit_dia", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)
    ) as page:
        gr.HTML(_heading(session))
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                fields = _fields(session)
                with gr.Row():
                    sample = gr.Button("Sample", variant="primary", min_width=100)
                    stop = gr.Button("Stop", min_width=100)
            with gr.Column(scale=3, min_width=300):
                status = gr.HTML(_status("Ready."))
                pictures = gr.HTML(EMPTY)
                with gr.Row():
                    files = [
                        gr.DownloadButton(label, interactive=False, size="sm", min_width=140)
                        for label in FILES
                    ]
        outputs = [status, pictures, *files]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        sample.click(draw, fields, outputs, concurrency_limit=MAX_VISITORS, **quiet)
        stop.click(end, queue=False, **quiet)
        page.unload(end)
    return page


def _fields(session: Session) -> list[Any]:
    """Make the fields of a `Wish`, in its order; those that no model knows are hidden."""
    first = session.first_wish
    names = session.class_names
    return [
        gr.Dropdown(list(session.samplers), value=first.sampler, label="Sampler"),
        gr.Number(first.num_steps, label="Steps", precision=None),
        gr.Number(first.seed, label="Seed", precision=None),
        gr.Slider(1, MAX_IMAGES, first.num_images, step=1, label="Images"),
        gr.Dropdown(
            [("all in turn", ALL), *((name, name) for name in names)],
            value=ALL,
            label="Class",
            visible=bool(names),
        ),
        gr.Slider(
            0,
            MAX_GUIDANCE,
            first.guidance_scale,
            step=0.1,
            label="Guidance (1 is none)",
            visible=session.can_guide,
        ),
    ]


def _unfold(session: Session, wish: Wish, stop: threading.Event) -> Iterator[tuple[Any, ...]]:
    """Show a sampling as it goes, then offer its files."""
    columns = session.columns(wish.class_label)
    frames: list[tuple[Moment, ...]] = []
    begun, shown_at = time.monotonic(), 0.0
    for moments in session.unfold(wish, stop):
        frames.append(moments)
        is_last = all(moment.is_last for moment in moments)
        now = time.monotonic()
        if is_last or now - shown_at >= LEAST_SECONDS:
            shown_at = now
            yield _progress(moments), _figures(session, moments, columns), *NO_FILES
    seconds = time.monotonic() - begun
    if not frames:
        yield _status("Stopped before the first picture."), gr.skip(), *NO_FILES
        return
    last = frames[-1]
    if all(moment.is_last for moment in last):
        told = f"Done: {_calls(last)} in {seconds:.1f} s."
    else:
        told = f"Stopped after {_calls(last)}."
    folder = Path(tempfile.mkdtemp(prefix="uvit_dia-demo-"))
    images = [[moment.images for moment in moments] for moments in frames]
    paths = write_files(folder, images, columns)
    yield (
        _status(told),
        _figures(session, last, columns),
        *(gr.update(value=path, interactive=True) for path in paths),
    )


def _heading(session: Session) -> str:
    names = " and ".join(html.escape(shown.name) for shown in session.models)
    side = ", drawn side by side from the same noise" if len(session.models) == 2 else ""
    return f'<header class="top"><h1>{names}</h1><p>Images form out of noise{side}.</p></header>'


def _figures(session: Session, moments: tuple[Moment, ...], columns: int | None) -> str:
    pairs = zip(session.models, moments, strict=True)
    figures = "".join(figure_html(shown, moment, columns) for shown, moment in pairs)
    return f'<div class="models models-{len(moments)}">{figures}</div>'


def _calls(moments: tuple[Moment, ...]) -> str:
    moment = max(moments, key=lambda each: each.num_calls)
    return f"{moment.calls} of {moment.num_calls} network calls"


def _progress(moments: tuple[Moment, ...]) -> str:
    moment = max(moments, key=lambda each: each.num_calls)
    return (
        f'<p class="status">{_calls(moments)} <progress aria-label="Network calls" '
        f'max="{moment.num_calls}" value="{moment.calls}"></progress></p>'
    )


def _status(text: str, *, is_error: bool = False) -> str:
    kind = 'class="status error" role="alert"' if is_error else 'class="status" role="status"'
    return f"<p {kind}>{html.escape(text)}</p>"
