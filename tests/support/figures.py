"""The figures of docs/reliability.md.

What tests measured beside what is allowed, as a table and as JSON.

A test records a figure with the fixture `record_figure`, or has its cases counted by the marker
`reliability(figure, name)`. With `--figures FILE` a run of pytest
ends with the table, and writes the file.
"""

import json
import operator
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "<=": operator.le,
    ">=": operator.ge,
}
FAST_SECONDS, ALL_SECONDS = 60, 300  # of the whole call of pytest
_RECORDED, _MARKED = "reliability figure", "reliability mark"  # properties of a test's report


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
    """Plugin of pytest that collects figures, from one process or from the workers of pytest-xdist.

    What a test says of itself travels as properties of its report: a worker runs the test, and the
    process that hands tests out reads the report.

    Args:
        path: the JSON file; None collects silently, and fails no test for a duration: only a quiet
            machine can tell.
    """

    def __init__(self, path: str | None) -> None:
        self.path = path
        self.recorded: list[Figure] = []
        self.cases: dict[tuple[str, str], list[bool]] = {}  # (figure, name) -> which cases passed
        self.at_least: dict[tuple[str, str], int] = {}
        self.started = time.monotonic()
        self.are_slow_among_them = False
        self.num_failed = 0

    def recorder(self, item: pytest.Item) -> RecordFigure:
        """Return the function with which a test records its figures."""

        def record(
            figure: str, name: str, value: float, limit: str, *, is_timing: bool = False
        ) -> None:
            found = measured(figure, name, float(value), limit)
            item.user_properties.append((_RECORDED, asdict(found)))
            if not found.holds and (self.path or not is_timing):
                pytest.fail(f"{item.nodeid}: {figure}, {name}: {value} is not {limit}")

        return record

    def figures(self) -> list[Figure]:
        """Return all figures, in the order of their numbers."""
        counted = [
            measured(*key, sum(cases), f">= {max(len(cases), self.at_least.get(key, 0))}")
            for key, cases in self.cases.items()
        ]
        seconds = round(time.monotonic() - self.started, 2)
        suite = [
            measured("G20", "all tests (s)", seconds, f"<= {ALL_SECONDS}")
            if self.are_slow_among_them
            else measured("G20", "fast tests (s)", seconds, f"<= {FAST_SECONDS}"),
            measured("G20", "failed tests", self.num_failed, "== 0"),
        ]
        return sorted([*self.recorded, *counted, *suite], key=lambda figure: int(figure.figure[1:]))

    # ---------------------------------------------------------------- hooks of pytest

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        mark = item.get_closest_marker("reliability")
        if mark is not None:
            is_slow = item.get_closest_marker("slow") is not None
            counts_for = [*mark.args, mark.kwargs.get("at_least", 0)] if mark.args else None
            item.user_properties.append((_MARKED, {"slow": is_slow, "counts_for": counts_for}))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        if _MARKED not in properties:
            return
        mark: Any = properties[_MARKED]
        self.are_slow_among_them |= mark["slow"]
        self.num_failed += report.failed
        is_over = (report.when == "call" and not report.skipped) or report.failed
        if mark["counts_for"] is not None and is_over:
            figure, name, at_least = mark["counts_for"]
            self.cases.setdefault((figure, name), []).append(report.passed)
            self.at_least[figure, name] = max(at_least, self.at_least.get((figure, name), 0))
        if report.when == "teardown":
            self.recorded += [
                Figure(**value)  # type: ignore[arg-type]
                for name, value in report.user_properties
                if name == _RECORDED
            ]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        is_worker = hasattr(session.config, "workerinput")
        if self.path is None or is_worker:
            return
        if not all(figure.holds for figure in self.figures()):
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
    from uvit_dia.runs.folder import source_commit, versions

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
