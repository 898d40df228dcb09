"""A page of headings, paragraphs, lists, tables and figures, as Markdown and as one HTML file.

The HTML (`page.html.jinja`, `page.css`) needs nothing beside itself: no script, no font, no
network, which its content policy also forbids. It reads on a phone, in print, and on a light or
dark screen. Blocks hold plain text; Jinja escapes it for HTML, `_md` for Markdown.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

LONG_CELL = 40  # letters; such a cell of a table is broken into lines


@dataclass(frozen=True)
class Heading:
    """A heading; level 2 starts a section, level 3 a part of one."""

    kind: ClassVar[str] = "heading"
    text: str
    level: int = 2

    @property
    def anchor(self) -> str:
        """The heading's name in a link."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.text.lower())


@dataclass(frozen=True)
class Paragraph:
    """A paragraph, with words in bold before it where `lead` has some.

    An answer is set larger than the text; a note stands apart from it.
    """

    kind: ClassVar[str] = "paragraph"
    text: str
    lead: str = ""
    look: Literal["", "answer", "note"] = ""


@dataclass(frozen=True)
class Bullets:
    """A list; each item is its bold lead, which may be empty, and its text."""

    kind: ClassVar[str] = "bullets"
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        caption: what it shows and how to read it.
        header: of its columns.
        rows: as long as the header.
        labels: how many columns, from the left, hold words; the others hold numbers.
    """

    kind: ClassVar[str] = "table"
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]] = field(default_factory=tuple)
    labels: int = 1

    def look(self, column: int, cell: str = "") -> str:
        """Return how a cell is set: "long" in lines of its own, "n" as a number, or "" as words."""
        if len(cell) > LONG_CELL:
            return "long"
        return "n" if column >= self.labels else ""


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        name: of its files, `figures/NAME.png` and `figures/NAME.svg`; letters only.
        title: what it shows.
        caption: how to read it.
        svg: its content.
        png: its content.
        has_images: whether it shows images, whose colours a dark page must not turn round.
        narrow: the same drawn for a phone, as SVG; without it, a phone scrolls over the wide one.
    """

    kind: ClassVar[str] = "picture"
    name: str
    title: str
    caption: str
    svg: bytes
    png: bytes
    has_images: bool = False
    narrow: bytes = b""

    @property
    def data(self) -> str:
        """The SVG as a data URL."""
        return _data_url(self.svg)

    @property
    def narrow_data(self) -> str:
        """The narrow SVG as a data URL."""
        return _data_url(self.narrow)


@dataclass(frozen=True)
class Fold:
    """Blocks that a reader opens: `title` stands for them until then, and above them in Markdown.

    A fold holds no other, and no heading.
    """

    kind: ClassVar[str] = "fold"
    title: str
    blocks: Sequence[Paragraph | Bullets | Table | Picture]


Block = Heading | Paragraph | Bullets | Table | Picture | Fold


def _data_url(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """Return a page as one HTML file.

    What stands before the first heading becomes the first screen. Where the page is wide, its
    picture stands beside its words. Then come a table of contents and the sections.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    kinds = [block.kind for block in blocks]
    start = kinds.index("heading") if "heading" in kinds else len(kinds)
    template = environment.get_template("page.html.jinja")
    return template.render(title=title, first=blocks[:start], others=blocks[start:])


def to_markdown(title: str, blocks: Sequence[Block]) -> str:
    """Return a page as Markdown; its figures are the PNG files beside it."""
    return "\n\n".join([f"# {_md(title)}", *map(_markdown_block, blocks)]) + "\n"


def _md(text: str) -> str:
    for sign in "\\`*<[|":
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.split())


def _markdown_block(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_md(text)}"
        case Paragraph(text, lead, look):
            return ("> " if look == "note" else "") + _with_lead(lead, text)
        case Bullets(items):
            return "\n".join(f"- {_with_lead(lead, text)}" for lead, text in items)
        case Table(caption, header, rows, labels):
            rule = ["---" if column < labels else "---:" for column in range(len(header))]
            lines = [map(_md, header), rule, *(map(_md, row) for row in rows)]
            return f"{_md(caption)}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case Picture(name, picture_title, caption):
            told = _with_lead(f"{picture_title}.", caption)
            return f"![{_md(picture_title)}](figures/{name}.png)\n\n{told}"
        case Fold(fold_title, inner):
            return "\n\n".join([f"### {_md(fold_title)}", *map(_markdown_block, inner)])


def _with_lead(lead: str, text: str) -> str:
    return f"**{_md(lead)}** {_md(text)}".strip() if lead else _md(text)
