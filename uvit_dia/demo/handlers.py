"""What happens when something of the page is used; it imports gradio."""

import html
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from uvit_dia.demo.pictures import heat_map, picture, place_of, write_files
from uvit_dia.demo.session import Session
from uvit_dia.demo.visits import Trajectory, Visits
from uvit_dia.demo.wish import Wish
from uvit_dia.system.errors import InputError, NonFiniteImagesError

RUNS_AT_ONCE = 4  # that take turns, call by call; more wait in line

Updates = dict[Any, Any]  # component -> its new value or properties


@dataclass(frozen=True)
class Fields:
    """The components of the page that handlers read or change."""

    wish: list[Any]
    view: Any
    gate_view: Any
    sample: Any
    stop: Any
    status: Any
    pictures: list[Any]
    gates: list[Any]
    place: Any
    downloads: list[Any]

    @property
    def changed(self) -> list[Any]:
        """What a run changes."""
        buttons = [self.sample, self.stop, self.status, self.place]
        return [*buttons, *self.pictures, *self.gates, *self.downloads]


def connect(visits: Visits, fields: Fields, trajectory: gr.State) -> None:
    """Say what happens when something is used."""

    def sample(request: gr.Request, *values: Any) -> Iterator[Updates]:  # noqa: ANN401
        *wish, view, gate_view, before = values
        if before is not None:
            before.forget()
        yield from _run(visits, fields, trajectory, Wish(*wish), (view, gate_view), request)

    def stop(request: gr.Request) -> None:
        visits.stop(str(request.session_hash))

    def look_back(run: Trajectory | None, place: float, view: str, gate_view: str) -> Updates:
        if run is None:
            return {}
        return _drawn(visits.session, fields, run, (view, gate_view), int(place) - 1)

    _, steps, seed, images, *_ = fields.wish
    gr.on(
        [fields.sample.click, steps.submit, seed.submit, images.submit],
        sample,
        inputs=[*fields.wish, fields.view, fields.gate_view, trajectory],
        outputs=[*fields.changed, trajectory],
        show_progress="hidden",
        concurrency_limit=RUNS_AT_ONCE,
        concurrency_id="sample",
        api_visibility="private",
    )
    fields.stop.click(stop, queue=False, show_progress="hidden", api_visibility="private")
    gr.on(
        [fields.place.input, fields.view.input, fields.gate_view.input],
        look_back,
        inputs=[trajectory, fields.place, fields.view, fields.gate_view],
        outputs=[*fields.pictures, *fields.gates, fields.status],
        show_progress="hidden",
        trigger_mode="always_last",
        api_visibility="private",
    )


def leave_of(visits: Visits) -> Any:  # noqa: ANN401
    """Return what happens when a visitor closes the page."""

    def leave(request: gr.Request) -> None:
        visits.stop(str(request.session_hash))

    return leave


def _run(
    visits: Visits,
    fields: Fields,
    trajectory: gr.State,
    wish: Wish,
    views: tuple[str, str],
    request: gr.Request,
) -> Iterator[Updates]:
    """Sample, and show it as it goes."""
    session, run, begun = visits.session, None, time.monotonic()
    idle = {fields.sample: gr.update(interactive=True), fields.stop: gr.update(interactive=False)}
    try:
        for run in visits.run(str(request.session_hash), wish):
            updates = _drawn(session, fields, run, views, len(run.steps) - 1)
            if len(run.steps) == 1:
                updates |= {
                    fields.sample: gr.update(interactive=False),
                    fields.stop: gr.update(interactive=True),
                    fields.place: gr.update(interactive=False),
                    **{button: gr.update(interactive=False) for button in fields.downloads},
                }
            yield updates
    except (InputError, NonFiniteImagesError) as error:
        yield {**idle, fields.status: _refused(str(error)), trajectory: None}
        return
    if run is None or not run.steps:
        yield {**idle, fields.status: told("Stopped before the first picture."), trajectory: None}
        return
    yield {
        **idle,
        fields.status: _ended(session, run, time.monotonic() - begun),
        fields.place: gr.update(
            maximum=max(2, len(run.steps)), value=len(run.steps), interactive=True
        ),
        trajectory: run,
    }
    yield _files(session, fields, run, views[0])


def _drawn(
    session: Session, fields: Fields, run: Trajectory, views: tuple[str, str], place: int
) -> Updates:
    """Draw the models' pictures and gates at a step of a run."""
    place = min(max(place, 0), len(run.steps) - 1)
    frames = run.steps[place]
    updates: Updates = {}
    for index, model in enumerate(session.models):
        of_model = [step[index] for step in run.steps]
        updates[fields.pictures[index]] = picture(frames[index], views[0], run.labels, model.name)
        updates[fields.gates[index]] = heat_map(
            of_model, model.blocks, columns=run.num_frames - 1, view=views[1], chosen=place
        )
    last = f"step {place + 1} of {max(run.num_frames, len(run.steps))}"
    updates[fields.status] = told(f"{last}: {place_of(frames[0])}.")
    return updates


def _files(session: Session, fields: Fields, run: Trajectory, view: str) -> Updates:
    models = [(model.name, model.blocks) for model in session.models]
    paths = write_files(run.folder, run.steps, view=view, labels=run.labels, models=models)
    there = dict(zip(fields.downloads, paths, strict=False))
    return {
        button: gr.update(value=str(there[button]), interactive=True)
        if button in there
        else gr.update(value=None, interactive=False)
        for button in fields.downloads
    }


def _ended(session: Session, run: Trajectory, seconds: float) -> str:
    frames = run.steps[-1]
    is_whole = frames[0].gates is None and frames[0].x_0 is frames[0].x_t
    calls = max(frame.call for frame in frames)
    word = "Done" if is_whole else "Stopped"
    notes = "".join(f" Note: {note}." for note in session.notes(run.wish))
    return told(f"{word}: {calls} calls of the network in {seconds:.1f} s.{notes}")


def told(text: str) -> str:
    """Return a line that is read out when it changes."""
    return f'<p role="status" class="told">{html.escape(text)}</p>'


def _refused(text: str) -> str:
    return f'<p role="alert" class="refused">{html.escape(text)}</p>'
