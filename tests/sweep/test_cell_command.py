"""One cell by hand, `python -m uvit_dia.sweep cell DIR NAME`, and a cell's process left alone."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from tests.support.forked import Child
from tests.support.sweeps import (
    ROOT,
    STAND_INS,
    SWEEP,
    calls,
    lines,
    read,
    start_cell,
    states,
    until,
    write_sweep,
)
from uvit_dia.sweep.__main__ import main
from uvit_dia.sweep.cells import Launch
from uvit_dia.sweep.config import make_sweep
from uvit_dia.sweep.folder import make_plan, write_plan
from uvit_dia.sweep.launch import CellRunner
from uvit_dia.sweep.plan import read_plan
from uvit_dia.sweep.pool import LocalPool
from uvit_dia.sweep.processes import CommandRunner
from uvit_dia.system.errors import (
    EXIT_BAD_INPUT,
    EXIT_BUG,
    EXIT_DIVERGED,
    EXIT_STOPPED_EARLY,
    InputError,
)

NAME = "uvit-b0008-s0"


def planned(folder: Path, **changes: object) -> Path:
    """Write the plan of a sweep that was not begun; return its folder."""
    content = {**SWEEP, "batch_sizes": (8,), "variants": {"uvit": {}}, **changes}
    found = make_sweep(ConfigDict(content), folder / "sweep_config.py", STAND_INS)
    (folder / "w").mkdir()
    write_plan(make_plan(found, folder / "w"))
    return folder / "w"


def test_a_cell_by_hand_is_done_once(tmp_path: Path) -> None:
    workdir = planned(tmp_path)
    first = start_cell(workdir, NAME).wait()
    assert first.exit_code == 0, first.stderr
    assert first.stdout.startswith(f"done     {NAME}, fd = ")
    assert states(workdir) == {NAME: "done"}
    second = start_cell(workdir, NAME).wait()
    assert (second.exit_code, second.stdout) == (0, first.stdout)
    assert calls(workdir) == [(NAME, "train"), (NAME, "eval")]
    assert read(workdir / "cells" / NAME / "cell.json")["attempts"] == 1


def test_a_cell_from_a_config_of_the_project_needs_no_base(tmp_path: Path) -> None:
    workdir = planned(tmp_path)
    done = start_cell(workdir, NAME, base=None).wait()
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize(
    ("seed", "exit_code", "words"),
    [
        (101, EXIT_DIVERGED, "uvit-b0008-s101: the loss became NaN"),
        (102, EXIT_BUG, "uvit-b0008-s102: train.py, exit code 2: out of memory"),
        (105, EXIT_STOPPED_EARLY, "uvit-b0008-s105: train.py, exit code 75"),
    ],
)
def test_how_a_cell_ends_is_its_exit_code(
    seed: int, exit_code: int, words: str, tmp_path: Path
) -> None:
    workdir = planned(tmp_path, seeds=(seed,))
    ended = start_cell(workdir, f"uvit-b0008-s{seed}").wait()
    assert ended.exit_code == exit_code
    assert words in ended.last_line
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_cell_by_hand_is_stopped_with_its_state_saved(
    number: signal.Signals, tmp_path: Path
) -> None:
    workdir = planned(tmp_path)
    child = start_cell(workdir, NAME, STAND_IN_STEP_SECONDS="0.2")
    log = workdir / "cells" / NAME / "metrics.jsonl"
    until(lambda: len(lines(log)) > 2)
    child.send(number)
    ended = child.wait()
    assert ended.exit_code == EXIT_STOPPED_EARLY
    assert ended.last_line.endswith(f"{NAME}: stopped by {number.name}")
    assert states(workdir) == {NAME: "preempted"}
    assert read(workdir / "cells" / NAME / "saved.json")["step"] == len(lines(log))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "a sweep's folder and the name of a cell"),
        (["{w}"], "a sweep's folder and the name of a cell"),
        (["{w}", "uvit-b0008-s1"], "has no cell 'uvit-b0008-s1'; did you mean uvit-b0008-s0?"),
        (["{w}", "../../etc"], "has no cell"),
        (["nowhere", NAME], "holds no sweep"),
        (["{w}", NAME, "--bas=x"], "unknown flag --bas; did you mean base?"),
        (["{w}", NAME, "more"], "unexpected word 'more'"),
    ],
)
def test_what_the_command_refuses(words: list[str], message: str, tmp_path: Path) -> None:
    workdir = planned(tmp_path)
    with pytest.raises(InputError) as caught:
        main(["sweep", "cell", *(word.format(w=workdir) for word in words)])
    assert message in str(caught.value)
    assert not (workdir / "cells").exists()


@pytest.mark.parametrize("base", ["evil.py", "{w}/evil.py", "configs/../../evil.py"])
def test_a_plan_cannot_name_code_outside_the_project(base: str, tmp_path: Path) -> None:
    """A folder that came from elsewhere is data."""
    workdir = planned(tmp_path)
    for place in (tmp_path, workdir):
        (place / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    content = read(workdir / "sweep.json")
    content["config"]["base"] = base.format(w=workdir)
    (workdir / "sweep.json").write_text(json.dumps(content))
    command = [sys.executable, "-m", "uvit_dia.sweep", "cell", str(workdir), NAME]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == EXIT_BAD_INPUT
    assert done.stderr.startswith("uvit_dia.sweep: ")
    assert "is no config of this project" in done.stderr
    assert not (tmp_path / "canary").exists()


def test_a_damaged_plan_is_one_line(tmp_path: Path) -> None:
    workdir = planned(tmp_path)
    content = read(workdir / "sweep.json")
    for config in ({}, {**content["config"], "threads_per_cell": 0}, {"a.b": 1}):
        (workdir / "sweep.json").write_text(json.dumps({**content, "config": config}))
        with pytest.raises(InputError, match=r"sweep\.json: "):
            main(["sweep", "cell", str(workdir), NAME])


def test_a_process_that_ended_before_it_began_is_not_taken_for_its_predecessor(
    tmp_path: Path,
) -> None:
    """What an earlier start wrote about the cell is not what has happened now."""
    workdir = planned(tmp_path)
    home = workdir / "cells" / NAME
    home.mkdir(parents=True)
    (home / "cell.json").write_text('{"state": "failed", "reason": "long ago"}')
    launch = Launch(SWEEP["base"], 1, 1, STAND_INS)
    pool = LocalPool(workdir, launch, max_parallel=1, num_gpus=0)
    plan = read_plan(workdir)
    (workdir / "sweep.json").write_text("{")
    said: list[str] = []
    ended = CellRunner(workdir, pool, said.append).run(plan.run_order)
    assert said[0] == f"start    {NAME}"
    assert said[2] == f"start    {NAME} again"
    assert "the cell's own process ended: uvit_dia.sweep: " in ended[NAME]["reason"]
    assert "sweep.json is damaged" in ended[NAME]["reason"]
    assert ended[NAME]["state"] == "failed"


def test_a_sweep_goes_on_in_another_place(tmp_path: Path) -> None:
    """Half of it is done when its folder is moved."""
    config = write_sweep(tmp_path, batch_sizes=(8,), seeds=(0, 1), variants={"uvit": {}})
    main(
        ["sweep", f"--config={config}", f"--workdir={tmp_path / 'w'}", "--max_parallel=2"],
        scripts=STAND_INS,
    )
    home = tmp_path / "w" / "cells" / NAME
    for name in ("cell.json", "eval.jsonl"):
        (home / name).unlink()
    moved = (tmp_path / "w").rename(tmp_path / "moved here")
    main(["sweep", f"--config={config}", f"--workdir={moved}"], scripts=STAND_INS)
    assert states(moved) == {NAME: "done", "uvit-b0008-s1": "done"}
    assert [call["script"] for call in lines(moved / "cells" / NAME / "calls.jsonl")] == [
        "train",
        "eval",
        "eval",
    ]
    assert len(lines(moved / "cells" / "uvit-b0008-s1" / "calls.jsonl")) == 2


# ---------------------------------------------------------------- its environment


def environment_of_command(tmp_path: Path, **own: str) -> dict[str, str]:
    """Return the environment that the command of a cell finds."""
    runner = CommandRunner(tmp_path / "logs", own, is_launched=False)
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    assert runner.run("show", [sys.executable, "-c", code]) == (0, "")
    return json.loads((tmp_path / "logs" / "show.out").read_text())


def test_a_cell_is_no_rank_of_the_launch_that_the_sweep_runs_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "3",
        "MASTER_ADDR": "elsewhere",
        "OMPI_COMM_WORLD_SIZE": "4",
        "OMPI_COMM_WORLD_RANK": "3",
        "PMI_SIZE": "4",
        "PMI_RANK": "3",
        "PMIX_RANK": "3",
        "MV2_COMM_WORLD_SIZE": "4",
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "3",
        "TORCHELASTIC_RUN_ID": "none",
    }
    kept = {"SLURM_JOB_ID": "4711", "SLURM_TMPDIR": "/tmp", "CUDA_VISIBLE_DEVICES": "2"}
    for name, value in (foreign | kept).items():
        monkeypatch.setenv(name, value)
    found = environment_of_command(tmp_path, OMP_NUM_THREADS="1")
    assert not foreign.keys() & found.keys()
    assert {name: found[name] for name in kept} == kept
    assert found["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    ("visible", "num_gpus", "expected"),
    [
        (None, 0, [{}, {}, {}]),
        ("3", 1, [{}, {}, {}]),  # one GPU: all cells see what the sweep sees
        (None, 2, ["0", "1", "0"]),
        ("4,7", 2, ["4", "7", "4"]),
        ("GPU-aa, GPU-bb", 2, ["GPU-aa", "GPU-bb", "GPU-aa"]),
    ],
)
def test_cells_are_spread_over_the_gpus(
    visible: str | None,
    num_gpus: int,
    expected: list,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    given: list[object] = []

    class Started:
        def __init__(self, command: list[str], env: dict[str, str], **others: object) -> None:
            unchanged = env.get("CUDA_VISIBLE_DEVICES") == os.environ.get("CUDA_VISIBLE_DEVICES")
            given.append({} if unchanged else env["CUDA_VISIBLE_DEVICES"])

        def poll(self) -> int:
            return 0

        def communicate(self) -> None:
            pass

    monkeypatch.setattr("uvit_dia.sweep.pool.subprocess.Popen", Started)
    workdir = planned(tmp_path, seeds=(0, 1, 2))
    cells = read_plan(workdir).run_order
    launch = Launch(SWEEP["base"], 1, 1, STAND_INS)
    pool = LocalPool(workdir, launch, max_parallel=3, num_gpus=num_gpus)
    pool.submit(cells[:2])
    assert pool.ended(cells[:1]) == [cells[0]]
    pool.submit(cells[2:])  # takes the place that has become free
    assert given == expected


def test_local_cells_need_no_submitit(tmp_path: Path) -> None:
    config = write_sweep(tmp_path, batch_sizes=(8,), variants={"uvit": {}})
    ended = Child(_sweep_without_submitit, [f"--config={config}", f"--workdir={tmp_path / 'w'}"])
    finished = ended.wait()
    assert finished.exit_code == 0, finished.stderr


def _sweep_without_submitit(arguments: list[str]) -> None:
    sys.modules["submitit"] = None  # type: ignore[assignment]
    main(["sweep", *arguments], scripts=STAND_INS)


def test_a_process_whose_launcher_is_gone_before_it_looks_stops(tmp_path: Path) -> None:
    """Its standard input has ended already: nothing is started any more."""
    workdir = planned(tmp_path)
    command = [sys.executable, "-m", "uvit_dia.sweep", "cell", str(workdir), NAME, "--launched"]
    flags = [f"--base={SWEEP['base']}", f"--scripts={STAND_INS}"]
    done = subprocess.run(
        [*command, *flags],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == EXIT_STOPPED_EARLY
    assert "the process of the sweep was killed" in done.stderr
    assert not (workdir / "cells" / NAME / "calls.jsonl").exists()
