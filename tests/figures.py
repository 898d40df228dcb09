"""The figures of docs/reliability.md: what tests measured beside what is allowed, as a table and as JSON.

A test records a figure with the fixture `record_figure`, or has its cases counted by the marker
`reliability(figure, name)`. With `--figures FILE` a run of pytest ends with the table, and writes the file.
"""

import json
import operator
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "<=": operator.le,
    ">=": operator.ge,
}
FAST_SECONDS, ALL_SECONDS = 60, 300


@dataclass(frozen=True)
class Figure:
    """A measured figure.

    Attributes:
        figure: G1 to G20.
        name: what was measured, with its unit.
        value: what came out.
        limit: "==", "<=" or ">=" and a number.
        holds: whether the value is within the limit.
    """

    figure: str
    name: str
    value: float
    limit: str
    holds: bool


RecordFigure = Callable[..., None]  # (figure, name, value, limit, *, is_timing=False)


def measured(figure: str, name: str, value: float, limit: str) -> Figure:
    comparison, number = limit.split()
    return Figure(figure, name, value, limit, _COMPARE[comparison](value, float(number)))


class Figures:
    """Plugin of pytest that collects figures.

    Args:
        path: the JSON file; None collects silently, and fails no test for a duration: only a quiet machine can tell.
    """

    def __init__(self, path: str | None) -> None:
        self.path = path
        self.recorded: list[Figure] = []
        self.cases: dict[tuple[str, str], list[bool]] = {}  # (figure, name) -> which cases passed
        self.at_least: dict[tuple[str, str], int] = {}
        self._marks: dict[str, tuple[str, str] | None] = {}  # test -> what its cases count for
        self._slow: set[str] = set()
        self.seconds = {"fast": 0.0, "slow": 0.0}
        self.num_failed = 0

    def recorder(self, test: str) -> RecordFigure:
        """Return the function with which a test records its figures."""

        def record(
            figure: str, name: str, value: float, limit: str, *, is_timing: bool = False
        ) -> None:
            found = measured(figure, name, value, limit)
            self.recorded.append(found)
            if not found.holds and (self.path or not is_timing):
                pytest.fail(f"{test}: {figure}, {name}: {value} is not {limit}")

        return record

    def figures(self) -> list[Figure]:
        """Return all figures, in the order of their numbers."""
        counted = [
            measured(*key, sum(cases), f">= {max(len(cases), self.at_least.get(key, 0))}")
            for key, cases in self.cases.items()
        ]
        fast, slow = self.seconds["fast"], self.seconds["slow"]
        suite = [
            measured("G20", "fast tests (s)", round(fast, 1), f"<= {FAST_SECONDS}"),
            measured("G20", "all tests (s)", round(fast + slow, 1), f"<= {ALL_SECONDS}"),
            measured("G20", "failed tests", self.num_failed, "== 0"),
        ]
        return sorted([*self.recorded, *counted, *suite], key=lambda figure: int(figure.figure[1:]))

    # ---------------------------------------------------------------- hooks of pytest

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            mark = item.get_closest_marker("reliability")
            if mark is None:
                continue
            self._marks[item.nodeid] = (mark.args[0], mark.args[1]) if mark.args else None
            if "at_least" in mark.kwargs:
                self.at_least[mark.args[0], mark.args[1]] = mark.kwargs["at_least"]
            if item.get_closest_marker("slow") is not None:
                self._slow.add(item.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.nodeid not in self._marks:
            return
        self.seconds["slow" if report.nodeid in self._slow else "fast"] += report.duration
        self.num_failed += report.failed
        counts_for = self._marks[report.nodeid]
        is_over = report.when == "call" or report.failed
        if counts_for is not None and is_over and not report.skipped:
            self.cases.setdefault(counts_for, []).append(report.passed)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.path is not None and not all(figure.holds for figure in self.figures()):
            session.exitstatus = max(session.exitstatus, pytest.ExitCode.TESTS_FAILED)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.path is None:
            return
        figures = self.figures()
        terminalreporter.section("figures of reliability")
        for each in figures:
            state = "ok" if each.holds else "NOT HELD"
            value = f"{each.value:.4g}"
            terminalreporter.write_line(
                f"{each.figure:<4} {each.name:<58} {value:>10} {each.limit:<12} {state}"
            )
        write_figures(Path(self.path), figures)
        terminalreporter.write_line(f"written to {self.path}")


def write_figures(path: Path, figures: list[Figure]) -> None:
    """Write figures as JSON, with what they depend on."""
    from uvit_dia.run_folder import source_commit, versions

    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": source_commit(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions(),
        "figures": [asdict(figure) for figure in figures],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
