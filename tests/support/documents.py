"""What README.md and docs/ hold: code blocks, commands, links, anchors."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from uvit_dia.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
SHELL = ("", "bash", "sh")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
# What starts a command within a sentence or a table.
STARTS = re.compile(
    r"((\w+=\S+ )*(accelerate launch|torchrun|python|uvit-dia|\S*train\.py|\S*sample\.py|"
    r"\S*eval_fid\.py|make|pip install) )\S"
)
LINK = re.compile(
    r"(?<!!)\[(?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)"
)
HEADING = re.compile(r"^#{1,6} (.+?)\s*$", re.MULTILINE)

# A script or module of ours -> the word of the console command that does the same.
PROGRAMS = {
    **{
        f"uvit_dia.{module.removesuffix('.__main__')}": word
        for word, (module, _) in COMMANDS.items()
    },
    "train.py": "train",
    "sample.py": "sample",
    "eval_fid.py": "eval",
}


@dataclass(frozen=True)
class Command:
    """A command of a page.

    Attributes:
        page: relative to the repository.
        line: of the page, from 1.
        text: one line; continued lines are joined.
        in_block: whether it stands in a code block, not in a sentence or a table.
    """

    page: str
    line: int
    text: str
    in_block: bool

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"

    def words(self) -> list[str]:
        """Return its words, without comments and without what stands for more of them."""
        words = shlex.split(self.text, comments=True)
        return [word for word in words if word != "..."]

    def ours(self) -> tuple[str, list[str]] | None:
        """Return the console command that it is and its arguments, or None for other programs."""
        words = self.words()
        for place, word in enumerate(words):
            if place and words[place - 1] == "uvit-dia":
                return word, words[place + 1 :]
            if Path(word).name in PROGRAMS:
                return PROGRAMS[Path(word).name], words[place + 1 :]
        return None


def name_of(page: Path) -> str:
    """Return a page relative to the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, languages: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Yield first line and code of a page's blocks in some languages."""
    text = page.read_text(encoding="utf-8")
    for fence in FENCE.finditer(text):
        if fence[1] in languages:
            yield text.count("\n", 0, fence.start()) + 2, fence[2]


def commands(page: Path) -> Iterator[Command]:
    """Yield the commands of a page: every line of its shell blocks, then those in sentences."""
    for first, code in blocks(page, SHELL):
        joined = ""
        for line, text in enumerate(code.splitlines(), start=first):
            joined += text.strip().removesuffix("\\")
            if not text.endswith("\\"):
                if joined and not joined.startswith("#"):
                    yield Command(name_of(page), line, joined.strip(), in_block=True)
                joined = ""
    text = FENCE.sub(lambda match: "\n" * match[0].count("\n"), page.read_text(encoding="utf-8"))
    for code in INLINE.finditer(text):
        if STARTS.match(code[1]):
            line = text.count("\n", 0, code.start()) + 1
            yield Command(name_of(page), line, code[1].replace("\\|", "|"), in_block=False)


def all_commands() -> list[Command]:
    """Return the commands of all pages."""
    return [command for page in PAGES for command in commands(page)]


def links(page: Path) -> Iterator[str]:
    """Yield the targets of a page's links and pictures."""
    text = INLINE.sub("", FENCE.sub("", page.read_text(encoding="utf-8")))
    for match in LINK.finditer(text):
        yield match[1] or match[2]
        if match[1]:  # a picture may be what is clicked on
            yield from (inner[2] for inner in LINK.finditer(match[0][1:]))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    found: dict[str, int] = {}
    result = set()
    for heading in HEADING.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = found.get(slug, 0)
        found[slug] = count + 1
        result.add(f"{slug}-{count}" if count else slug)
    return result
