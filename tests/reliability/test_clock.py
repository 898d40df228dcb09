"""A clock that is wrong, or set back in the middle.

A run goes by its step numbers, and measures by the monotonic clock.
"""

import json
import os
import signal
import time
from datetime import datetime, tzinfo
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.forked import Child
from tests.support.runs import (
    Fault,
    command,
    newest_step,
    result,
    status,
    step_folder,
    train,
    train_arguments,
)
from uvit_dia.runs.find import step_folders
from uvit_dia.system.errors import EXIT_STOPPED_EARLY

pytestmark = pytest.mark.reliability

HOUR_SECONDS = 3600
ZONES = [
    "Pacific/Kiritimati",
    "Pacific/Niue",
    "Asia/Kathmandu",
]  # 14 hours before, 11 after, and 5:45


def _train_with_a_clock_going_back(
    arguments: list[str], zone: str, hours: int, fault: Fault | None
) -> None:
    """Train where the wall clock is hours late, and shows an hour less at each look."""
    from uvit_dia.runs import folder as run_folder

    os.environ["TZ"] = zone
    time.tzset()
    wall_clock, looks = time.time, count(hours)

    class ClockGoingBack(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.fromtimestamp(time.time(), tz)

    time.time = lambda: wall_clock() - HOUR_SECONDS * next(looks)
    run_folder.datetime = ClockGoingBack  # type: ignore[misc]
    command("train", arguments, fault)


def train_with_a_clock_going_back(
    path: Path, zone: str, hours: int = 1, fault: Fault | None = None
) -> Any:
    return Child(_train_with_a_clock_going_back, train_arguments(path), zone, hours, fault).wait()


@pytest.mark.parametrize("zone", ZONES)
def test_a_clock_set_back_changes_nothing_of_a_run(tmp_path: Path, zone: str) -> None:
    assert train(tmp_path / "whole").exit_code == 0
    run = tmp_path / "set back"
    stopped = train_with_a_clock_going_back(run, zone, fault=Fault("draw", 9))
    assert stopped.exit_code < 0
    first_time = status(run)["time"]
    reached = newest_step(run)
    folders = step_folders(run / "checkpoints")
    assert len(folders) > 1
    for age, folder in enumerate(folders):
        for path in (folder, *folder.iterdir()):
            os.utime(path, (10**9 + age, 10**9 + age))
    finished = train_with_a_clock_going_back(run, zone, hours=1000)
    assert finished.exit_code == 0, finished.stderr
    assert f"going on at step {reached}:" in finished.stdout
    assert result(run) == result(tmp_path / "whole")
    assert step_folder(run, 12).is_dir()

    found = status(run)
    assert found["state"] == "done"
    assert datetime.fromisoformat(found["time"]).utcoffset().total_seconds() == 0  # type: ignore[union-attr]
    assert found["time"] < first_time  # so the clock did go back
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(line["images_per_second"] > 0 <= line["data_seconds"] for line in lines)


def test_a_signal_is_answered_while_the_clock_goes_back(tmp_path: Path) -> None:
    stopped = train_with_a_clock_going_back(tmp_path, "UTC", fault=Fault("draw", 5, signal.SIGTERM))
    assert stopped.exit_code == EXIT_STOPPED_EARLY, stopped.stderr
    assert status(tmp_path)["state"] == "preempted"
