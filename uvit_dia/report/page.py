"""A page of headings, paragraphs, lists, tables and figures, written as Markdown and as one HTML file.

The HTML needs nothing beside itself: no script, no font, no network, which its content policy also forbids. It reads
on a phone, in print, and on a light or dark screen. Every text is escaped here; blocks hold plain text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from uvit_dia.plots.style import page_svg

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --paper: #ffffff; --band: #f3f5f7;
  --grid: #d3d7dc; --mark: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e7eb; --soft: #a2abb5; --paper: #14171a; --band: #1e2328;
  --grid: #3d454d; --mark: #56b4e9; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
  overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; padding-top: .5rem; border-top: 1px solid var(--grid); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
p, ul, figcaption { max-width: 46rem; }
p { margin: .6rem 0; }
ul { padding-left: 1.2rem; margin: .5rem 0; }
li { margin: .5rem 0; }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; }
nav li { margin: 0; }
a { color: var(--mark); }
p.note { border-left: 4px solid var(--mark); padding: .4rem .8rem; background: var(--band); }
figure { margin: 1.4rem 0 2rem; }
figure .scroll { margin: 0; }
figure svg { display: block; width: 100%; min-width: 30rem; height: auto; }
figcaption, p.caption { color: var(--soft); font-size: .9rem; line-height: 1.45; }
figcaption { margin-top: .5rem; }
p.caption { margin: 1.6rem 0 .4rem; }
.scroll { overflow-x: auto; margin: .4rem 0 1.6rem; }
.scroll:focus-visible { outline: 2px solid var(--mark); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--grid); }
thead th { border-bottom: 2px solid var(--soft); vertical-align: bottom; }
th.n, td.n { text-align: right; }
td { white-space: nowrap; }
td.long { white-space: normal; min-width: 14rem; }
tbody tr:nth-child(even) { background: var(--band); }
@media print {
  :root { color-scheme: light; --ink: #000000; --soft: #333333; --paper: #ffffff; --band: #ffffff; --grid: #bbbbbb;
    --mark: #000000; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  figure, tr, li { break-inside: avoid; }
  h2, h3, p.caption { break-after: avoid; }
  .scroll { overflow: visible; }
  figure svg { min-width: 0; width: 13cm; }
  table { font-size: 7pt; }
  th, td { padding: .15rem .3rem; }
  td { white-space: normal; }
}
"""
LONG_CELL = 40  # letters; such a cell of a table is broken into lines
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Heading:
    """A heading; level 2 starts a section, level 3 a part of one."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """A paragraph, with words in bold before it where `lead` has some; a note stands out from the text."""

    text: str
    lead: str = ""
    is_note: bool = False


@dataclass(frozen=True)
class Bullets:
    """A list; each item is its bold lead, which may be empty, and its text."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        caption: what it shows and how to read it.
        header: of its columns.
        rows: as long as the header.
        words: how many columns, from the left, hold words; the others hold numbers.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]] = field(default_factory=tuple)
    words: int = 1


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        name: of its files, `figures/NAME.png` and `figures/NAME.svg`; letters only.
        title: what it shows.
        caption: how to read it.
        svg: its content.
        png: its content.
    """

    name: str
    title: str
    caption: str
    svg: bytes
    png: bytes


Block = Heading | Paragraph | Bullets | Table | Picture


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
        case Paragraph(text, lead, is_note):
            return ("> " if is_note else "") + _with_lead(_md(lead), _md(text), "**{}**")
        case Bullets(items):
            return "\n".join("- " + _with_lead(_md(a), _md(b), "**{}**") for a, b in items)
        case Table(caption, header, rows, words):
            rule = ["---" if column < words else "---:" for column in range(len(header))]
            lines = [map(_md, header), rule, *(map(_md, row) for row in rows)]
            return f"{_md(caption)}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case Picture(name, picture_title, caption):
            told = f"**{_md(picture_title)}.** {_md(caption)}"
            return f"![{_md(picture_title)}](figures/{name}.png)\n\n{told}"


def _with_lead(lead: str, text: str, bold: str) -> str:
    return f"{bold.format(lead)} {text}".strip() if lead else text


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """Return a page as one HTML file."""
    sections = [block.text for block in blocks if isinstance(block, Heading) and block.level == 2]
    links = "".join(f'<li><a href="#{_anchor(name)}">{escape(name)}</a></li>' for name in sections)
    body = "\n".join(map(_html_block, blocks))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n<main>\n<h1>{escape(title)}</h1>\n"
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n{body}\n</main>\n</body>\n</html>\n'
    )


def _anchor(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text.lower())


def _html_block(block: Block) -> str:
    match block:
        case Heading(text, level):
            anchor = f' id="{_anchor(text)}"' if level == 2 else ""
            return f"<h{level}{anchor}>{escape(text)}</h{level}>"
        case Paragraph(text, lead, is_note):
            kind = ' class="note"' if is_note else ""
            return f"<p{kind}>{_with_lead(escape(lead), escape(text), '<strong>{}</strong>')}</p>"
        case Bullets(items):
            lines = (
                f"<li>{_with_lead(escape(a), escape(b), '<strong>{}</strong>')}</li>"
                for a, b in items
            )
            return "<ul>\n" + "\n".join(lines) + "\n</ul>"
        case Table():
            return _html_table(block)
        case Picture(name, picture_title, caption, svg):
            drawing = page_svg(svg, prefix=name, label=f"{picture_title}. {caption}")
            told = f"<strong>{escape(picture_title)}.</strong> {escape(caption)}"
            return (
                f'<figure>\n<div class="scroll" tabindex="0">\n{drawing}\n</div>\n'
                + f"<figcaption>{told}</figcaption>\n</figure>"
            )


def _html_table(table: Table) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        made = []
        for column, cell in enumerate(cells):
            kind = ' class="n"' if column >= table.words else ""
            if tag == "td" and len(cell) > LONG_CELL:
                kind = ' class="long"'
            scope = ' scope="col"' if tag == "th" else ""
            made.append(f"<{tag}{scope}{kind}>{escape(cell)}</{tag}>")
        return f"<tr>{''.join(made)}</tr>"

    caption = escape(table.caption)
    body = "\n".join(line(row, "td") for row in table.rows)
    return (
        f'<p class="caption">{caption}</p>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}">\n<table>\n'
        f"<thead>{line(table.header, 'th')}</thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )
