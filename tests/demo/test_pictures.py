"""Grids, heat maps and files of a run: what stands in them is what was seen."""

import base64
import csv
import io
import math
import re
import threading
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.shown_models import WITHOUT, session_of
from uvit_dia.data.image_grid import image_grid
from uvit_dia.demo.pictures import (
    CHANGE,
    GATE_VIEWS,
    LESS_OR_MORE,
    MEANT,
    NOISED,
    VIRIDIS,
    colour_at,
    heat_map,
    picture,
    write_files,
)
from uvit_dia.demo.unfolding import Frame
from uvit_dia.demo.wish import Wish

WISH = Wish(sampler="dpmpp_2m", num_steps=4, seed=3, num_images=3)
SVG = "{http://www.w3.org/2000/svg}"


def frame(call: int, gates: list[float] | None, timestep: float = 500.0) -> Frame:
    images = torch.full((2, 1, 4, 4), call, dtype=torch.uint8)
    means = None if gates is None else torch.tensor(gates)
    return Frame(call=call, timestep=timestep, x_t=images, x_0=images + 100, gates=means)


def cells(svg: str) -> list[str]:
    """Return the colours of a heat map's cells, without those of the bar below."""
    found = [each.attrib for each in ET.fromstring(svg).iter("rect")]
    return [each["fill"] for each in found if each.get("height") == "15"]


@pytest.mark.parametrize(("view", "value"), [(NOISED, 7), (MEANT, 107)])
def test_a_picture_is_the_grid_of_the_view(view: str, value: int) -> None:
    found = re.fullmatch(
        r'<img class="grid" alt="(.*)" src="data:image/png;base64,(.*)">',
        picture(frame(7, None, 321.4), view, None, 'a "model" <b>'),
    )
    assert found is not None
    assert found[1] == (
        f"a &quot;model&quot; &lt;b&gt;: grid of 2, {view}, at call 7, timestep 321"
    )
    with Image.open(io.BytesIO(base64.b64decode(found[2]))) as image:
        shown = np.array(image)
    images = torch.full((2, 1, 4, 4), value, dtype=torch.uint8)
    np.testing.assert_array_equal(shown, image_grid(images)[0].numpy())


def test_colours_of_the_heat_map() -> None:
    """The lowest gate is the darkest, the highest the lightest, and calls to come are empty."""
    frames = [frame(1, [0.2, 0.5], 999.0), frame(2, [0.5, 1.0], 400.0)]
    svg = heat_map(frames, [0, 4], columns=10, chosen=1)
    assert cells(svg) == [
        VIRIDIS[0],
        colour_at(0.375, VIRIDIS),
        colour_at(0.375, VIRIDIS),
        VIRIDIS[-1],
    ]
    texts = [each.text for each in ET.fromstring(svg).iter("text")]
    assert {"0", "4", "timestep 999", "0.20", "1.00"} <= set(texts)
    assert "from 0.20 to 1.00" in ET.fromstring(svg).attrib["aria-label"]


def test_change_along_the_run_is_relative_to_each_block() -> None:
    frames = [frame(1, [0.5, 4.0]), frame(2, [1.5, 4.0])]
    svg = heat_map(frames, [0, 1], columns=2, view=CHANGE)
    middle = LESS_OR_MORE[3]
    assert cells(svg) == [LESS_OR_MORE[0], LESS_OR_MORE[-1], middle, middle]
    assert "from -50.0% to +50.0%" in svg


@pytest.mark.parametrize("view", GATE_VIEWS)
def test_gates_that_are_all_the_same_are_drawn(view: str) -> None:
    svg = heat_map([frame(1, [0.5, 0.5])], [0, 1], columns=1, view=view)
    assert len(cells(svg)) == 2


def test_a_model_without_a_unit_says_so() -> None:
    assert "no attention unit" in heat_map([frame(1, None)], [], columns=5)


def test_many_blocks_keep_their_names_apart() -> None:
    svg = heat_map([frame(1, [0.1 * k for k in range(29)])], list(range(29)), columns=5)
    texts = [each.text for each in ET.fromstring(svg).iter("text")]
    named = [text for text in texts if text and text.isdecimal()]
    assert named == [str(k) for k in range(0, 29, 3)]


def test_colour_at_goes_through_the_list() -> None:
    assert colour_at(0, ["#000000", "#ff0000"]) == "#000000"
    assert colour_at(0.5, ["#000000", "#ff0000"]) == "#800000"
    assert colour_at(7, ["#000000", "#ff0000"]) == "#ff0000"


def test_files_of_two_models(tmp_path: Path) -> None:
    session = session_of({}, WITHOUT)
    steps = list(session.unfold(WISH, threading.Event()))
    models = [(model.name, model.blocks) for model in session.models]
    paths = write_files(tmp_path, steps, view=NOISED, labels=None, models=models)
    assert [path.name for path in paths] == [
        "grid.png",
        "unfolding.gif",
        "unfolding.webp",
        "gates.csv",
    ]
    with Image.open(paths[0]) as image:
        grid = np.array(image)
    one = image_grid(steps[-1][0].x_0)[0].numpy()
    two = image_grid(steps[-1][1].x_0)[0].numpy()
    np.testing.assert_array_equal(grid[:, : one.shape[1]], one)
    np.testing.assert_array_equal(grid[:, -two.shape[1] :], two)
    assert grid.shape[1] == one.shape[1] + two.shape[1] + 8
    for path in paths[1:3]:
        with Image.open(path) as image:
            assert image.n_frames == len(steps) == 5
    rows = list(csv.DictReader(paths[3].open()))
    assert len(rows) == 3 * 4  # blocks, calls; of the model with a unit
    gates = steps[2][0].gates
    assert gates is not None
    (found,) = [row for row in rows if row["call"] == "3" and row["block"] == "1"]
    assert math.isclose(float(found["mean_gate"]), float(gates[1]), abs_tol=1e-6)
    assert found["model"] == "model 0"


def test_no_gates_no_file(tmp_path: Path) -> None:
    session = session_of(WITHOUT)
    steps = list(session.unfold(WISH, threading.Event()))
    paths = write_files(tmp_path, steps, view=MEANT, labels=None, models=[("a", [])])
    assert [path.name for path in paths] == ["grid.png", "unfolding.gif", "unfolding.webp"]
