"""The page of a report: its parts, its first screen in a browser, light, dark, phone and print."""

import base64
import html
import io
import json
import re
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from tests.support.browser import CHROMIUM
from tests.support.browser import FLAGS as QUIET
from uvit_dia.report.figures import FIGURES
from uvit_dia.report.page import (
    Bullets,
    Fold,
    Heading,
    Paragraph,
    Picture,
    Table,
    to_html,
    to_markdown,
)

# ------------------------------------------------------------------ the page


class Page(HTMLParser):
    """Collects what a page refers to, its ids, and whether its tags close."""

    VOID = ("meta", "link", "br", "img", "source", "hr", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: set[str] = set()
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self._attributes(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._attributes(attrs)

    def _attributes(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            text = value or ""
            if name == "id":
                self.ids.append(text)
            elif name in ("src", "href", "xlink:href", "srcset", "action", "data"):
                self.references.append(text)
            self.references += re.findall(r"url\((.*?)\)", text)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)


@pytest.fixture(scope="module")
def page(full: Path) -> tuple[str, Page]:
    text = (full / "report" / "report.html").read_text()
    parsed = Page()
    parsed.feed(text)
    return text, parsed


def test_page_needs_nothing_beside_itself(page: tuple[str, Page]) -> None:
    text, parsed = page
    without_data = re.sub(r'"data:[^"]*"', '""', text)
    assert not re.search(r"https?:|//|@import|<script", without_data)
    assert {r.split(":")[0][0] for r in parsed.references} <= {"#", "d"}
    assert all(r.startswith(("#", "data:")) for r in parsed.references)
    assert "default-src 'none'" in text
    assert not parsed.tags & {"script", "iframe", "object", "embed", "svg"}


def test_page_is_well_formed(page: tuple[str, Page]) -> None:
    _, parsed = page
    assert not parsed.faults
    assert not parsed.open
    assert len(set(parsed.ids)) == len(parsed.ids)
    inner = {r[1:] for r in parsed.references if r.startswith("#")}
    assert inner <= set(parsed.ids)


def test_figures_of_the_page_are_its_files_and_have_words(
    page: tuple[str, Page], full: Path
) -> None:
    text, _ = page
    for name in FIGURES:
        svg = (full / "report" / "figures" / f"{name}.svg").read_bytes()
        assert base64.b64encode(svg).decode() in text
    assert text.count("<img") == text.count(' alt="') == len(FIGURES)
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


FLAGS = (
    *QUIET,
    "--hide-scrollbars",
    "--allow-file-access-from-files",
    "--enable-logging=stderr",
)


def browse(tmp_path: Path, page: Path, *flags: str) -> subprocess.CompletedProcess:
    assert CHROMIUM is not None
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [CHROMIUM, *FLAGS, profile, *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


def light_or_dark(scheme: str) -> str:
    return f"--blink-settings=preferredColorScheme={1 if scheme == 'light' else 0}"


def measured(tmp_path: Path, page: Path, width: int, height: int, script: str) -> Any:
    """Open a page in a window of that size; return what a JavaScript expression over it gives.

    `box(selector)` of the expression is the rectangle of an element, `page` the document.
    """
    wrapper = tmp_path / "window.html"
    wrapper.write_text(
        f'<iframe id="frame" width="{width}" height="{height}" style="border:0" '
        f'src="{page.as_uri()}"></iframe><pre id="found"></pre><script>'
        "frame.onload = () => { const page = frame.contentDocument;"
        "const box = s => page.querySelector(s).getBoundingClientRect();"
        f"found.textContent = JSON.stringify({script}); }}</script>"
    )
    size = f"--window-size={width + 20},{height + 20}"
    done = browse(tmp_path, wrapper, size, "--dump-dom", "--virtual-time-budget=5000")
    found = re.search(r'<pre id="found">(.+?)</pre>', done.stdout)
    assert found is not None
    return json.loads(html.unescape(found[1]))


in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


@in_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_opens_in_a_browser(full: Path, tmp_path: Path, scheme: str) -> None:
    shot = tmp_path / "page.png"
    page = full / "report" / "report.html"
    size = "--window-size=1000,5400"
    done = browse(tmp_path, page, light_or_dark(scheme), size, f"--screenshot={shot}")
    assert "CONSOLE" not in done.stderr
    with Image.open(io.BytesIO(shot.read_bytes())) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    paper = to_hex(pixels[2, 2] / 255)
    assert paper == {"light": "#ffffff", "dark": "#14171a"}[scheme]
    bands = pixels.reshape(12, -1, 3).astype(float).std(axis=1).max(axis=1)
    assert (bands > 5).all()  # no part of it is blank
    saturation = pixels.max(axis=2).astype(int) - pixels.min(axis=2)
    assert (saturation > 100).mean() > 1e-3  # the figures' colours are there


@in_a_browser
def test_axes_of_the_main_figure_are_light_on_a_dark_page(full: Path, tmp_path: Path) -> None:
    shot = tmp_path / "page.png"
    page = full / "report" / "report.html"
    size = "--window-size=1440,900"
    browse(tmp_path, page, light_or_dark("dark"), size, f"--screenshot={shot}")
    with Image.open(shot) as picture:
        right = np.asarray(picture.convert("L"))[80:540, 660:1400].astype(int)
    assert np.median(right) < 30  # the paper of the page, not white
    assert (right > 180).mean() > 0.005  # axes and letters


@in_a_browser
def test_first_screen_holds_question_answer_figure_and_how_sure(full: Path, tmp_path: Path) -> None:
    page = full / "report" / "report.html"
    script = (
        "{answer: box('.answer'), figure: box('.first figure'), sure: box('.first ul'),"
        " first: box('.first'), words: page.querySelector('.first').innerText,"
        " image: page.querySelector('.first img').currentSrc === "
        "page.querySelector('.first img').src}"
    )
    found = measured(tmp_path, page, 1440, 900, script)
    assert found["first"]["bottom"] <= 900
    assert found["figure"]["left"] >= found["answer"]["right"]  # beside the words
    assert found["sure"]["top"] >= found["answer"]["bottom"]
    assert found["image"]
    order = [found["words"].index(word) for word in ("Question:", "Answer:", "How sure:")]
    assert order == sorted(order)


@in_a_browser
def test_a_phone_shows_answer_and_whole_figure_first(full: Path, tmp_path: Path) -> None:
    page = full / "report" / "report.html"
    script = (
        "{answer: box('.answer'), image: box('.first img'), sure: box('.first ul'),"
        " narrow: page.querySelector('.first img').currentSrc === "
        "page.querySelector('.first source').srcset,"
        " width: page.documentElement.scrollWidth}"
    )
    found = measured(tmp_path, page, 390, 844, script)
    assert found["answer"]["bottom"] <= found["image"]["top"]
    assert found["image"]["bottom"] <= 844
    assert found["sure"]["top"] >= found["image"]["bottom"]
    assert found["image"]["right"] <= 390
    assert found["narrow"]  # with letters that can be read
    assert found["width"] == 390


@in_a_browser
@pytest.mark.parametrize("width", [360, 390, 700, 1024, 1440])
def test_nothing_makes_the_page_scroll_sideways(full: Path, tmp_path: Path, width: int) -> None:
    """With every fold open; tables scroll within themselves."""
    page = full / "report" / "report.html"
    script = (
        "(page.querySelectorAll('details').forEach(d => d.open = true),"
        "[page.documentElement.scrollWidth,"
        "[...page.querySelectorAll('p, li, h1, h2, details, figure, .scroll')]"
        f".filter(e => e.getBoundingClientRect().right > {width}).length])"
    )
    assert measured(tmp_path, page, width, 900, script) == [width, 0]


@in_a_browser
def test_print_holds_what_is_folded(full: Path, tmp_path: Path) -> None:
    """A printed page is longer than it would be with the folds left out."""
    text = (full / "report" / "report.html").read_text()
    pages = {}
    for name, content in (
        ("whole", text),
        ("without", re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)),
    ):
        page, printed = tmp_path / f"{name}.html", tmp_path / f"{name}.pdf"
        page.write_text(content)
        browse(tmp_path, page, f"--print-to-pdf={printed}")
        pages[name] = len(re.findall(rb"/Type\s*/Page\b", printed.read_bytes()))
    assert pages["whole"] >= pages["without"] + 2


# ------------------------------------------------------------------ its blocks


def test_a_fold_is_closed_on_the_page_and_open_in_markdown() -> None:
    table = Table("How to read it.", ("run", "loss"), [("a", "1.0")])
    blocks = [Paragraph("so", "Answer:"), Heading("Tables"), Fold("Every run", [table])]
    page = to_html("Sweep", blocks)
    inner = re.search(r"<details>\s*<summary>Every run</summary>(.*?)</details>", page, re.DOTALL)
    assert inner is not None
    assert "<table>" in inner[1]
    assert page.count("<table>") == 1
    text = to_markdown("Sweep", blocks)
    assert "### Every run\n\nHow to read it.\n\n| run | loss |" in text


def test_contents_come_after_the_first_screen_and_name_every_section() -> None:
    blocks = [Paragraph("so", "Answer:"), Heading("Tables"), Bullets([("a", "b")]), Heading("Code")]
    page = to_html("Sweep", blocks)
    order = [page.index(part) for part in ("Answer:", "</section>", "<nav", '<h2 id="tables">')]
    assert order == sorted(order)
    assert re.findall(r'<a href="#([a-z]+)">', page) == ["tables", "code"]
    assert "<nav" not in to_html("Sweep", blocks[:1])


def test_only_a_picture_with_a_narrow_form_offers_one() -> None:
    wide = Picture("metric", "Metric", "Lower is better.", b"<svg/>", b"")
    narrow = replace(wide, narrow=b"<svg></svg>")
    assert "<source" not in to_html("Sweep", [wide])
    data = base64.b64encode(b"<svg></svg>").decode()
    assert f'srcset="data:image/svg+xml;base64,{data}"' in to_html("Sweep", [narrow])
