"""A sweep of four cells that is killed ten times.

The same table, byte for byte, and no cell is done twice.
"""

from pathlib import Path

import pytest

from tests.support.figures import RecordFigure
from tests.support.sweeps import calls, cells, collected, kill_at_random, start_sweep, write_sweep
from uvit_dia.report.results import read_results, results_csv

pytestmark = [
    pytest.mark.reliability,
    pytest.mark.slow,
]


def test_ten_kills_of_a_sweep(tmp_path: Path, record_figure: RecordFigure) -> None:
    """The commands are stand-ins, whose steps take time and no computation; real ones.

    test_sweep_real.py.
    """
    config, whole, killed = write_sweep(tmp_path), tmp_path / "whole", tmp_path / "killed"
    done = start_sweep(config, whole, "--max_parallel=2").wait()
    assert done.exit_code == 0, done.stderr
    kills = kill_at_random(config, killed, (0.5, 1.6), STAND_IN_STEP_SECONDS="0.3")
    is_same = collected(killed) == collected(whole)
    is_same_table = results_csv(read_results(killed)) == results_csv(read_results(whole))
    evaluated = [name for name, script in calls(killed) if script == "eval"]
    assert set(evaluated) == set(cells(killed))
    record_figure("G10", "kills of a sweep of 4 cells", kills, "== 10")
    record_figure("G10", "cells, logs, evaluations: identical bytes", is_same, "== 1")
    record_figure("G10", "results.csv: identical bytes", is_same_table, "== 1")
    # kill_at_random fails the test where a cell that was done is touched again
    record_figure("G10", "finished cells that were computed again", 0, "== 0")
