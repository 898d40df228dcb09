"""What a sweep refuses before anything starts: one line, exit code 2, nothing written."""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.sweeps import ROOT, SWEEP, sweep, write_sweep
from uvit_dia.sweep.__main__ import _parse, _read_config
from uvit_dia.sweep.config import make_sweep
from uvit_dia.system.errors import InputError, StorageError

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "duplicate batch size": ({"batch_sizes": (8, 16, 8)}, "batch_sizes has 8 twice"),
    "duplicate seed": ({"seeds": (0, 0)}, "seeds has 0 twice"),
    "variants that are the same run": (
        {"variants": {"uvit": {}, "other": {"model": {"attention": "dia_lstm"}}}},
        "duplicates",
    ),
    "variants whose folders are one where names ignore case": (
        {"variants": {"uvit": {"model": {"attention": "none"}}, "UViT": {}}},
        "variants: uvit stands there in more than one spelling",
    ),
    "unknown key of a variant": (
        {"variants": {"uvit": {"model": {"atention": "none"}}}},
        "variants.uvit: unknown key model.atention; did you mean model.attention?",
    ),
    "unknown key of the overrides": ({"overrides": {"trian": {"x": 1}}}, "unknown key trian.x"),
    "group in place of a key": ({"overrides": {"model": 3}}, "unknown key model"),
    "variant that is no group": ({"variants": {"uvit": 3}}, "must be a group"),
    "wrong value of a variant": (
        {"variants": {"uvit": {"model": {"attention": "attention"}}}},
        "model.attention = 'attention'; allowed is none, lstm, dia_lstm",
    ),
    "wrong type of a variant": (
        {"variants": {"uvit": {"model": {"depth": "two"}}}},
        "model.depth",
    ),
    "values that do not fit each other": (
        {"variants": {"uvit": {"model": {"depth": 3}}}},
        "model.depth = 3 is odd",
    ),
    "key that the sweep sets": (
        {"overrides": {"train": {"batch_size": 8}}},
        "overrides sets train.batch_size, which the sweep sets itself",
    ),
    "EMA set twice": (
        {
            "ema_rule": "halflife_images",
            "ema_halflife_images": 9,
            "overrides": {"ema": {"decay": 0.5}},
        },
        "sets ema.decay",
    ),
    "half-life without its rule": ({"ema_halflife_images": 9}, "ema_halflife_images = 9"),
    "rule without half-life": ({"ema_rule": "halflife_images"}, "ema_halflife_images = 0"),
    "no variants": ({"variants": {}}, "variants must be"),
    "name with a path": ({"variants": {"a/b": {}}, "baseline": "a/b"}, "is no name"),
    "unknown baseline": ({"baseline": "unit"}, "baseline = 'unit' is none of the variants"),
    "no batch sizes": ({"batch_sizes": ()}, "batch_sizes = (); allowed is a tuple of integers"),
    "batch size 0": ({"batch_sizes": (0,)}, "batch_sizes = (0,)"),
    "batch size as text": ({"batch_sizes": ("8",)}, "batch_sizes"),
    "bool for a seed": ({"seeds": (True,)}, "seeds = (True,)"),
    "unknown budget": ({"budget": "epochs"}, "budget = 'epochs'; allowed is one of steps, images"),
    "unknown rule": ({"lr_rule": "cubic"}, "lr_rule = 'cubic'"),
    "learning rate too high": (
        {"lr_rule": "linear", "reference_batch_size": 1, "batch_sizes": (10**6,)},
        "optimizer.learning_rate = 2000.0",
    ),
    "missing key": ({"lr_rule": None}, "key lr_rule is missing"),
    "unknown key": ({"learning_rule": 1}, "unknown key learning_rule; did you mean"),
    "missing base": ({"base": "configs/nowhere.py"}, "base = 'configs/nowhere.py': no such file"),
    "base that is no config": ({"base": str(ROOT / "train.py")}, "base "),
    "indivisible batch": (
        {"num_processes": 3},
        "batch size 8 is not divisible by num_processes = 3",
    ),
    "indivisible by parts": (
        {"overrides": {"train": {"accumulation_steps": 16}}},
        "accumulation_steps = 16",
    ),
    "one image at a time for srm": (
        {
            "num_processes": 8,
            "variants": {"uvit": {}, "srm": {"model": {"attention": "srm"}}},
        },
        "train.batch_size = 8 is 1 image for each of 8 processes x train.accumulation_steps = 1",
    ),
    "too many cells": ({"seeds": tuple(range(20_000))}, "at most 10000"),
    "unknown sampler": ({"eval": {**SWEEP["eval"], "sampler": "dpm"}}, "eval.sampler = 'dpm'"),
}
BAD_FOR_THE_MACHINE: dict[str, tuple[dict[str, Any], str]] = {
    "batch larger than the data set": ({"batch_sizes": (8, 2048)}, "which has 1797 images"),
    "missing data": (
        {"overrides": {"data": {"name": "folder", "path": "nowhere"}}},
        "data.path: no folder nowhere",
    ),
    "data of another size": ({"overrides": {"model": {"img_size": 16}}}, "model.img_size = 16"),
    "missing Inception weights": (
        {"eval": {**SWEEP["eval"], "extractor": "inception-v3-compat", "weights": "nowhere"}},
        "no Inception weights at nowhere",
    ),
    "missing extractor": ({"eval": {**SWEEP["eval"], "extractor": "pt2:no"}}, "no file no"),
    "unknown extractor": ({"eval": {**SWEEP["eval"], "extractor": "vgg"}}, "--extractor 'vgg'"),
    "fewer images than features": ({"eval": {**SWEEP["eval"], "num_images": 20}}, "needs at least"),
    "steps that the sampler cannot take": (
        {"eval": {**SWEEP["eval"], "num_steps": 5000}},
        "num_steps",
    ),
    "processes without devices": (
        {"num_processes": 2},
        "num_processes = 2, and there are 0 GPUs here",
    ),
}


def refusal(config: Path, workdir: Path, *flags: str) -> str:
    """Return the line in which a sweep is refused; nothing may have been written."""
    with pytest.raises(InputError) as caught:
        sweep(config, workdir, *flags)
    assert not workdir.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.reliability("G5", "malformed inputs refused in one line")
def test_bad_sweeps_are_refused_before_anything_is_loaded(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvit_dia.sweep.run", None)  # importing it would fail
    changes, message = BAD[kind]
    assert message in refusal(write_sweep(tmp_path, **changes), tmp_path / "w")


@pytest.mark.parametrize("kind", BAD_FOR_THE_MACHINE)
def test_cells_that_cannot_start_are_found_before_the_first_one_runs(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    changes, message = BAD_FOR_THE_MACHINE[kind]
    assert message in refusal(write_sweep(tmp_path, **changes), tmp_path / "w")


@pytest.mark.parametrize(
    ("num_processes", "gpus_per_run", "message"),
    [
        (2, 2, None),
        (1, 1, None),
        (1, 0, None),
        (2, 1, "num_processes = 2, and slurm.gpus_per_run = 1; a process needs a GPU of its own"),
        (2, 4, "num_processes = 2, and slurm.gpus_per_run = 4"),
        (2, 0, "set ACCELERATE_USE_CPU=true"),
    ],
)
def test_processes_of_a_job_have_the_gpus_of_the_job(
    num_processes: int,
    gpus_per_run: int,
    message: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A login node has none."""
    from uvit_dia.sweep.preflight import check_machine

    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    path = write_sweep(tmp_path, num_processes=num_processes)
    found = make_sweep(_read_config(_parse(["sweep", f"--config={path}"]))[0], path, ROOT)
    check = partial(check_machine, found, [], tmp_path, gpus_per_run=gpus_per_run)
    if message is None:
        check()
    else:
        with pytest.raises(InputError, match=re.escape(message)):
            check()


def test_no_space_for_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("", (), {"free": 1000})())
    with pytest.raises(StorageError, match="no space for the checkpoints of all cells"):
        sweep(write_sweep(tmp_path), tmp_path / "w")
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cluster=slurm"], "there is no sbatch"),
        (["--cluster=cloud"], "--cluster 'cloud': allowed is local or slurm"),
        (["--max_parallel=0"], "--max_parallel 0: allowed is 1 or more"),
        (["--max_paralel=2"], "unknown flag --max_paralel; did you mean max_parallel?"),
        (["--config.seds=1"], "unknown config key seds; did you mean seeds?"),
        (["--config.budget_amount=3", "--config.evl.seed=1"], "unknown config key evl.seed"),
        (["stray"], "unexpected word 'stray'"),
        (["--status"], "holds no sweep"),
        (["--workdir="], "--workdir is missing"),
    ],
)
@pytest.mark.reliability("G5", "malformed inputs refused in one line")
def test_bad_flags(
    flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm there
    assert message in refusal(write_sweep(tmp_path), tmp_path / "w", *flags)


@pytest.mark.parametrize(
    "flags",
    [
        ["--config=nowhere.py"],
        ["--config=configs/digits_uvit_dia.py"],
        ["--config=configs/sweeps/digits_batch_size.py", "--config.batch_sizes=(8,8)"],
    ],
)
@pytest.mark.reliability("G5", "malformed inputs refused by real processes")
def test_command_ends_with_one_line(flags: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "uvit_dia.sweep", f"--workdir={tmp_path / 'w'}", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert len(done.stderr) <= 250
    assert done.stderr.startswith("uvit_dia.sweep: ")
    assert not (tmp_path / "w").exists()


def test_workdir_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--workdir: cannot write to"):
        sweep(write_sweep(tmp_path), tmp_path / "file" / "w")


def test_a_failed_import_of_submitit_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert "uvit_dia[sweep]" in refusal(write_sweep(tmp_path), tmp_path / "w", "--cluster=slurm")
