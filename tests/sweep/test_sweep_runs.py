"""A sweep at work, with stand-ins for train.py and eval_fid.py.

What is run, what is skipped, what survives.
"""

import json
import os
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from tests.support.sweeps import (
    calls,
    cells,
    collected,
    family,
    kill_all,
    kill_at_random,
    lines,
    read,
    start_sweep,
    states,
    sweep,
    until,
    working_on,
    write_sweep,
)
from uvit_dia.runs.folder import RunFolder
from uvit_dia.sweep.__main__ import _parse, _read_config
from uvit_dia.sweep.launch import CellsFailed
from uvit_dia.system.errors import EXIT_BAD_INPUT, EXIT_STOPPED_EARLY, InputError

SLOW_STEPS = {"STAND_IN_STEP_SECONDS": "0.06"}
SLOWER_STEPS = {"STAND_IN_STEP_SECONDS": "0.3"}  # 6 s a cell: none is done before the other begins


def logged_by_cell(workdir: Path) -> dict[str, int]:
    """Return how many lines each cell has logged."""
    return {path.parent.name: len(lines(path)) for path in workdir.glob("cells/*/metrics.jsonl")}


def num_grown(workdir: Path, before: dict[str, int]) -> int:
    """Return how many cells have logged two lines or more since."""
    now = logged_by_cell(workdir)
    return sum(count >= before.get(name, 0) + 2 for name, count in now.items())


def num_logged(workdir: Path) -> int:
    """Return how many steps all cells have logged."""
    folder = workdir / "cells"
    return sum(len(lines(path)) for path in folder.glob("*/metrics.jsonl"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a sweep of 2 cells that nothing disturbed, and its config."""
    folder = tmp_path_factory.mktemp("finished")
    config = write_sweep(folder, batch_sizes=(8,))
    done = start_sweep(config, folder / "w", "--max_parallel=2").wait()
    assert done.exit_code == 0, done.stderr
    assert f"report:   python -m uvit_dia.report {folder / 'w'}" in done.stdout
    return folder / "w", config


# ---------------------------------------------------------------- what is run


def test_every_cell_is_trained_and_evaluated_once(finished: tuple[Path, Path]) -> None:
    workdir, _ = finished
    assert states(workdir) == dict.fromkeys(cells(workdir), "done")
    assert len(cells(workdir)) == 2
    assert calls(workdir) == [
        (name, script) for name in cells(workdir) for script in ("train", "eval")
    ]
    for path in cells(workdir).values():
        assert [line["seed"] for line in lines(path / "eval.jsonl")] == [5, 6]
        values = [line["value"] for line in lines(path / "eval.jsonl")]
        assert read(path / "cell.json")["value"] == pytest.approx(sum(values) / 2)
    assert not list(workdir.glob(".jobs-*"))  # no pickles stay


def test_what_is_printed_is_what_is_run(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    workdir, config = finished
    sweep(config, workdir, "--dry_run", "--commands")
    shown = capsys.readouterr().out.splitlines()
    printed = [shlex.split(line) for line in shown if "_NUM_THREADS=" in line]
    assert {tuple(words[:2]) for words in printed} == {("OMP_NUM_THREADS=1", "MKL_NUM_THREADS=1")}
    run = [
        [sys.executable, *call["argv"]]
        for path in cells(workdir).values()
        for call in lines(path / "calls.jsonl")
    ]
    assert sorted(words[3:] for words in printed) == sorted(words[1:] for words in run)


def test_order_and_parallelism_do_not_change_results(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    sweep(finished[1], tmp_path / "w", "--max_parallel=1")
    assert collected(tmp_path / "w") == collected(finished[0])


def test_finished_cells_are_skipped_evaluations_too(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    workdir, config = finished
    before = {path: path.stat() for path in workdir.rglob("*") if path.name != ".lock-owner"}
    sweep(config, workdir)
    assert "2 of 2 cells have their result" in capsys.readouterr().out
    after = {path: path.stat() for path in workdir.rglob("*") if path.name != ".lock-owner"}
    assert {p: (s.st_ino, s.st_mtime_ns) for p, s in after.items() if p.is_file()} == {
        p: (s.st_ino, s.st_mtime_ns) for p, s in before.items() if p.is_file()
    }


def test_only_missing_evaluations_are_made(finished: tuple[Path, Path], tmp_path: Path) -> None:
    workdir = tmp_path / "w"
    shutil.copytree(finished[0], workdir)
    path = cells(workdir)["uvit-b0008-s0"]
    evaluated = (path / "eval.jsonl").read_text().splitlines()
    (path / "cell.json").unlink()
    (path / "eval.jsonl").write_text(evaluated[0] + "\n" + evaluated[1][:40])  # torn by a kill
    sweep(finished[1], workdir)
    assert [c["script"] for c in lines(path / "calls.jsonl")] == ["train", "eval", "eval"]
    assert lines(path / "calls.jsonl")[-1]["argv"][-4:] == ["--seed", "6", "--num_repeats", "1"]
    assert collected(workdir) == collected(finished[0])


def test_another_sweep_is_refused_in_the_same_folder(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    config = write_sweep(tmp_path, batch_sizes=(8,), seeds=(0, 1))
    with pytest.raises(InputError, match=r"holds another sweep \(seeds: \[0\] -> \[0, 1\]\)"):
        sweep(config, finished[0])
    variants = {"uvit": {}, "dia_lstm": {"model": {"depth": 4}}}
    config = write_sweep(tmp_path, batch_sizes=(8,), variants=variants)
    with pytest.raises(InputError, match="holds another sweep"):
        sweep(config, finished[0])
    words = {"held_constant": "other words", "seconds_per_step": 3.0}
    sweep(write_sweep(tmp_path, batch_sizes=(8,), **words), finished[0])  # the same sweep


def test_a_finished_sweep_takes_what_may_change(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    """The report reads it.

    Words, and what all others are compared with. A lost sweep.json comes back.
    """
    workdir = tmp_path / "w"
    shutil.copytree(finished[0], workdir)
    changed = write_sweep(tmp_path, batch_sizes=(8,), held_constant="new", baseline="dia_lstm")
    sweep(changed, workdir)
    config = read(workdir / "sweep.json")["config"]
    assert (config["held_constant"], config["baseline"]) == ("new", "dia_lstm")
    (workdir / "sweep.json").unlink()
    sweep(finished[1], workdir)
    config = read(workdir / "sweep.json")["config"]
    assert (config["held_constant"], config["baseline"]) == ("steps", "uvit")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), "steps"),
        (("--config.lr_rule=sqrt",), ""),
        (("--config.lr_rule=sqrt", "--config.held_constant=mine"), "mine"),
        (("--config.seeds=(0,1)",), "steps"),
    ],
)
def test_words_of_the_file_do_not_outlive_its_rules(
    flags: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    config = write_sweep(tmp_path, batch_sizes=(8,))
    values = _parse(["sweep", f"--config={config}", *flags])
    assert _read_config(values)[0].held_constant == expected


def test_run_of_another_config_in_a_cell_is_refused(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(finished[0], tmp_path / "w")
    path = tmp_path / "w" / "cells" / "uvit-b0008-s0" / "config.json"
    config = read(path)
    config["optimizer"]["eps"] = 0.5
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"holds a run with another config .*optimizer\.eps"):
        sweep(finished[1], tmp_path / "w")


# ---------------------------------------------------------------- what goes wrong


def test_a_cell_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    """101 diverges, 102 is refused, 103 crashes, 104 is killed, 105 stopped, 106 samples NaN."""
    seeds, workdir = (0, 101, 102, 103, 104, 105, 106), tmp_path / "w"
    config = write_sweep(tmp_path, batch_sizes=(8,), variants={"uvit": {}}, seeds=seeds)
    with pytest.raises(CellsFailed) as caught:
        sweep(config, workdir, "--max_parallel=3")
    assert caught.value.exit_code == 1
    reason = "2 of 7 cells failed: uvit-b0008-s102 (train.py, exit code 2: out of memory)"
    assert reason in str(caught.value)
    found = states(workdir).values()
    assert list(found) == ["done", "diverged", "failed", "failed", "done", "done", "diverged"]
    reasons = [read(path / "cell.json").get("reason") for path in cells(workdir).values()]
    assert reasons[1] == "the loss became NaN"
    assert reasons[6] == "the samples are not finite"
    assert reasons[3] == "train.py, exit code 1: KeyError: 'a bug'"
    # refused and diverged once, a crash and a kill are tried again
    assert num_trained(workdir) == [1, 1, 1, 2, 2, 2, 1]
    with pytest.raises(CellsFailed, match="2 of 2 cells failed"):  # the others are not touched
        sweep(config, workdir, "--max_parallel=3")
    assert num_trained(workdir) == [1, 1, 2, 4, 2, 2, 1]


def num_trained(workdir: Path) -> list[int]:
    """Return how often the training of each cell was started."""
    trained = [name for name, script in calls(workdir) if script == "train"]
    return [trained.count(name) for name in cells(workdir)]


def test_an_interrupted_cell_resumes_where_it_was(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    """SIGTERM to the whole group, as a supervisor sends it.

    Each training gets one signal and saves.
    """
    workdir = tmp_path / "w"
    for number in (signal.SIGINT, signal.SIGTERM):
        child = start_sweep(finished[1], workdir, "--max_parallel=2", **SLOWER_STEPS)
        before = logged_by_cell(workdir)
        until(lambda before=before: num_grown(workdir, before) == 2)  # both train by now
        os.killpg(child.pid, number)
        ended = child.wait()
        assert ended.exit_code == EXIT_STOPPED_EARLY
        assert ended.last_line.startswith(f"sweep: stopped by {number.name}, the state of all")
        assert len(ended.stderr.splitlines()) == 1
        assert not working_on(workdir)
        stopped = [name for name, state in states(workdir).items() if state == "preempted"]
        assert len(stopped) == 2
        for name in stopped:
            path = cells(workdir)[name]
            assert read(path / "status.json")["state"] == "preempted"
            assert read(path / "saved.json")["step"] == len(lines(path / "metrics.jsonl"))
    sweep(finished[1], workdir, "--max_parallel=2")
    assert collected(workdir) == collected(finished[0])


@pytest.mark.parametrize("whose", ["everything", "sweep", "cell", "train"])
def test_kill_of_anything(whose: str, finished: tuple[Path, Path], tmp_path: Path) -> None:
    workdir = tmp_path / "w"
    child = start_sweep(finished[1], workdir, "--max_parallel=2", **SLOW_STEPS)
    until(lambda: num_logged(workdir) > 3)
    named = {" ".join(p.cmdline()): p for p in family(child.pid) if p.pid != child.pid}
    words = {"cell": "uvit_dia.sweep cell", "train": "train.py"}
    if whose == "everything":
        assert kill_all(child.pid) == 5  # itself; of two cells their process and their training
    elif whose == "sweep":
        child.send(signal.SIGKILL)
    else:
        next(p for name, p in named.items() if words[whose] in name).kill()
    ended = child.wait()
    if whose in ("everything", "sweep"):
        assert ended.exit_code == -signal.SIGKILL
    else:  # tried again by the same sweep
        assert ended.exit_code == 0, ended.stderr
        assert ended.stdout.count("again") == 1
    sweep(finished[1], workdir, "--max_parallel=2")
    assert collected(workdir) == collected(finished[0])


def test_kills_at_random_moments(finished: tuple[Path, Path], tmp_path: Path) -> None:
    kills = kill_at_random(finished[1], tmp_path / "w", (0.1, 0.9), STAND_IN_STEP_SECONDS="0.06")
    assert kills >= 4  # a fast machine is done before all ten
    assert collected(tmp_path / "w") == collected(finished[0])


# ---------------------------------------------------------------- who else is there


def test_one_sweep_a_folder(finished: tuple[Path, Path], tmp_path: Path) -> None:
    first = start_sweep(finished[1], tmp_path / "w", **SLOW_STEPS)
    until(lambda: num_logged(tmp_path / "w"))
    started = time.monotonic()
    second = start_sweep(finished[1], tmp_path / "w").wait()
    assert second.exit_code == EXIT_BAD_INPUT
    assert "is in use by another run" in second.last_line
    assert time.monotonic() - started < 2
    first.send(signal.SIGTERM)
    assert first.wait().exit_code == EXIT_STOPPED_EARLY


def test_a_training_that_was_left_behind_is_waited_for(tmp_path: Path) -> None:
    config = write_sweep(tmp_path, batch_sizes=(8,), variants={"uvit": {}})
    run = RunFolder(tmp_path / "w" / "cells" / "uvit-b0008-s0")
    run.lock()
    child = start_sweep(config, tmp_path / "w")
    until((run.path / "cell.json").exists)
    time.sleep(0.5)
    assert child.is_alive()
    assert not (run.path / "calls.jsonl").exists()
    run.unlock()
    assert child.wait().exit_code == 0
    assert calls(tmp_path / "w") == [("uvit-b0008-s0", "train"), ("uvit-b0008-s0", "eval")]


def test_a_stop_while_waiting_for_a_lock(tmp_path: Path) -> None:
    config = write_sweep(tmp_path, batch_sizes=(8,), variants={"uvit": {}})
    folder = tmp_path / "w" / "cells" / "uvit-b0008-s0"
    folder.mkdir(parents=True)
    with FileLock(folder / ".cell-lock"):
        child = start_sweep(config, tmp_path / "w")
        until((tmp_path / "w" / "sweep.json").exists)
        time.sleep(1.0)
        child.send(signal.SIGTERM)
        assert child.wait().exit_code == EXIT_STOPPED_EARLY
