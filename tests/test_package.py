"""What the package promises beside its code: folders in the wheel, links, versions, bounds."""

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_wheel_has_every_folder_with_code() -> None:
    folders = {path.parent for path in (ROOT / "uvit_dia").rglob("*.py")}
    ours = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    configs = {path.parent for path in (ROOT / "configs").rglob("*.py")}
    named = {".".join(("uvit_dia", *folder.relative_to(ROOT).parts)) for folder in configs}
    assert sorted(ours | named) == sorted(PROJECT["tool"]["setuptools"]["packages"])


def test_links_of_the_readme_work_outside_a_clone() -> None:
    """PyPI shows the README too, and has none of our files."""
    repository = PROJECT["project"]["urls"]["Repository"]
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / "README.md").read_text())
    assert len(links) > 10
    for link in links:
        assert link.startswith("https://"), link
        if link.startswith(repository):
            path = re.fullmatch(r"/(?:blob|raw)/main/(.+)", link.removeprefix(repository))
            assert path is not None, link
            assert (ROOT / path[1]).is_file(), link


def test_version_and_address_are_the_same_everywhere() -> None:
    from uvit_dia import __version__

    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {__version__}\n" in citation
    assert re.search(r"\ndate-released: \d{4}-\d\d-\d\d\n", citation)
    assert f'repository-code: "{PROJECT["project"]["urls"]["Repository"]}"' in citation
    assert (ROOT / "CHANGELOG.md").read_text().startswith(f"# Changelog\n\n## {__version__}")


def test_the_lowest_versions_are_read_from_the_project(tmp_path: Path) -> None:
    lowest = runpy.run_path(str(ROOT / ".ci" / "lowest.py"))["lowest"]
    found = dict(line.split("==") for line in lowest())
    assert found["torch"] == "2.10"
    assert {"numpy", "jinja2", "pytest"} <= found.keys()
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\ndependencies = ["a>=1.2, <3", "b>=4"]\n')
    assert lowest(project) == ["a==1.2", "b==4"]
    project.write_text('[project]\ndependencies = ["a>=1.2", "numpy"]\n')
    with pytest.raises(ValueError, match="'numpy' has no lower bound"):
        lowest(project)


def recipe(*words: str) -> list[str]:
    """Return the commands that make would run."""
    done = subprocess.run(
        ["make", "--dry-run", "VENV=nowhere", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_the_quickstart_installs_what_it_needs_alone() -> None:
    installs = [line for line in recipe("quickstart") if " install " in line]
    assert len(installs) == 1
    assert installs[0].endswith("--constraint constraints.txt --editable .")
    assert any("--editable '.[dev]'" in line for line in recipe("test"))


def test_a_quickstart_for_cpus_takes_torch_from_its_own_index() -> None:
    torch, package = [line for line in recipe("quickstart", "TORCH=cpu") if " install " in line]
    assert "--index-url https://download.pytorch.org/whl/cpu" in torch
    assert torch.endswith(" torch torchvision")
    assert "index" not in package
    pinned = (ROOT / "constraints.txt").read_text()
    assert "\ntorch==" in pinned and "\ntorchvision==" in pinned


def test_the_package_and_its_list_of_commands_are_light() -> None:
    code = (
        "import sys, time; before = time.process_time();"
        "import uvit_dia; from uvit_dia.__main__ import usage; usage();"
        "took = time.process_time() - before;"
        "heavy = {'torch', 'numpy', 'absl', 'diffusers', 'PIL'} & sys.modules.keys();"
        "print(took < 0.3, heavy or '')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True"], done.stdout
