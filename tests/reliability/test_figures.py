"""The plugin that collects the figures of reliability, from a run of pytest of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MADE_TESTS = """
import pytest


@pytest.mark.reliability
def test_measures(record_figure):
    record_figure("G1", "kills", 50, ">= 50")
    record_figure("G4", "slowest exit (s)", 6.0, "<= 5", is_timing=True)

@pytest.mark.reliability("G5", "inputs", at_least=3)
@pytest.mark.parametrize("number", [1, 2])
def test_counts(number):
    assert number != WRONG
"""
CONFTEST = """
import sys
sys.path.insert(0, {root!r})
from tests.support.figures import Figures
import pytest


def pytest_addoption(parser):
    parser.addoption("--figures")

def pytest_configure(config):
    config.addinivalue_line("markers", "reliability: as in the project")
    config.pluginmanager.register(Figures(config.getoption("--figures")), "figures")

@pytest.fixture
def record_figure(request):
    return request.config.pluginmanager.get_plugin("figures").recorder(request.node)
"""


def run_made_tests(folder: Path, *flags: str, wrong: int = 0) -> tuple[int, str]:
    """Run tests of two figures in a pytest of their own; return its exit code and its output."""
    source = MADE_TESTS.replace("WRONG", str(wrong))
    (folder / "test_made.py").write_text(source)
    (folder / "conftest.py").write_text(CONFTEST.format(root=str(ROOT)))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-q",
        *flags,
        "test_made.py",
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return ended.returncode, ended.stdout + ended.stderr


def figures_in(path: Path) -> dict[str, tuple[float, str, bool]]:
    return {
        each["name"]: (each["value"], each["limit"], each["holds"])
        for each in json.loads(path.read_text())["figures"]
    }


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "workers"])
def test_figures_are_collected_and_judged(tmp_path: Path, workers: tuple[str, ...]) -> None:
    code, output = run_made_tests(tmp_path, *workers, "--figures", "figures.json")
    found = figures_in(tmp_path / "figures.json")
    assert code == pytest.ExitCode.TESTS_FAILED, output  # for the exit that took too long
    assert found["kills"] == (50, ">= 50", True)
    assert found["slowest exit (s)"] == (6.0, "<= 5", False)
    assert found["inputs"] == (2, ">= 3", False)  # fewer cases than there must be
    assert found["failed tests"] == (1, "== 0", False)
    assert 0 < found["fast tests (s)"][0] < 60
    assert "NOT HELD" in output


def test_a_failed_case_is_not_counted(tmp_path: Path) -> None:
    run_made_tests(tmp_path, "--figures", "figures.json", wrong=2)
    assert figures_in(tmp_path / "figures.json")["inputs"] == (1, ">= 3", False)


def test_durations_fail_no_test_where_figures_are_not_asked_for(tmp_path: Path) -> None:
    code, output = run_made_tests(tmp_path)
    assert code == 0, output
    assert "figures of reliability" not in output
