"""The sizes of the house.

How much must be read to follow an image from disk to FID, and how long one thing may be.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "uvit_dia"
# What is reached; the aims are 14 names beside `__init__.py` and `__main__.py`, 1,500 lines of the
# main path, 3,000 from flags to FID. Classes with guidance brought 70 and 350 lines more (flags and
# keys among them).
MAX_TOP_NAMES = 18  # export/ and demo/ came in
MAX_FILE_LINES = 250
MAX_FUNCTION_LINES = 60
REASON = "Long because"  # in the first lines of what is longer

# In the order of reading; CONTRIBUTING.md and the README name the same files.
MAIN_PATH = (
    "data/batches.py",
    "training/noised_batch.py",
    "diffusion/ddpm.py",
    "models/uvit.py",
    "models/units/protocol.py",
    "models/units/recurrent_cells.py",
    "training/trainer.py",
    "sampling/sampler.py",
    "evaluation/evaluator.py",
)
MAX_MAIN_PATH_LINES = 1750
MAX_FLAGS_TO_FID_LINES = 4650
# What must be read beside the main path to follow a run from its flags to its FID, least first.
FLAGS_TO_FID = (
    *MAIN_PATH,
    "cli.py",
    "config/schema.py",
    "config/network.py",
    "config/training.py",
    "config/sampling.py",
    "training/build.py",
    "training/run.py",
    "models/build.py",
    "models/layers.py",
    "models/units/recurrent.py",
    "models/units/registry.py",
    "data/images.py",
    "data/sources.py",
    "rng.py",
    "sampling/schedulers.py",
    "sampling/guidance.py",
    "runs/trained_model.py",
    "evaluation/extractors.py",
    "evaluation/metrics.py",
    "evaluation/run.py",
)


def lines_of(name: str) -> int:
    return len((PACKAGE / name).read_text().splitlines())


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_a_newcomer_sees_few_names_at_the_top() -> None:
    names = [
        path.name for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "py.typed")
    ]
    names = [name for name in names if name not in ("__init__.py", "__main__.py")]
    assert len(names) <= MAX_TOP_NAMES, sorted(names)


def test_the_main_path_is_read_in_one_sitting() -> None:
    assert sum(map(lines_of, MAIN_PATH)) < MAX_MAIN_PATH_LINES


def test_a_run_can_be_followed_from_its_flags_to_its_fid() -> None:
    assert sum(map(lines_of, FLAGS_TO_FID)) < MAX_FLAGS_TO_FID_LINES


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_one_idea_a_file(path: Path) -> None:
    source = path.read_text()
    count = len(source.splitlines())
    assert count <= MAX_FILE_LINES or REASON in "\n".join(source.splitlines()[:12]), count
    long = [f"{name}: {length} lines" for name, length in long_functions(ast.parse(source))]
    assert long == []


def long_functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the functions that are too long and do not say why in their docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            if length > MAX_FUNCTION_LINES and REASON not in (ast.get_docstring(node) or ""):
                yield node.name, length


def test_a_long_function_is_seen() -> None:
    body = "\n".join("    x = 1" for _ in range(MAX_FUNCTION_LINES))
    assert list(long_functions(ast.parse(f"def f():\n{body}"))) == [("f", MAX_FUNCTION_LINES + 1)]
    reason = f'    """Long because: a table."""\n{body}'
    assert list(long_functions(ast.parse(f"def f():\n{reason}"))) == []
