"""What a clone offers beside its code.

Container, templates, workflows, a release. No container engine is needed.
"""

import fnmatch
import json
import re
import runpy
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.support.documents import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
GITHUB = sorted((ROOT / ".github").rglob("*.yml"))
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
RELEASE = runpy.run_path(str(ROOT / ".ci" / "release.py"))


def is_sent(name: str) -> bool:
    """Return whether a file or folder of the top level reaches the builder, by .dockerignore."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if pattern and not line.startswith("#") and fnmatch.fnmatch(name, pattern):
            sent = line.startswith("!")
    return sent


def test_the_builder_gets_what_it_copies_and_no_more() -> None:
    copied = set()
    for line in re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        copied |= set(line.split())
    assert copied == {path.name for path in ROOT.iterdir() if is_sent(path.name)}
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {
        "constraints.txt",
        "uvit_dia",
        "configs",
        package["readme"],
        *package["license-files"],
    } < copied


def test_the_container_runs_as_nobody_special_from_pinned_versions() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    last_of = {}
    for stage in stages:
        origin, _, name = stage.splitlines()[0].partition(" AS ")
        user = re.findall(r"^USER (\S+)$", stage, re.MULTILINE) or [last_of.get(origin, "0")]
        last_of[name] = user[-1]
    assert {last_of[name] for name in ("dev", "check", "runtime")} == {"1000"}
    assert stages[-1].startswith("installed AS runtime")
    assert re.search(r"^ARG PYTHON=3\.\d+\.\d+-", DOCKERFILE, re.MULTILINE)
    installs = re.findall(r"pip install (.*)", DOCKERFILE)
    assert installs
    assert all("--constraint constraints.txt" in install for install in installs)


def test_the_check_of_the_container_is_the_quickstart() -> None:
    recipe = re.search(r"^quickstart:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    assert recipe is not None
    wanted = re.findall(r"python (train|sample|eval_fid)\.py (.*)", recipe[1])
    found = re.findall(
        r"uvit-dia (train|sample|eval) (.*?)(?: \\)?$", DOCKERFILE.split("AS check")[1], re.M
    )
    assert len(found) == 3

    def plain(words: str) -> str:
        return words.replace("configs/", "").replace(".py", "").replace("$(RUN)", "runs/quickstart")

    assert found == [(name.removesuffix("_fid"), plain(words)) for name, words in wanted]


def test_the_devcontainer_builds_a_stage_that_exists() -> None:
    folder = ROOT / ".devcontainer"
    config = json.loads((folder / "devcontainer.json").read_text())
    build = config["build"]
    assert (folder / build["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert (folder / build["context"]).resolve() == ROOT
    assert f" AS {build['target']}\n" in DOCKERFILE
    assert f" {config['remoteUser']}\n" in DOCKERFILE
    assert set(re.findall(r"make (\S+)", config["postCreateCommand"])) <= TARGETS


@pytest.mark.parametrize("path", GITHUB, ids=lambda path: path.name)
def test_what_github_reads_can_be_read(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    if path.parent.name == "workflows":
        assert content["permissions"] == {"contents": "read"}
        for job in content["jobs"].values():
            assert job["timeout-minutes"] <= 60
            for step in job["steps"]:
                made = re.findall(r"^make (\S+)", step.get("run", ""), re.MULTILINE)
                assert set(made) <= TARGETS, made
                scripts = re.findall(r"(\.ci/\S+)", step.get("run", ""))
                assert all((ROOT / script).is_file() for script in scripts)
    elif path.name == "dependabot.yml":
        assert content["version"] == 2
        assert content["updates"][0]["package-ecosystem"] == "github-actions"
    elif path.name != "config.yml":
        names = [part["id"] for part in content["body"]]
        assert content["name"] and content["description"] and len(names) == len(set(names))


def test_only_a_tag_publishes_and_without_a_token() -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text()
    jobs = yaml.safe_load(text)
    assert jobs[True] == {"push": {"tags": ["v*"]}}  # YAML reads the word `on` as true
    publish = jobs["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["needs"] == "build"
    assert "secrets." not in text
    made = "\n".join(step.get("run", "") for step in jobs["jobs"]["build"]["steps"])
    assert "make dist" in made and ".ci/release.py" in made


@pytest.mark.parametrize(
    ("tag", "changelog", "date", "told"),
    [
        ("v1.2.0", "## 1.2.0 (2026-11-26)", "2026-11-26", []),
        ("v1.2.1", "## 1.2.0 (2026-11-26)", "2026-11-26", ["the tag is v1.2.1"]),
        ("1.2.0", "## 1.2.0 (2026-11-26)", "2026-11-26", ["the tag is 1.2.0"]),
        ("v1.2.0", "## 1.2.0 (unreleased)", "2026-11-26", ["CHANGELOG.md has no line"]),
        ("v1.2.0", "## 1.2.0 (2026-11-26)", "2026-11-25", ["CITATION.cff has another"]),
    ],
)
def test_a_tag_must_fit(
    tag: str, changelog: str, date: str, told: list[str], tmp_path: Path
) -> None:
    (tmp_path / "uvit_dia").mkdir()
    (tmp_path / "uvit_dia/__init__.py").write_text('__version__ = "1.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{changelog}\n")
    (tmp_path / "CITATION.cff").write_text(f"date-released: {date}\n")
    found = RELEASE["problems"](tag, tmp_path)
    assert len(found) == len(told)
    assert all(line.startswith(start) for line, start in zip(found, told, strict=True))
