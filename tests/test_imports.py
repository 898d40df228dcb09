"""Who may import whom, and what nobody may call."""

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "uvit_dia"

# One row a folder: a module may import from rows above its own. Folders of one row do not know each
# other, except where `NEIGHBOURS` says so; within a folder imports may go in any order without a
# circle.
ROWS: list[tuple[str, ...]] = [
    ("system", "rng", "diffusion", "config", "cli"),
    ("data", "models", "plots"),
    ("runs", "sampling"),
    ("evaluation",),
    ("training", "export"),
    ("analysis", "sweep", "api"),
    ("report", "demo"),
    ("train", "sample", "eval_fid", "__main__"),
]
NEIGHBOURS = {
    "config": {"system"},
    "cli": {"system", "config"},
    "diffusion": {"config", "rng"},
    "system": set(),
    "sampling": {"runs"},  # sampling/run.py reads a trained model
}

# What a module may import at most, whatever stands above it.
ONLY: dict[str, set[str]] = {
    "models.*": {
        "models*",
        "rng",
        "config.*",
        "system.errors",
    },  # a network knows no schedule and no run
    "sampling.sampler": {
        "config.*",
        "data.images",
        "data.labels",
        "diffusion*",
        "rng",
        "sampling.*",
        "system.*",
    },
    "diffusion*": {"config.schema", "diffusion*", "rng"},
    "system.errors": set(),
    "rng": set(),
}

# Modules that answer before torch is imported, which takes seconds, and what they must not wait
# for.
LIGHT = (
    "",
    "__main__",
    "cli",
    "config.checks",
    "config.files",
    "config.document",
    "config.flag",
    "config.places",
    "demo.__main__",
    "evaluation.command",
    "evaluation.early_checks",
    "evaluation.exported_programs",
    "evaluation.extractor_files",
    "evaluation.image_inputs",
    "runs.find",
    "data.archives",
    "data.arrays",
    "data.paths",
    "data.zip_images",
    "runs.folder",
    "sampling.command",
    "sampling.outputs",
    "sweep.__main__",
    "system.errors",
    "system.files",
    "system.lock_owner",
    "system.locks",
    "system.mounts",
    "system.notices",
    "system.memory",
    "system.signals",
    "training.command",
)
HEAVY = ("torch", "diffusers", "accelerate", "torch_fidelity", "numpy", "sklearn", "PIL", "pyarrow")

Sources = dict[str, str]  # module without the package's name ("" for the package itself) -> source


def project_sources() -> Sources:
    """Return the sources of the package and of the scripts."""
    sources = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        sources[".".join(part for part in parts if part != "__init__")] = path.read_text()
    return sources | {path.stem: path.read_text() for path in ROOT.glob("*.py")}


def imported_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the dotted names that a tree imports, functions included, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def own_module(name: str, modules: Sources) -> str | None:
    """Return which module of ours a dotted name means, or None for one of others."""
    parts = name.split(".")
    if parts[0] != PACKAGE:
        return parts[0] if parts[0] in modules and parts[0] else None
    while ".".join(parts[1:]) not in modules:
        parts.pop()
    return ".".join(parts[1:])


def folder_of(module: str) -> str:
    return module.partition(".")[0]


def row_of(module: str) -> int | None:
    return next((i for i, row in enumerate(ROWS) if folder_of(module) in row), None)


def may_import(module: str, target: str) -> bool:
    """Return whether the rows allow an arrow from one module to another."""
    row, target_row = row_of(module), row_of(target)
    folder, target_folder = folder_of(module), folder_of(target)
    if row is None or target_row is None:
        return False
    return (
        target_row < row
        or folder == target_folder
        or (target_row == row and target_folder in NEIGHBOURS.get(folder, set()))
    )


def wrong_arrows(sources: Sources) -> list[str]:
    """Return what is wrong with the imports of the modules, one line each."""
    problems = []
    arrows: dict[str, set[str]] = {}
    for module, source in sources.items():
        if module and row_of(module) is None:  # the package itself imports nothing
            problems.append(f"{module} is missing in the table of rows")
        arrows[module] = set()
        for name, line in imported_names(ast.parse(source)):
            if name.startswith("."):
                problems.append(f"{module}, line {line}: relative import {name}")
                continue
            target = own_module(name, sources)
            if target in (None, module) or name == f"{PACKAGE}.__version__":
                continue
            arrows[module].add(target)
            if not may_import(module, target):
                problems.append(f"{module}, line {line}: may not import {target}")
        for pattern, allowed in ONLY.items():
            if fnmatchcase(module, pattern):
                problems.extend(
                    f"{module} may not import {target}: {pattern} imports {sorted(allowed)} only"
                    for target in sorted(arrows[module])
                    if not any(fnmatchcase(target, one) for one in allowed)
                )
    return problems + circles(arrows)


def circles(arrows: dict[str, set[str]]) -> list[str]:
    """Return the modules that reach themselves."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        open_ends = [start]
        while open_ends:
            for target in arrows.get(open_ends.pop(), set()) - found:
                found.add(target)
                open_ends.append(target)
        return found

    return [
        f"{module} imports itself in a circle" for module in arrows if module in reached(module)
    ]


def test_imports_point_upwards() -> None:
    assert wrong_arrows(project_sources()) == []


@pytest.mark.parametrize(
    ("module", "source", "problem"),
    [
        ("rng", "import uvit_dia.system.errors", "rng, line 1: may not import system.errors"),
        (
            "system.files",
            "from uvit_dia.training import trainer",
            "system.files, line 1: may not import training.trainer",
        ),
        (
            "sampling.sampler",
            "def f():\n    from uvit_dia.training.trainer import Trainer",
            "sampling.sampler, line 2: may not import training.trainer",
        ),
        (
            "models.uvit",
            "from uvit_dia.diffusion import Diffusion",
            "models.uvit may not import diffusion",
        ),
        (
            "data.batches",
            "from uvit_dia.models.uvit import UViT",
            "line 1: may not import models.uvit",
        ),
        ("config.files", "from uvit_dia.cli import run_command", "line 1: may not import cli"),
        ("training.trainer", "if 1:\n    import train", "line 2: may not import train"),
        ("training.trainer", "from . import build", "line 1: relative import"),
        ("utils", "", "utils is missing in the table of rows"),
        ("sweep.cells", "from uvit_dia.report.page import x", "line 1: may not import report.page"),
        (
            "config.schema",
            "from uvit_dia.config.files import flatten",
            "config.schema imports itself in a circle",
        ),
    ],
)
def test_a_wrong_arrow_is_seen(module: str, source: str, problem: str) -> None:
    sources = project_sources()
    sources[module] = source
    found = wrong_arrows(sources)
    assert any(problem in line for line in found), found


def test_rows_hold_no_folder_twice() -> None:
    folders = [folder for row in ROWS for folder in row]
    assert sorted(folders) == sorted(set(folders))


# ---------------------------------------------------------------- what is imported early


def early_imports(tree: ast.Module) -> Iterator[str]:
    """Yield the names that are imported with the module.

    All but those in functions and for type checkers.
    """
    bodies = [tree.body]
    while bodies:
        for node in bodies.pop():
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield from (name for name, _ in imported_names(node))
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                bodies.append(node.orelse)
            elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
                bodies.extend(
                    getattr(node, part)
                    for part in ("body", "orelse", "finalbody")
                    if hasattr(node, part)
                )


def heavy_imports(module: str, sources: Sources) -> list[str]:
    """Return what a module waits for when it is imported, through others too."""
    found, seen, open_ends = [], {module}, [module]
    while open_ends:
        current = open_ends.pop()
        for name in early_imports(ast.parse(sources[current])):
            target = own_module(name, sources)
            if target is None:
                found += [f"{current} imports {name}"] if name.split(".")[0] in HEAVY else []
            elif target not in seen:
                seen.add(target)
                open_ends.append(target)
    return found


@pytest.mark.parametrize("module", [*LIGHT, "train", "sample", "eval_fid"])
def test_mistakes_are_told_before_torch_is_imported(module: str) -> None:
    assert heavy_imports(module, project_sources()) == []


def test_an_early_import_is_seen() -> None:
    sources = project_sources()
    sources["system.errors"] = "try:\n    from torch import nn\nexcept ImportError:\n    pass"
    assert heavy_imports("cli", sources) == ["system.errors imports torch.nn"]
    sources["system.errors"] = "def f():\n    import torch"
    assert heavy_imports("cli", sources) == []


# ---------------------------------------------------------------- what nobody calls

FORBIDDEN = {
    "torch.load": "unpickles",
    "torch.export.load": "unpickles and evaluates",
    "pickle": "unpickles",
    "cloudpickle": "unpickles",
    "dill": "unpickles",
    "joblib": "unpickles",
    "marshal": "reads code",
    "shelve": "unpickles",
    "yaml.load": "makes objects",
    "yaml.unsafe_load": "makes objects",
    "numpy.load": "unpickles where it is told to",
    "eval": "runs text",
    "exec": "runs text",
    "os.system": "runs a shell",
}
FORBIDDEN_OF_ANYTHING = {  # of an object, as an argument, or imported from anywhere
    "register_for_checkpointing": "is loaded as a pickle",
    "automatic_checkpoint_naming": "deletes the old before the new is there",
    "find_executable_batch_size": "changes what is studied",
}
ALLOWED = {
    (
        "uvit_dia/data/cifar10_pickles.py",
        "pickle",
    ): "an Unpickler whose find_class looks nothing up: five names stand for records of ours",
    (
        "uvit_dia/models/official_weights.py",
        "torch.load",
    ): "the U-ViT authors' weights, weights_only, mapped",
    (
        "uvit_dia/evaluation/extractors.py",
        "torch.load",
    ): "VGG's weights, weights_only, before torch-fidelity reads them",
    (
        "uvit_dia/evaluation/exported_programs.py",
        "torch.load",
    ): "checks a program's tensors, weights_only",
    (
        "uvit_dia/evaluation/exported_programs.py",
        "torch.export.load",
    ): "after every member was checked",
}


def forbidden_uses(source: str) -> list[tuple[str, int]]:
    """Return the forbidden names that a source uses, with their lines.

    "bare except" is one of them.
    """
    tree = ast.parse(source)
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {alias.asname: alias.name for alias in node.names if alias.asname}
    found = []
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        for name in dotted_names(node, aliases):
            last = name.rpartition(".")[2]
            if name in FORBIDDEN or last in FORBIDDEN_OF_ANYTHING:
                found.append((name if name in FORBIDDEN else last, line))
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(("bare except", line))
        if isinstance(node, ast.Call) and "torch.load" in dotted_names(node.func, aliases):
            chosen = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if chosen.get("weights_only") != "True":
                found.append(("torch.load without weights_only=True", line))
    return found


def dotted_names(node: ast.AST, aliases: dict[str, str]) -> list[str]:
    """Return the full names that a node of a tree stands for."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        imported = [name for name, _ in imported_names(node)]
        return [*imported, *(name.rpartition(".")[0] for name in imported)]
    if isinstance(node, ast.Attribute):
        head, _, rest = ast.unparse(node).partition(".")
        return [f"{aliases.get(head, head)}.{rest}"]
    if isinstance(node, ast.Name):  # a field of the name `eval` is no use of the function
        return [node.id] if isinstance(node.ctx, ast.Load) else []
    return [node.arg] if isinstance(node, ast.keyword) and node.arg else []


def checked_files() -> list[Path]:
    folders = [ROOT / name for name in (PACKAGE, "configs")]
    return [*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]


def test_nothing_that_runs_foreign_data_is_called() -> None:
    found = {
        (str(path.relative_to(ROOT)), name): line
        for path in checked_files()
        for name, line in forbidden_uses(path.read_text())
    }
    assert {use: line for use, line in found.items() if use not in ALLOWED} == {}
    assert set(ALLOWED) <= set(found)  # what is allowed is still needed


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import torch\ntorch.load('x', weights_only=True)", "torch.load"),
        ("import torch\ntorch.load('x')", "torch.load without weights_only=True"),
        (
            "import torch\ntorch.load('x', weights_only=False)",
            "torch.load without weights_only=True",
        ),
        ("import torch as t\nread = t.load", "torch.load"),
        ("from torch import load", "torch.load"),
        ("from torch.export import load", "torch.export.load"),
        ("def f():\n    import pickle", "pickle"),
        ("from pickle import loads", "pickle"),
        ("import numpy as np\nnp.load('x', allow_pickle=True)", "numpy.load"),
        ("from numpy import load", "numpy.load"),
        ("eval('1')", "eval"),
        ("run = exec", "exec"),
        ("import yaml\nyaml.load('x')", "yaml.load"),
        ("accelerator.register_for_checkpointing(x)", "register_for_checkpointing"),
        ("ProjectConfiguration(automatic_checkpoint_naming=True)", "automatic_checkpoint_naming"),
        ("from accelerate.utils import find_executable_batch_size", "find_executable_batch_size"),
        ("try:\n    f()\nexcept:\n    pass", "bare except"),
    ],
)
def test_a_forbidden_use_is_seen(source: str, name: str) -> None:
    assert name in [found for found, _ in forbidden_uses(source)]


def test_what_bandit_passes_over_has_a_reason() -> None:
    """The reason stands in the line before, after the name of the check."""
    found = []
    for path in checked_files():
        lines = path.read_text().splitlines()
        for before, line in zip(["", *lines], lines, strict=False):
            if "nosec" in line:
                check = re.search(r"# nosec (B\d+)$", line)
                assert check is not None, line
                assert re.search(rf"# .*{check[1]}: \w", before), line
                found.append(line)
    assert found


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "def f(self):\n    return self.model.eval().load()",
        "try:\n    f()\nexcept OSError:\n    pass",
        "import json\njson.load(file)",
        "value.get('use_pickle')",
        "class Config:\n    eval: int",
    ],
)
def test_what_is_harmless_is_let_through(source: str) -> None:
    assert forbidden_uses(source) == []
