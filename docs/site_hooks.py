"""What MkDocs does beside its plugins.

Pages from outside docs/, links as they are on GitHub, and a last look.

The pages read well on GitHub too, so a link says where a file lies in the repository. Here it
becomes a link within the site, or, for files that are no page, one to the repository.
"""

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # MkDocs is not among what the tests need
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "https://github.com/uvit-dia/uvit_dia"
FROM_OUTSIDE = ("results",)  # folders beside docs/ that are shown
SHOWN = {".md", ".png", ".svg"}  # of their files
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)

# What a browser loads by itself, as (tag, attribute); an <a href> is followed by the reader alone.
LOADED = {
    "link": "href",
    **dict.fromkeys(("script", "img", "iframe", "source", "video", "audio", "embed"), "src"),
}
ATTRIBUTE = r"""<{tag}\b[^>]*?\s{name}\s*=\s*["']?([^"'\s>]+)"""
CSS_ADDRESS = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""")
OUTSIDE = re.compile(r"(?:[a-z]+:)?//", re.IGNORECASE)


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the pages and pictures of the folders beside docs/."""
    from mkdocs.structure.files import File

    for folder in FROM_OUTSIDE:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SHOWN:
                name = path.relative_to(ROOT).as_posix()
                files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    """Turn links within the repository into links within the site, or to the repository."""
    pages = {file.src_uri for file in files}
    return site_links(markdown, page.file.src_uri, pages)


def site_links(markdown: str, page: str, pages: set[str]) -> str:
    """Return a page's text with its links as the site needs them; code blocks stay as they are.

    Args:
        markdown: the text.
        page: the page, by its path in the site's sources.
        pages: all files of the site, by the same paths.
    """
    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [_links(markdown[end : fence.start()], page, pages), fence[0]]
        end = fence.end()
    return "".join([*parts, _links(markdown[end:], page, pages)])


def _links(text: str, page: str, pages: set[str]) -> str:
    def change(match: re.Match[str]) -> str:
        return f"{match[1]}{_target(match[2], page, pages)}{match[3]}"

    return LINK.sub(change, text)


def _target(target: str, page: str, pages: set[str]) -> str:
    if ":" in target or target.startswith("/"):
        return target
    in_docs = page.partition("/")[0] not in FROM_OUTSIDE
    here = posixpath.dirname(posixpath.join("docs", page) if in_docs else page)
    path = posixpath.normpath(posixpath.join(here, target))  # in the repository
    shown = path.removeprefix("docs/")
    if shown in pages:
        return posixpath.relpath(shown, posixpath.dirname(page) or ".")
    if f"{shown}/README.md" in pages:
        return posixpath.relpath(f"{shown}/README.md", posixpath.dirname(page) or ".")
    kind = "tree" if (ROOT / path).is_dir() else "blob"
    return f"{REPOSITORY}/{kind}/main/{path}" if (ROOT / path).exists() else target


def outside_addresses(name: str, text: str) -> list[str]:
    """Return what a file of the site makes a browser load from elsewhere.

    Args:
        name: of the file; .html and .css are looked at, others load nothing by themselves.
        text: of the file.
    """
    if name.endswith(".css"):
        return CSS_ADDRESS.findall(text)
    if not name.endswith(".html"):
        return []
    found = CSS_ADDRESS.findall("".join(re.findall(r"<style.*?</style>", text, re.DOTALL)))
    for tag, attribute in LOADED.items():
        pattern = re.compile(ATTRIBUTE.format(tag=tag, name=attribute), re.IGNORECASE)
        for match in pattern.finditer(text):
            is_for_reading = tag == "link" and re.search(
                r"rel=[\"']?(canonical|next|prev)", match[0]
            )
            if OUTSIDE.match(match[1]) and not is_for_reading:
                found.append(match[1])
    return found


def on_post_build(config: "MkDocsConfig") -> None:
    """Refuse a site that would load anything from elsewhere."""
    from mkdocs.exceptions import PluginError

    site = Path(config.site_dir)
    found = [
        f"{path.relative_to(site)}: {address}"
        for path in sorted(site.rglob("*"))
        if path.suffix in (".html", ".css")
        for address in outside_addresses(path.name, path.read_text(encoding="utf-8"))
    ]
    if found:
        raise PluginError("loaded from outside:\n" + "\n".join(found))
