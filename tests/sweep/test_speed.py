"""How many cells at once are best: measured, kept, and told by --dry_run."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from tests.support.sweeps import SWEEP, write_sweep
from uvit_dia.sweep import side_by_side, speed
from uvit_dia.sweep.__main__ import main
from uvit_dia.sweep.cells import SCRIPTS, Cell
from uvit_dia.sweep.config import Sweep, make_sweep
from uvit_dia.sweep.speed import Speed, kept_speed, measure_speed
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import cache_folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    monkeypatch.setattr(side_by_side, "WINDOW_SECONDS", 0.3)
    monkeypatch.setattr(speed, "usable_cores", lambda: 1)


def made(tmp_path: Path, **changes: object) -> Sweep:
    return make_sweep(ConfigDict({**SWEEP, **changes}), tmp_path / "sweep_config.py", SCRIPTS)


def test_what_was_measured_is_told_by_a_dry_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_sweep(tmp_path, batch_sizes=(8, 16))
    workdir = tmp_path / "sweep"
    command = ["sweep", f"--config={config}", "--workdir", str(workdir)]
    main([*command, "--dry_run"])
    assert "of another machine; --measure measures here" in capsys.readouterr().out
    main([*command, "--measure"])
    shown = capsys.readouterr().out
    assert "1 at once: " in shown and "batch size 16: " in shown
    main([*command, "--dry_run"])
    shown = capsys.readouterr().out
    assert "best is --max_parallel 1" in shown and "?" not in shown
    main([*command, "--dry_run", "--cluster", "slurm"])  # whose machines are others
    shown = capsys.readouterr().out
    assert "of another machine" in shown and "measure" not in shown
    assert not workdir.exists()


def test_a_cell_that_does_not_run_is_one_line(tmp_path: Path) -> None:
    data = {"data": {"name": "parquet", "path": str(tmp_path / "nothing_there")}}
    with pytest.raises(InputError) as refused:
        measure_speed(made(tmp_path, overrides={**SWEEP["overrides"], **data}))
    message = str(refused.value)
    assert message.startswith("--measure: a cell ended by itself: train.py: ")
    assert "nothing_there" in message and "\n" not in message


@pytest.mark.parametrize(
    ("rates", "tried", "best"),
    [
        ({1: 10.0, 2: 19.0, 4: 19.3, 8: 50.0}, [1, 2, 4], 2),  # 4 are hardly faster than 2
        ({1: 10.0, 2: 9.0}, [1, 2], 1),
        ({1: 10.0, 2: 20.0, 4: 40.0, 6: 55.0}, [1, 2, 4, 6], 6),
    ],
)
def test_more_at_once_are_tried_while_they_are_worth_it(
    rates: dict[int, float],
    tried: list[int],
    best: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = []

    def measured(sweep: Sweep, cells: Sequence[Cell]) -> tuple[float, float]:
        if cells[0] == sweep.cells[0]:
            counts.append(len(cells))
            return rates[len(cells)], 4.0
        return 5.0, 9.0

    monkeypatch.setattr(speed, "steps_a_second", measured)
    monkeypatch.setattr(speed, "usable_cores", lambda: max(rates))
    sweep = made(tmp_path, batch_sizes=(8, 16), threads_per_cell=1)
    found = measure_speed(sweep, say=lambda text: None)
    assert counts == tried and found.best == best and kept_speed(sweep) == found
    assert found.step_seconds == {8: 0.1, 16: 0.2} and found.start_seconds == 4.0
    assert kept_speed(made(tmp_path, batch_sizes=(8, 32), threads_per_cell=1)) is None


@pytest.mark.parametrize(
    "damage",
    [
        {"together": {"1": "fast"}},
        {"together": {"one": 10.0}},
        {"together": [10.0]},
        {"step_seconds": {"8": -0.1}},
        {"step_seconds": {}},
        {"start_seconds": None},
    ],
)
def test_a_damaged_measurement_counts_as_none(
    damage: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "steps_a_second", lambda sweep, cells: (10.0, 4.0))
    sweep = made(tmp_path, batch_sizes=(8,), threads_per_cell=1)
    assert measure_speed(sweep, say=lambda text: None) == kept_speed(sweep)
    (kept,) = (cache_folder() / "sweep_speed").iterdir()
    kept.write_text(json.dumps(json.loads(kept.read_text()) | damage))
    assert kept_speed(sweep) is None


def test_times_come_from_what_was_measured(tmp_path: Path) -> None:
    found = Speed({1: 10.0, 2: 16.0, 4: 15.0}, {8: 0.1}, 4.0)
    cells = made(tmp_path, batch_sizes=(8, 16), budget="steps", budget_amount=50).cells
    times = {cell.batch_size: found.seconds(cell) for cell in cells}
    assert times == {8: pytest.approx(9.0), 16: 0.0}  # of 16 nothing is known
    assert found.seconds(cells[0], 20.0) == pytest.approx(25.0)
    assert [found.gain(count) for count in (1, 2, 3, 4)] == [1.0, 1.6, 1.6, 1.6]
