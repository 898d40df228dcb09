"""Several modules as one file.

Complete, without imports of ours, and refused where it would not work.
"""

import ast
from pathlib import Path

import pytest

from uvit_dia.export import bundle as bundling
from uvit_dia.export.bundle import bundle

MODULES = ("uvit_dia.models.uvit", "uvit_dia.export.pipeline")


@pytest.mark.parametrize("module", MODULES)
def test_the_file_imports_nothing_of_ours_and_lacks_no_name(module: str) -> None:
    text = bundle(module)
    tree = ast.parse(text)
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
    }
    known = {"torch", "diffusers", "einops", "safetensors"}
    standard = {
        "abc",
        "collections",
        "contextlib",
        "dataclasses",
        "functools",
        "hashlib",
        "inspect",
    }
    standard |= {"json", "math", "os", "pathlib", "sys", "typing"}
    assert imported <= known | standard
    namespace: dict[str, object] = {"__name__": "a_bundle"}
    exec(compile(tree, "a_bundle.py", "exec"), namespace)  # every name at its top is found
    assert {"UViT"} <= namespace.keys() or {"UViTPipeline"} <= namespace.keys()


def made(folder: Path, monkeypatch: pytest.MonkeyPatch, **modules: str) -> None:
    (folder / "uvit_dia").mkdir()
    for name, text in modules.items():
        (folder / "uvit_dia" / f"{name}.py").write_text(text)
    monkeypatch.setattr(bundling, "_ROOT", folder)


def test_modules_come_after_those_that_they_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(
        tmp_path,
        monkeypatch,
        a='"""About a."""\nfrom math import pi, tau\nfrom uvit_dia.b import b\n\nA = b() + pi\n',
        b='"""About b."""\nimport math\nfrom math import e\n\n\n'
        "def b() -> float:\n    return math.sqrt(e)\n",
    )
    text = bundle("uvit_dia.a")
    assert text.index("def b()") < text.index("A = b()")
    assert "from math import e, pi, tau" in text and "# About a." in text
    namespace: dict[str, object] = {}
    exec(text, namespace)
    assert namespace["A"] == pytest.approx(4.79, abs=0.01)


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        ("from uvit_dia.b import y\nx = 1\n", "x = 2\ny = 3\n", "uvit_dia.b and uvit_dia.a both"),
        ("import uvit_dia.b\n", "", "as a whole"),
        ("from uvit_dia.b import y as z\n", "y = 1\n", "under another name"),
        ("def f():\n    from uvit_dia.b import y\n    return y\n", "y = 1\n", "within a function"),
    ],
)
def test_what_one_file_cannot_hold_is_refused(
    a: str, b: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path, monkeypatch, a=a, b=b)
    with pytest.raises(ValueError, match=said):
        bundle("uvit_dia.a")
