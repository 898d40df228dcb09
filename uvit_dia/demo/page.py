"""The page itself: its fields, pictures and heat maps; it imports gradio."""

import html
from pathlib import Path
from typing import Any

import gradio as gr

from uvit_dia.demo.handlers import Fields, connect, leave_of, told
from uvit_dia.demo.pictures import GATE_VIEWS, MEAN, NOISED, VIEWS, heat_map
from uvit_dia.demo.session import Session
from uvit_dia.demo.visits import Visits
from uvit_dia.demo.wish import IN_TURN, MAX_IMAGES

KEPT_SECONDS = 3600  # how long a visitor's run is kept
MAX_GUIDANCE = 10
TITLE = "uvit_dia: watch a U-ViT sample"
INTRODUCTION = (
    "Each picture forms from noise, one call of the network after the other. The heat map shows "
    "what the attention unit multiplies the channels of each block with on the way: 1 leaves them "
    "as they are."
)
DOWNLOADS = ("Grid (PNG)", "Animation (GIF)", "Animation (WebP)", "Gates (CSV)")


def build_page(session: Session, folder: Path) -> gr.Blocks:
    """Make the page.

    Args:
        session: its models.
        folder: where files to download are written.
    """
    visits = Visits(session, folder)
    keep = (KEPT_SECONDS, KEPT_SECONDS)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=keep) as page:
        gr.HTML(f"<h1>{TITLE}</h1><p>{INTRODUCTION}</p>", elem_id="introduction")
        trajectory = gr.State(
            None, time_to_live=KEPT_SECONDS, delete_callback=lambda t: t and t.forget()
        )
        with gr.Row(elem_id="main"):
            with gr.Column(scale=2, min_width=300, elem_id="controls"):
                wish, sample, stop, status = _controls(session)
            with gr.Column(scale=5, min_width=300):
                fields = _pictures(session, wish=wish, sample=sample, stop=stop, status=status)
        connect(visits, fields, trajectory)
        page.unload(leave_of(visits))
    return page


def _controls(session: Session) -> tuple[list[Any], Any, Any, Any]:
    """Make the fields of a wish, in the order of `Wish`, the two buttons and the line below."""
    first = session.first_wish
    with gr.Row():
        sampler = gr.Dropdown(
            session.samplers, value=first.sampler, label="Sampler", min_width=130, filterable=False
        )
        steps = gr.Number(first.num_steps, label="Steps", precision=0, min_width=130)
    with gr.Row():
        seed = gr.Number(first.seed, label="Seed", precision=0, min_width=130)
        images = gr.Number(
            first.num_images, label=f"Images (1 to {MAX_IMAGES})", precision=0, min_width=130
        )
    wish = [sampler, steps, seed, images]
    with gr.Row():
        if session.class_names:
            names = [IN_TURN, *session.class_names]
            wish.append(
                gr.Dropdown(names, value=IN_TURN, label="Class", min_width=130, filterable=False)
            )
        else:
            wish.append(gr.State(None))
        if session.can_guide:
            scale = first.guidance_scale
            wish.append(
                gr.Slider(0, MAX_GUIDANCE, scale, step=0.1, label="Guidance", min_width=130)
            )
        else:
            wish.append(gr.State(None))
    with gr.Row():
        sample = gr.Button("Sample", variant="primary", min_width=130)
        stop = gr.Button("Stop", variant="stop", min_width=130, interactive=False)
    status = gr.HTML(told("Choose, then press Sample."), elem_id="status")
    return wish, sample, stop, status


def _pictures(session: Session, **made: Any) -> Fields:  # noqa: ANN401
    """Make what shows a run: a column a model, the step to look at, files to take."""
    pictures, gates = [], []
    is_alone = len(session.models) == 1
    with gr.Row(elem_id="models"):
        for model in session.models:
            with gr.Column(min_width=280):
                name, facts = html.escape(model.name), html.escape(model.facts)
                gr.HTML(f"<h2>{name}</h2><p class='facts'>{facts}</p>")
                with gr.Row() if is_alone else gr.Column():  # beside the picture, or below it
                    pictures.append(gr.HTML(_EMPTY, elem_classes="picture", min_width=280))
                    no_gates = "" if model.blocks else heat_map([], [], columns=1)
                    gates.append(gr.HTML(no_gates, elem_classes="gate-map", min_width=280))
    place = gr.Slider(
        1, 2, 1, step=1, label="Look back: step of the run", interactive=False, elem_id="place"
    )
    with gr.Row():
        view = gr.Radio(list(VIEWS), value=NOISED, label="Pictures", min_width=280)
        gate_view = gr.Radio(list(GATE_VIEWS), value=MEAN, label="Gates", min_width=280)
    with gr.Row(elem_id="downloads"):
        downloads = [
            gr.DownloadButton(name, interactive=False, size="sm", min_width=120)
            for name in DOWNLOADS
        ]
    return Fields(
        view=view,
        gate_view=gate_view,
        pictures=pictures,
        gates=gates,
        place=place,
        downloads=downloads,
        **made,
    )


_EMPTY = '<div class="empty">The pictures form here.</div>'
