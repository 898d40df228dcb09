"""Links, anchors, names and drawings of the docs, and what the site makes of them."""

import ast
import re
import runpy
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from tests.support.documents import INLINE, PAGES, ROOT, anchors, blocks, links, name_of

REPOSITORY = "https://github.com/uvit-dia/uvit_dia/"
# Pages whose links are looked at: those of the site, and what stands beside the code.
LINKING = [
    *PAGES,
    *sorted((ROOT / "results").rglob("*.md")),
    *(ROOT / f"{name}.md" for name in ("CHANGELOG", "SECURITY")),
]
SITE = runpy.run_path(str(ROOT / "docs" / "site_hooks.py"))


def problem_of(page: Path, link: str) -> str | None:
    """Return what is wrong with a link of a page, or None for one that works or leads elsewhere."""
    if link.startswith(REPOSITORY):
        address = re.match(r"(?:blob|raw|tree)/main/(.*)", link.removeprefix(REPOSITORY))
        if address is None:
            return None
        target, base = address[1], ROOT
    elif re.match(r"[a-z]+:", link):
        return None
    else:
        target, base = link, page.parent
    path, _, anchor = unquote(target).partition("#")
    file = base / path if path else page
    if not file.exists():
        return f"{link}: there is no such file"
    if anchor and file.suffix == ".md" and anchor not in anchors(file):
        return f"{link}: {file.name} has no such heading"
    return None


@pytest.mark.parametrize("page", LINKING, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    assert [problem for link in links(page) if (problem := problem_of(page, link))] == []


@pytest.mark.parametrize(
    "link",
    ["nowhere.md", "speed.md#nothing", f"{REPOSITORY}blob/main/docs/none.md", "#no-heading"],
)
def test_a_dead_link_is_seen(link: str) -> None:
    assert problem_of(ROOT / "docs" / "index.md", link) is not None


def test_links_and_anchors_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One `two`, three\n## A & b\n## A & b\n[x](a.md#b) ![y](c.png) [![z](d.png)](e.md)\n"
        "`[no](code.md)`\n```\n# no heading\n[no](block.md)\n```\n"
    )
    assert sorted(links(page)) == ["a.md#b", "c.png", "d.png", "e.md"]
    assert anchors(page) == {"one-two-three", "a--b", "a--b-1"}


# ---------------------------------------------------------------- what pages say about the code


@cache
def names_in(file: Path) -> set[str]:
    """Return the functions and classes of a module, and methods as Class.method."""
    names = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = (each.name for each in node.body if isinstance(each, ast.FunctionDef))
            names |= {f"{node.name}.{name}" for name in inner}
    return names


def test_equations_are_where_the_table_says() -> None:
    text = (ROOT / "docs" / "method.md").read_text()
    rows = re.findall(r"^\| .* \| (.*) \|$", text[text.index("| equation |") :], re.MULTILINE)[2:]
    assert len(rows) > 10
    for row in rows:
        for part in row.split(";"):
            names, file = part.split(" in ")
            path = ROOT / file.strip(" `")
            wanted = re.findall(r"`([\w.]+)`", names)
            assert wanted
            assert set(wanted) <= names_in(path), part
    equations = {int(number) for number in re.findall(r"^\((\d+)\)  ", text, re.MULTILINE)}
    assert equations == set(range(1, len(equations) + 1))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_pages_name_exist(page: Path) -> None:
    """Names such as `training/log.py`, from the repository, the package or the sweeps' folder."""
    folders = (
        ROOT,
        ROOT / "uvit_dia",
        ROOT / "uvit_dia/models",
        ROOT / "tests",
        ROOT / "configs/sweeps",
        ROOT / "configs",
    )
    for code in INLINE.findall(page.read_text()):
        name = re.fullmatch(
            r"([\w./]+/[\w.]+\.(?:py|toml|md)|digits_\w+\.py|cifar10_\w+\.py)(:\w+)?", code
        )
        if name:
            assert any((folder / name[1]).exists() for folder in folders), code


def test_the_unit_on_its_page_is_the_example() -> None:
    ((_, code),) = blocks(ROOT / "docs/how-to/own-unit.md", ("python",))
    assert code == (ROOT / "examples/own_unit.py").read_text()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_on_pages_is_python(page: Path) -> None:
    for line, code in blocks(page, ("python",)):
        compile(code, f"{page}:{line}", "exec")


def test_drawings_are_what_their_code_draws() -> None:
    """Of another matplotlib than the pinned one bytes may differ: look, then `make pictures`."""
    pictures = runpy.run_path(str(ROOT / "docs" / "pictures.py"))
    for name, draw in pictures["PICTURES"].items():
        assert draw() == (ROOT / "docs" / "images" / name).read_bytes(), name


# ---------------------------------------------------------------- the site


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml without calling what it names."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def navigation(part: object) -> set[str]:
    if isinstance(part, str):
        return {part}
    values = part.values() if isinstance(part, dict) else part
    assert isinstance(values, list | type({}.values()))
    return set().union(*map(navigation, values))


def test_every_page_is_in_the_navigation() -> None:
    config = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)
    pages = {name_of(page).removeprefix("docs/") for page in PAGES if name_of(page)[:5] == "docs/"}
    assert navigation(config["nav"]) == pages | {"results/README.md"}
    assert config["theme"]["font"] is False
    assert "repo_url" not in config  # with it the theme asks GitHub from the reader's browser


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("index.md", "../results/README.md", "results/README.md"),
        ("how-to/slurm.md", "../preemption.md#slurm", "../preemption.md#slurm"),
        ("results/README.md", "../docs/experiments.md", "../experiments.md"),
        ("results/README.md", "tables.md", "tables.md"),
        ("analyses.md", "../examples/own_unit.py", f"{REPOSITORY}blob/main/examples/own_unit.py"),
        ("analyses.md", "../examples", f"{REPOSITORY}tree/main/examples"),
        ("index.md", "https://arxiv.org/abs/2210.16101", "https://arxiv.org/abs/2210.16101"),
        ("index.md", "nowhere.md", "nowhere.md"),
    ],
)
def test_links_of_the_site(page: str, link: str, expected: str) -> None:
    pages = {
        "index.md",
        "experiments.md",
        "preemption.md",
        "results/README.md",
        "results/tables.md",
    }
    text = f"see [there]({link}) and\n```\n[code]({link})\n```\n"
    found = SITE["site_links"](text, page, pages)
    assert found == f"see [there]({expected}) and\n```\n[code]({link})\n```\n"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.html", '<script src="https://x.org/a.js"></script>', ["https://x.org/a.js"]),
        ("a.html", "<img alt='' src=//x.org/a.png>", ["//x.org/a.png"]),
        ("a.html", '<link rel="stylesheet" href="http://x.org/a.css">', ["http://x.org/a.css"]),
        ("a.html", '<link rel="canonical" href="https://x.org/a">', []),
        ("a.html", '<a href="https://x.org">x</a> <img src="b.png">', []),
        (
            "a.html",
            "<style>a{background:url(https://x.org/b.png)}</style>",
            ["https://x.org/b.png"],
        ),
        ("a.css", "@import 'https://x.org/font.css';", ["https://x.org/font.css"]),
        ("a.css", "a{background:url(data:image/png;base64,AA)}", []),
        ("a.js", "'https://x.org'", []),
    ],
)
def test_what_is_loaded_from_outside_is_seen(name: str, text: str, expected: list[str]) -> None:
    assert SITE["outside_addresses"](name, text) == expected
