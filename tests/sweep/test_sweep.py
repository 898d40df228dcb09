"""What a sweep expands to, what it refuses before anything starts, and what it shows."""

import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock
from ml_collections import ConfigDict

from tests.support.sweeps import ROOT, SWEEP, sweep, write_sweep
from tests.support.synthetic_sweeps import evaluation, write_lines
from uvit_dia.config.files import flatten
from uvit_dia.sweep.__main__ import main
from uvit_dia.sweep.cells import SCRIPTS, Cell, Launch, flag_text
from uvit_dia.sweep.config import Sweep, make_sweep, read_run_config
from uvit_dia.sweep.folder import (
    CELL_LOCK,
    CELL_STATES,
    make_plan,
    sweep_hash,
    write_cell_json,
    write_plan,
)
from uvit_dia.sweep.status import duration
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import write_json
from uvit_dia.training.ema import ema_decay


def made(tmp_path: Path, **changes: object) -> Sweep:
    """Return the sweep of a changed config."""
    content = {key: value for key, value in {**SWEEP, **changes}.items() if value is not None}
    return make_sweep(ConfigDict(content), tmp_path / "sweep_config.py", SCRIPTS)


# ---------------------------------------------------------------- expansion


def test_grid_covers_everything_once_baseline_first(tmp_path: Path) -> None:
    found = made(tmp_path, batch_sizes=(16, 8), seeds=(3, 1), baseline="uvit")
    assert [cell.name for cell in found.cells] == [
        f"{variant}-b{size:04d}-s{seed}"
        for seed in (3, 1)
        for size in (16, 8)
        for variant in ("uvit", "dia_lstm")
    ]
    found = made(tmp_path, baseline="dia_lstm")
    assert [cell.variant for cell in found.cells[:2]] == ["dia_lstm", "uvit"]


@pytest.mark.parametrize(
    ("budget", "amount", "steps"),
    [("steps", 70, [70, 70]), ("images", 160, [20, 10]), ("images", 161, [21, 11])],
)
def test_budget(tmp_path: Path, budget: str, amount: int, steps: list[int]) -> None:
    found = made(tmp_path, budget=budget, budget_amount=amount, batch_sizes=(8, 16))
    by_size = {cell.batch_size: cell for cell in found.cells}
    assert [by_size[8].num_steps, by_size[16].num_steps] == steps
    for cell in found.cells:
        assert cell.images == cell.num_steps * cell.batch_size
        assert cell.images >= amount or budget == "steps"
        assert found.configs[cell.name].train.num_steps == cell.num_steps


@pytest.mark.parametrize(
    ("rule", "factors"), [("constant", [1, 1]), ("sqrt", [0.5, 2]), ("linear", [0.25, 4])]
)
def test_learning_rate_rules(tmp_path: Path, rule: str, factors: list[float]) -> None:
    variants = {
        "uvit": {"model": {"attention": "none"}},
        "hot": {"optimizer": {"learning_rate": 0.5}},
    }
    found = made(
        tmp_path, lr_rule=rule, reference_batch_size=32, batch_sizes=(8, 128), variants=variants
    )
    for cell in found.cells:
        base = 0.5 if cell.variant == "hot" else 2e-3  # that of configs/digits_uvit_dia.py
        wanted = base * factors[(8, 128).index(cell.batch_size)]
        assert cell.learning_rate == pytest.approx(wanted, rel=1e-12)
        assert found.configs[cell.name].optimizer.learning_rate == cell.learning_rate


def test_adams_rule_scales_rate_betas_and_eps(tmp_path: Path) -> None:
    """Definition 5.2 of Malladi et al.: 1 - beta grows with the batch, eps falls with its root."""
    adam = {"betas": (0.9, 0.99), "eps": 1e-8}  # those of configs/digits_uvit_dia.py
    wanted = {8: ((0.975, 0.9975), 2e-8), 32: ((0.9, 0.99), 1e-8), 128: ((0.6, 0.96), 5e-9)}
    found = made(tmp_path, lr_rule="adam_sde", reference_batch_size=32, batch_sizes=(8, 32, 128))
    for cell in found.cells:
        optimizer = found.configs[cell.name].optimizer
        betas, eps = wanted[cell.batch_size]
        assert optimizer.betas == pytest.approx(betas, rel=1e-12)
        assert optimizer.eps == pytest.approx(eps, rel=1e-12)
        assert optimizer.learning_rate == pytest.approx(2e-3 * (cell.batch_size / 32) ** 0.5)
    own = {"overrides": {**SWEEP["overrides"], "optimizer": {**adam, "betas": (0.5, 0.9)}}}
    with pytest.raises(InputError, match="makes the betas"):
        made(tmp_path, lr_rule="adam_sde", reference_batch_size=8, batch_sizes=(32,), **own)


def test_ema_half_life_in_images_is_the_same_for_every_batch_size(tmp_path: Path) -> None:
    overrides = {**SWEEP["overrides"], "ema": {"rampup_ratio": 0.0}}
    rule = {"ema_rule": "halflife_images", "ema_halflife_images": 6400}
    found = made(tmp_path, **rule, overrides=overrides)
    for cell in found.cells:
        decay = ema_decay(10**9, cell.batch_size, found.configs[cell.name].ema)
        assert decay ** (6400 / cell.batch_size) == pytest.approx(0.5, rel=1e-12)


def test_a_half_life_that_the_ramp_would_not_allow_is_refused(tmp_path: Path) -> None:
    """Of 20 steps the average may look back 5%: 8 images at batch size 8, 16 at 16."""
    rule = {"ema_rule": "halflife_images", "batch_sizes": (16, 8)}
    made(tmp_path, **rule, ema_halflife_images=8)
    with pytest.raises(InputError, match=r"uvit-b0008-s0: .*below 8 images.* = 9 has no effect"):
        made(tmp_path, **rule, ema_halflife_images=9)


def test_ema_of_the_base_config_stays(tmp_path: Path) -> None:
    found = made(tmp_path, ema_rule="base")
    assert {tuple(config.ema.to_dict().items()) for config in found.configs.values()} == {
        (("decay", 0.999), ("halflife_images", 0), ("rampup_ratio", 0.05))
    }


def test_a_cell_is_the_base_config_with_its_overrides_and_nothing_else(tmp_path: Path) -> None:
    found = made(tmp_path)
    for cell in found.cells:
        base, config = flatten(found.base_config), flatten(found.configs[cell.name].to_dict())
        changed = {key for key in base if json.loads(json.dumps(config[key])) != base[key]}
        assert changed <= set(cell.overrides)
        assert config["seed"] == cell.seed
        assert config["train.batch_size"] == cell.batch_size
        assert config["train.sample_every_steps"] == cell.num_steps  # a grid at the end


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer.betas", (0.5, 0.25)),
        ("eval.metrics", ("fid",)),
        ("data.on_device", False),
        ("data.path", ""),
        ("data.path", "a folder/with 'quotes'"),
        ("optimizer.learning_rate", 0.1 + 0.2),
        ("optimizer.weight_decay", 1e-300),
        ("model.attention_options.blocks", "0,1"),
    ],
)
def test_a_flag_is_read_back_as_the_value_it_was_made_from(key: str, value: object) -> None:
    config = read_run_config(["--config", SWEEP["base"], f"--config.{key}={flag_text(value)}"], "")
    assert flatten(config.to_dict())[key] == value


def test_costs_add_up(tmp_path: Path) -> None:
    costs = {"seconds_per_image": 2.0, "seconds_per_step": 30.0, "seconds_per_cell": 500.0}
    found = made(tmp_path, budget="steps", budget_amount=100, **costs)
    cell = next(cell for cell in found.cells if cell.batch_size == 16)
    assert found.seconds(cell) == 1600 * 2 + 100 * 30 + 500


def test_the_hash_tells_sweeps_apart_by_what_their_results_depend_on(tmp_path: Path) -> None:
    def sha256(**changes: object) -> str:
        return sweep_hash(made(tmp_path, **changes))

    same = [
        {"held_constant": "other words"},
        {"seconds_per_image": 5.0},
        {"slurm": {**SWEEP["slurm"], "partition": "fast"}},
        {"eval": {**SWEEP["eval"], "weights": "/elsewhere"}},
    ]
    other = [
        {"seeds": (1,)},
        {"budget_amount": 21},
        {"threads_per_cell": 2},
        {"eval": {**SWEEP["eval"], "num_repeats": 3}},
        {"overrides": {}},
    ]
    first = sha256()
    assert [sha256(**changes) == first for changes in same] == [True] * len(same)
    assert [sha256(**changes) == first for changes in other] == [False] * len(other)


# ---------------------------------------------------------------- what is shown


def evaluated(cell: Cell, seed: int) -> dict:
    """Return an evaluation as the sweep asks for it; over the seeds 5 and 6 its mean is 12.5."""
    changes = {"num_images": 100, "num_steps": 4}
    return evaluation(cell.num_steps, 12.0 + (seed - 5), seed, **changes)


def fake_sweep(workdir: Path, num_cells: int) -> Sweep:
    """Write the folder of a sweep whose cells are in all states, one after the other."""
    content = {**SWEEP, "batch_sizes": (8,), "seeds": tuple(range(num_cells // 2))}
    found = make_sweep(ConfigDict(content), workdir / "sweep_config.py", SCRIPTS)
    workdir.mkdir()
    write_plan(make_plan(found, workdir))
    for index, cell in enumerate(found.cells):
        folder = cell.folder(workdir)
        state = CELL_STATES[index % len(CELL_STATES)]
        if state == "waiting":
            continue
        folder.mkdir(parents=True)
        log = [{"step": step, "loss": 1 / step} for step in range(1, 11)]
        text = "".join(json.dumps(line) + "\n" for line in log)
        (folder / "metrics.jsonl").write_text(text * 100 + '{"step": 11, "lo')  # torn
        trained = {"state": "done", "step": 20} if state == "done" else {"state": state, "step": 5}
        write_json(folder / "status.json", trained)
        if state == "done":
            write_lines(folder / "eval.jsonl", [evaluated(cell, seed) for seed in (5, 6)])
        facts = {} if state == "done" else {"reason": f"why {index}"}
        write_cell_json(folder, state, **facts, host="another machine")
    return found


def test_status_tells_every_state_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "w"
    fake_sweep(workdir, 12)
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    main(["sweep", f"--workdir={workdir}", "--status"])
    shown = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in shown[1:13]]
    assert [row[1] for row in rows] == list(CELL_STATES) * 2
    assert rows[0] == ["uvit-b0008-s0", "waiting", "0/20"]
    assert rows[1] == ["dia_lstm-b0008-s0", "running", "10/20", "0.1000", "why", "1"]
    assert rows[3] == ["dia_lstm-b0008-s1", "done", "20/20", "0.1000", "fd", "12.5"]
    assert rows[5][-2:] == ["why", "5"]
    assert shown[-1] == (
        "2 done, 2 running, 2 waiting, 2 preempted, 2 diverged, 2 failed of 12 cells"
    )
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}


def test_status_tells_a_killed_cell_from_a_running_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "w"
    running = fake_sweep(workdir, 12).cells[1].folder(workdir)
    write_cell_json(running, "running", host=platform.node())
    main(["sweep", f"--workdir={workdir}", "--status"])
    assert "its launcher was killed" in capsys.readouterr().out.splitlines()[2]
    with FileLock(running / CELL_LOCK):
        main(["sweep", f"--workdir={workdir}", "--status"])
    assert capsys.readouterr().out.splitlines()[2].split()[1] == "running"


def test_status_of_100_cells_is_quick_and_needs_no_torch(tmp_path: Path) -> None:
    fake_sweep(tmp_path / "w", 100)
    code = (
        "import sys\n"
        "from uvit_dia.sweep.__main__ import main\n"
        f"main(['sweep', '--workdir={tmp_path / 'w'}', '--status'])\n"
        "heavy = {'torch', 'numpy', 'submitit', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    seconds = []
    for _ in range(3):  # the machine may be busy
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
        )
        seconds.append(time.monotonic() - started)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 103
    assert min(seconds) < 2


@pytest.mark.parametrize("state", ["diverged", "failed"])
def test_watch_ends_when_all_cells_have_ended(
    state: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workdir = tmp_path / "w"
    found = fake_sweep(workdir, 12)
    sleeps: list[float] = []

    def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        assert len(sleeps) < 3, "it goes on for ever"
        shutil.rmtree(workdir / "cells")
        for cell in found.cells:
            cell.folder(workdir).mkdir(parents=True)
            write_cell_json(cell.folder(workdir), state, reason="")

    monkeypatch.setattr("uvit_dia.sweep.__main__.time.sleep", sleep)
    main(["sweep", f"--workdir={workdir}", "--watch"])
    assert len(sleeps) == 1
    assert capsys.readouterr().out.endswith(
        f"0 done, 0 running, 0 waiting, 12 {state} of 12 cells\n"
    )


@pytest.mark.parametrize(
    "content", ["", "[]", '{"cells": 3}', '{"format": 9, "cells": [], "config": {}}', "\x00"]
)
def test_a_damaged_plan_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(InputError, match=r"sweep\.json"):
        main(["sweep", f"--workdir={tmp_path}", "--status"])


@pytest.mark.parametrize("name", ["../up", "/etc", "..", "", "a/b", 3])
def test_a_plan_cannot_lead_out_of_its_folder(name: object, tmp_path: Path) -> None:
    plan = {"format": 1, "cells": [{"name": name, "num_steps": 1}], "config": {}}
    (tmp_path / "sweep.json").write_text(json.dumps(plan))
    with pytest.raises(InputError, match="is no name of a cell"):
        main(["sweep", f"--workdir={tmp_path}", "--status"])


def test_dry_run_shows_cost_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_sweep(tmp_path)
    sweep(config, tmp_path / "w", "--dry_run", "--max_parallel=2")
    shown = capsys.readouterr().out
    # 20 steps, 10 ms each; 160 or 320 images, 1 ms each; 18 s a cell
    assert shown.splitlines()[1].endswith("0.002  18 s")
    assert "total: 4 runs, 960 training images, 74 s of runs, 37 s with --max_parallel 2" in shown
    assert "train.py" not in shown
    assert "--commands" in shown
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "?"),
        (22.4, "22 s"),
        (89, "89 s"),
        (360, "6 min"),
        (5000, "83 min"),
        (5040, "84 min"),
        (5400, "1.5 h"),
        (169200, "47.0 h"),
        (302400, "3.5 days"),
    ],
)
def test_times_have_the_unit_that_suits_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("num_processes", [1, 2])
def test_without_a_clone_cells_start_the_commands_of_the_package(num_processes: int) -> None:
    launch = Launch("base.py", num_processes, 1, None)
    program = ["-m", "uvit_dia", "eval"]
    processes = ["--standalone", "--nproc_per_node", "2"]
    torchrun = ["-m", "torch.distributed.run", *processes] if num_processes == 2 else []
    assert launch.command("eval") == [sys.executable, *torchrun, *program]
