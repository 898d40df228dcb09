"""The stored notebook: whole, with what it showed, and without a trace of the machine that ran it.

`make notebook` runs it.
"""

import ast
import json
import re
import tempfile
from pathlib import Path

from tests.support.documents import ROOT

NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]
MAX_BYTES = 1_000_000
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/])/[\w.-]+/\S*")


def source(cell: dict) -> str:
    """Return a cell's Python, without the commands of the notebook's shell."""
    lines = "".join(cell["source"]).splitlines()
    return "\n".join(re.sub(r"^(\s*)[!%].*", r"\1pass", line) for line in lines)


def outputs(kind: str) -> list[dict]:
    return [each for cell in CODE for each in cell["outputs"] if each["output_type"] == kind]


def test_its_cells_are_python() -> None:
    for cell in CODE:
        ast.parse(source(cell))


def test_a_first_cell_installs_where_nothing_is_installed() -> None:
    assert "pip install" in "".join(CODE[0]["source"])
    assert "find_spec" in "".join(CODE[0]["source"])


def test_it_shows_what_it_showed() -> None:
    pictures = [each for each in outputs("display_data") if "image/png" in each["data"]]
    assert len(pictures) >= 5
    assert outputs("error") == []
    assert "Gaussian mark" in "".join("".join(each["text"]) for each in outputs("stream"))
    assert NOTEBOOK.stat().st_size < MAX_BYTES


def test_it_names_no_place_of_the_machine() -> None:
    shown = json.dumps(outputs("stream"))
    assert ABSOLUTE_PATH.findall(shown) == []
    assert ABSOLUTE_PATH.findall(f"{Path.home()} {tempfile.gettempdir()}/x, {ROOT}/y") != []
    assert ABSOLUTE_PATH.findall("https://example.org/a/b, docs/how-to/python.md, 3 / 4") == []
