"""Several modules of ours as one file that imports none of them.

diffusers loads code from a folder or the Hub one file at a time, without its neighbours. So what a
network, or its pipeline, needs is written into one file: the modules it imports, in an order in
which each finds what it needs, without the lines that import them.
"""

import ast
from dataclasses import dataclass, field
from pathlib import Path

from uvit_dia import __version__

PACKAGE = "uvit_dia"
_ROOT = Path(__file__).resolve().parents[2]


@dataclass
class _Bundle:
    """What has been collected so far.

    Attributes:
        modules: the modules, each after those that it imports.
        imports: names by the module that they come from, "" for modules as a whole; not ours.
        bodies: the rest of each module.
        names: which module defines a name at its top.
    """

    modules: list[str] = field(default_factory=list)
    imports: dict[str, set[str]] = field(default_factory=dict)
    bodies: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)


def bundle(module: str) -> str:
    """Return the source of a file that defines what a module of ours defines.

    Args:
        module: such as "uvit_dia.models.uvit".

    Raises:
        ValueError: if two modules define the same name, or one imports ours other than at its top
        by `from ... import NAME`.
    """
    found = _Bundle()
    _add(module, found)
    listed = "".join(f"\n#     {name}" for name in found.modules)
    head = (
        f"# Made by {PACKAGE} {__version__} from its modules, in this order:{listed}\n"
        "# It imports none of them. Change them there, and export again.\n"
    )
    return head + "\n" + _import_lines(found.imports) + "".join(found.bodies)


def _add(module: str, found: _Bundle) -> None:
    if module in found.modules:
        return
    text = _path(module).read_text(encoding="utf-8")
    tree = ast.parse(text)
    taken: set[int] = set()  # lines that do not stay
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            taken.update(range(node.lineno - 1, (node.end_lineno or node.lineno)))
            if isinstance(node, ast.ImportFrom) and _is_ours(node.module):
                if any(alias.asname for alias in node.names):
                    raise ValueError(f"{module} imports {node.module} under another name")
                _add(str(node.module), found)
            else:
                place = str(node.module) if isinstance(node, ast.ImportFrom) else ""
                found.imports.setdefault(place, set()).update(map(ast.unparse, node.names))
    _refuse_inner_imports(module, tree)
    for name in _defined(tree):
        owner = found.names.setdefault(name, module)
        if owner != module:
            raise ValueError(f"{owner} and {module} both define {name}")
    lines = [line for number, line in enumerate(text.splitlines()) if number not in taken]
    found.modules.append(module)
    found.bodies.append(
        f"\n\n# {'-' * 64} {module}\n" + _as_comment("\n".join(lines).strip()) + "\n"
    )


def _import_lines(imports: dict[str, set[str]]) -> str:
    whole = [f"import {name}" for name in sorted(imports.get("", ()))]
    parts = [
        f"from {place} import {', '.join(sorted(names))}"
        for place, names in sorted(imports.items())
        if place
    ]
    return "\n".join([*whole, *parts]) + "\n"


def _as_comment(text: str) -> str:
    """Turn the docstring at the top of a module's text into comments."""
    tree = ast.parse(text)
    first = tree.body[0] if tree.body else None
    if not (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)):
        return text
    lines = text.splitlines()
    end = first.end_lineno or 1
    doc = [f"# {line}".rstrip() for line in str(first.value.value).strip().splitlines()]
    return "\n".join([*doc, *lines[end:]])


def _refuse_inner_imports(module: str, tree: ast.Module) -> None:
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(_is_ours(alias.name) for alias in node.names):
            raise ValueError(f"{module} imports a module of {PACKAGE} as a whole")
        if isinstance(node, ast.ImportFrom) and _is_ours(node.module) and id(node) not in top:
            raise ValueError(f"{module} imports {node.module} within a function")


def _defined(tree: ast.Module) -> list[str]:
    """Return the names that a module defines at its top."""
    names = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            names += [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
    return names


def _is_ours(name: str | None) -> bool:
    return name is not None and name.partition(".")[0] == PACKAGE


def _path(module: str) -> Path:
    path = _ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
