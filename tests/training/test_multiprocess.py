"""Several processes are one run: same batches, same weights up to rounding, one voice, one end."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from tests.support.forked import Child, Finished, free_port, start_ranks
from tests.support.image_sets import write_images
from tests.support.latents import encode, write_autoencoder
from tests.support.runs import (
    ROOT,
    Fault,
    checkpoint_hashes,
    command,
    log_lines,
    result,
    status,
    step_folder,
    train,
    train_arguments,
    tree,
)
from uvit_dia.data.batches import BatchOrder
from uvit_dia.sampling.sampler import ImageSampler
from uvit_dia.system.errors import EXIT_BAD_INPUT, EXIT_DIVERGED, EXIT_STOPPED_EARLY
from uvit_dia.training import trainer

pytestmark = pytest.mark.multiprocess

SIXTY: dict[str, object] = {
    "train.num_steps": 60,
    "train.checkpoint_every_steps": 20,
    "train.keep_checkpoints": 3,
    "model.attention_options.num_cells": 2,  # with dropout
    "data.random_flip": True,
}
TOLERANCE = 1e-6  # of a weight: sums of a batch are rounded in another order


def run_ranks(function: Any, *arguments: object, num_processes: int = 2) -> list[Finished]:
    return [child.wait() for child in start_ranks(num_processes, function, *arguments)]


def train_ranks(
    path: Path, changes: dict[str, object] | None = None, *flags: str
) -> list[Finished]:
    return run_ranks(command, "train", [*train_arguments(path, changes), *flags])


def assert_done(finished: list[Finished]) -> None:
    assert [done.exit_code for done in finished] == [0] * len(finished), finished


def assert_same_weights(found: Path, expected: Path, step: int = 60) -> None:
    for name in ("model", "ema"):
        file = f"{name}.safetensors"
        ours, theirs = (load_file(step_folder(run, step) / file) for run in (found, expected))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of 60 steps by one process."""
    path = tmp_path_factory.mktemp("one")
    assert_done([train(path, SIXTY)])
    return path


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen]]:
    processes: list[subprocess.Popen] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def start_torchrun(
    started: list[subprocess.Popen], path: Path, changes: dict[str, object], *, is_told: bool
) -> subprocess.Popen:
    """Start torchrun with two processes; they are told that they train together on CPUs, or not."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    if not is_told:
        del environment["ACCELERATE_USE_CPU"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    arguments = [f"--master_port={free_port()}", "train.py", *train_arguments(path, changes)]
    process = subprocess.Popen(
        [*launcher, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started.append(process)
    return process


# ---------------------------------------------------------------- training


def test_torchrun_trains_the_same_weights(
    tmp_path: Path, one: Path, started: list[subprocess.Popen]
) -> None:
    process = start_torchrun(started, tmp_path, SIXTY, is_told=True)
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert output.count("starting:") == 1  # one voice
    assert_same_weights(tmp_path, one)
    assert [line["step"] for line in log_lines(tmp_path)] == list(range(2, 62, 2))
    for ours, theirs in zip(log_lines(tmp_path), log_lines(one), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
    assert json.loads((tmp_path / "env.json").read_text())["num_processes"] == 2


def _train_and_record(arguments: list[str], folder: Path, fault: Fault | None = None) -> None:
    """Train; save which images each step of this rank took, and what the network saw of them."""
    rank = os.environ.get("RANK", "0")
    indices, draw = BatchOrder.indices, trainer.draw_batch
    seen: dict[str, torch.Tensor] = {}

    def record_indices(self: BatchOrder, step: int, rows: range) -> torch.Tensor:
        seen[f"indices {step}"] = indices(self, step, rows)
        return seen[f"indices {step}"]

    def record_batch(*arguments: Any, step: int, **named: Any) -> Any:
        batch = draw(*arguments, step=step, **named)
        seen[f"x_t {step}"], seen[f"seeds {step}"] = batch.x_t, batch.dropout_seeds
        return batch

    BatchOrder.indices = record_indices  # type: ignore[method-assign]
    trainer.draw_batch = record_batch  # type: ignore[assignment]
    try:
        command("train", arguments, fault)
    finally:
        save_file(seen, folder / f"rank{rank}.safetensors")


@pytest.mark.parametrize(("num_processes", "batch_size"), [(2, 24), (3, 12)])
@pytest.mark.reliability("G14", "numbers of processes: every input identical")
def test_ranks_together_see_what_one_process_sees(
    tmp_path: Path, num_processes: int, batch_size: int
) -> None:
    changes: dict[str, object] = {"train.num_steps": 4, "train.batch_size": batch_size}
    for name in ("one", "all"):
        (tmp_path / name).mkdir()
    alone = train_arguments(tmp_path / "run of one", changes)
    together = train_arguments(tmp_path / "run of all", changes)
    assert_done([Child(_train_and_record, alone, tmp_path / "one").wait()])
    finished = run_ranks(_train_and_record, together, tmp_path / "all", num_processes=num_processes)
    assert_done(finished)
    expected = load_file(tmp_path / "one" / "rank0.safetensors")
    parts = [
        load_file(tmp_path / "all" / f"rank{rank}.safetensors") for rank in range(num_processes)
    ]
    assert len(expected) == 3 * 4
    for name, tensor in expected.items():
        assert {len(part[name]) for part in parts} == {batch_size // num_processes}
        assert torch.equal(torch.cat([part[name] for part in parts]), tensor), name


def test_killed_ranks_resume_to_the_same_bits(tmp_path: Path) -> None:
    assert_done(train_ranks(tmp_path / "whole"))
    path = tmp_path / "killed"
    fault = Fault("update", 6)
    killed = run_ranks(command, "train", train_arguments(path), fault)
    assert [done.exit_code for done in killed] == [-signal.SIGKILL] * 2
    again = train_ranks(path)
    assert_done(again)
    assert "going on at step 4:" in again[0].stdout
    assert result(path) == result(tmp_path / "whole")


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_memory_mapped_set_gives_the_same_batches_after_a_kill_in_mid_epoch(
    tmp_path: Path, own_cache: Path, num_processes: int
) -> None:
    images = write_images(tmp_path / "images", *(f"{index:02d}.png" for index in range(20)))
    changes: dict[str, object] = {
        "data.name": "folder",
        "data.path": images,
        "data.memory_map": True,
        "data.on_device": False,
        "data.random_flip": True,
        "model.in_chans": 3,
        "train.batch_size": 6,  # three and a third an epoch
    }
    in_memory = {**changes, "data.memory_map": False}
    _assert_same_batches_after_a_kill(tmp_path, changes, in_memory, num_processes)
    assert len(list(own_cache.rglob("*.map"))) == 1


@pytest.mark.parametrize("num_processes", [1, 2])
def test_latents_give_the_same_batches_after_a_kill_in_mid_epoch(
    tmp_path: Path, num_processes: int
) -> None:
    vae = write_autoencoder(tmp_path / "vae")
    encode(tmp_path / "latents", vae, "--held_out_images=1777", "--batch_size=20")  # 20 are left
    changes: dict[str, object] = {
        "data.name": "latents",
        "data.path": str(tmp_path / "latents"),
        "data.on_device": False,
        "model.in_chans": 2,
        "model.img_size": 4,
        "sample.clip_sample": False,
        "train.batch_size": 6,
    }
    _assert_same_batches_after_a_kill(tmp_path, changes, changes, num_processes)


def _assert_same_batches_after_a_kill(
    tmp_path: Path, changes: dict[str, object], whole: dict[str, object], num_processes: int
) -> None:
    """Train with one process and without a stop, then with several that are killed at step 5."""
    for name in ("alone", "parts"):
        (tmp_path / name).mkdir()
    arguments = train_arguments(tmp_path / "whole", whole)
    assert_done(run_ranks(_train_and_record, arguments, tmp_path / "alone", num_processes=1))
    resumed = train_arguments(tmp_path / "run", changes)
    for fault in (Fault("draw", 5), None):
        run = (resumed, tmp_path / "parts", fault)
        finished = run_ranks(_train_and_record, *run, num_processes=num_processes)
        code = 0 if fault is None else -signal.SIGKILL
        assert [done.exit_code for done in finished] == [code] * num_processes, finished
    expected = load_file(tmp_path / "alone" / "rank0.safetensors")
    parts = [load_file(tmp_path / "parts" / f"rank{r}.safetensors") for r in range(num_processes)]
    again = {name for part in parts for name in part}
    assert {int(name.split()[1]) for name in again} == set(range(4, 12))  # on from step 4
    for name in again:
        assert torch.equal(torch.cat([part[name] for part in parts]), expected[name]), name


def test_a_run_goes_on_with_another_number_of_processes_where_that_is_allowed(
    tmp_path: Path, one: Path
) -> None:
    path = tmp_path / "run"
    changes = {**SIXTY, "train.num_steps": 60}
    killed = run_ranks(command, "train", train_arguments(path, changes), Fault("draw", 45))
    assert [done.exit_code for done in killed] == [-signal.SIGKILL] * 2
    before = tree(path)
    refused = train(path, changes)
    assert refused.exit_code == EXIT_BAD_INPUT
    assert len(refused.stderr.splitlines()) == 1
    for words in ("was made by 2 processes, this launch has 1", "--allow_other_world_size"):
        assert words in refused.last_line
    assert tree(path) == before
    assert_done([train(path, changes, "--allow_other_world_size")])
    assert_same_weights(path, one)
    manifest = json.loads((step_folder(path, 60) / "manifest.json").read_text())
    assert manifest["num_processes"] == 1


def test_a_run_of_one_process_goes_on_with_two(tmp_path: Path, one: Path) -> None:
    path = tmp_path / "run"
    assert train(path, SIXTY, fault=Fault("draw", 45)).exit_code == -signal.SIGKILL
    refused = train_ranks(path, SIXTY)
    assert refused[0].exit_code == EXIT_BAD_INPUT
    assert "was made by 1 processes, this launch has 2" in refused[0].last_line
    assert_done(train_ranks(path, SIXTY, "--allow_other_world_size"))
    assert_same_weights(path, one)


# ---------------------------------------------------------------- refusals and other ends


@pytest.mark.skipif(torch.cuda.is_available(), reason="there they would find the GPU")
def test_processes_that_each_believe_to_be_alone_are_refused(
    tmp_path: Path, started: list[subprocess.Popen]
) -> None:
    process = start_torchrun(started, tmp_path / "run", {}, is_told=False)
    _, errors = process.communicate(timeout=200)
    assert process.returncode != 0
    ours = [line for line in errors.splitlines() if line.startswith("train.py: ")]
    assert len(ours) == 1, errors
    assert "2 processes were launched, but each believes to be one of 1" in ours[0]
    assert "ACCELERATE_USE_CPU=true" in ours[0]
    assert tree(tmp_path) == {}


def test_a_batch_that_cannot_be_shared_is_refused_by_all(tmp_path: Path) -> None:
    finished = train_ranks(tmp_path, {"train.batch_size": 9})
    assert [done.exit_code for done in finished] == [EXIT_BAD_INPUT] * 2
    assert "train.batch_size = 9 is not divisible by 2 processes" in finished[0].last_line
    assert len(finished[0].stderr.splitlines()) == 1
    assert finished[1].stderr == ""  # the same is not said twice
    assert tree(tmp_path) == {}


def _train_in_its_own_folder(path: Path) -> None:
    run = path / f"rank{os.environ['RANK']}"
    command("train", [*train_arguments(run), "--allow_other_world_size"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (None, "process 1 sees no checkpoint, process 0 step 4 ("),
        ({"train.keep_checkpoints": 3}, "process 1 sees step 4 ("),
        ({"seed": 1}, "process 1: "),
    ],
    ids=["none", "another of the same step", "one of another config"],
)
def test_processes_that_see_different_checkpoints_are_refused(
    tmp_path: Path, changes: dict[str, object] | None, words: str
) -> None:
    kill = Fault("draw", 6)
    assert train(tmp_path / "rank0", fault=kill).exit_code == -signal.SIGKILL
    if changes is not None:
        assert train(tmp_path / "rank1", changes, fault=kill).exit_code == -signal.SIGKILL
    before = tree(tmp_path)
    finished = run_ranks(_train_in_its_own_folder, tmp_path)
    assert [done.exit_code for done in finished] == [EXIT_BAD_INPUT] * 2, finished
    assert words in finished[0].last_line
    assert len(finished[0].stderr.splitlines()) == 1
    assert len(finished[0].last_line) <= 200
    if "sees" in words:
        assert "--workdir must be one folder that all machines share" in finished[0].last_line
    assert tree(tmp_path) == before


def _train_with_nan_on_one_rank(arguments: list[str], bad_step: int) -> None:
    draw = trainer.draw_batch

    def spoilt(*arguments: Any, step: int, **named: Any) -> Any:
        batch = draw(*arguments, step=step, **named)
        if step == bad_step and os.environ["RANK"] == "1":
            batch.target[0, 0, 0, 0] = float("nan")
        return batch

    trainer.draw_batch = spoilt  # type: ignore[assignment]
    command("train", arguments)


@pytest.mark.parametrize("bad_step", [0, 6])
@pytest.mark.reliability("G11", "NaN on one of two processes: all stop")
def test_a_non_finite_loss_on_one_rank_stops_all(tmp_path: Path, bad_step: int) -> None:
    finished = run_ranks(_train_with_nan_on_one_rank, train_arguments(tmp_path), bad_step)
    assert [done.exit_code for done in finished] == [EXIT_DIVERGED] * 2
    for done in finished:
        assert f"non-finite at step {bad_step}" in done.last_line
    assert (status(tmp_path)["state"], status(tmp_path)["step"]) == ("diverged", bad_step)
    for path in tmp_path.rglob("*.safetensors"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(path).values())
    assert step_folder(tmp_path, 4).exists() == (bad_step > 4)


def _train_with_signal_to_one_rank(arguments: list[str], fault: Fault) -> None:
    command("train", arguments, fault if os.environ["RANK"] == "1" else None)


def test_a_signal_to_one_rank_stops_all_at_the_same_step(tmp_path: Path) -> None:
    assert_done(train_ranks(tmp_path / "whole"))
    path = tmp_path / "stopped"
    fault = Fault("draw", 5, signal.SIGTERM)
    finished = run_ranks(_train_with_signal_to_one_rank, train_arguments(path), fault)
    assert [done.exit_code for done in finished] == [EXIT_STOPPED_EARLY] * 2
    found = status(path)
    assert found["state"] == "preempted"
    assert f"stopped by another process at step {found['step']}" in finished[0].last_line
    assert_done(train_ranks(path))
    assert result(path) == result(tmp_path / "whole")


def _train_as_on_gpus(arguments: list[str], fault: Fault) -> None:
    """Train as where reading a number makes the host wait; rank 1 gets the signal."""
    prepare = trainer.Trainer.__init__

    def prepare_as_on_gpus(self: Any, *arguments: Any, **named: Any) -> None:
        prepare(self, *arguments, **named)
        self.guard.skips_updates = True

    trainer.Trainer.__init__ = prepare_as_on_gpus  # type: ignore[method-assign]
    command("train", arguments, fault if os.environ["RANK"] == "1" else None)


def test_a_signal_is_answered_within_ten_steps_where_looking_costs_time(tmp_path: Path) -> None:
    changes = {"train.num_steps": 40, "train.log_every_steps": 100}
    arguments = train_arguments(tmp_path, {**changes, "train.checkpoint_every_steps": 100})
    finished = run_ranks(_train_as_on_gpus, arguments, Fault("draw", 12, signal.SIGTERM))
    assert [done.exit_code for done in finished] == [EXIT_STOPPED_EARLY] * 2, finished
    assert (status(tmp_path)["state"], status(tmp_path)["step"]) == ("preempted", 20)
    assert step_folder(tmp_path, 20).is_dir()


# ---------------------------------------------------------------- sampling and measuring


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained")
    assert_done([train(path)])
    return path


SAMPLING = ("--sampler=ddpm", "--num_steps=3", "--batch_size=4", "--seed=5")


@pytest.mark.parametrize("name", ["grid.png", "images.npz", "folder"])
def test_samples_are_the_same_files(tmp_path: Path, trained: Path, name: str) -> None:
    arguments = [f"--checkpoint={trained}", "--num_images=22", *SAMPLING]
    for folder in ("one", "all"):
        (tmp_path / folder).mkdir()
    assert_done(
        [Child(command, "sample", [*arguments, f"--output={tmp_path / 'one' / name}"]).wait()]
    )
    finished = run_ranks(command, "sample", [*arguments, f"--output={tmp_path / 'all' / name}"])
    assert_done(finished)
    assert finished[1].stdout == ""  # one voice
    found, expected = tree(tmp_path / "all"), tree(tmp_path / "one")
    assert len([file for file in expected if file.endswith((".png", ".npz"))]) == (
        22 if name == "folder" else 1
    )
    assert found == expected


def _eval_with_sums_for_maxima(arguments: list[str]) -> None:
    """Measure as with releases of Accelerate whose `reduce` always takes the sum."""
    reduce = Accelerator.reduce

    def add_up(self: Accelerator, tensor: Any, reduction: str = "sum", **named: Any) -> Any:
        return reduce(self, tensor, reduction if reduction == "mean" else "sum", **named)

    Accelerator.reduce = add_up
    command("eval_fid", arguments)


def test_metrics_do_not_lean_on_the_maximum_of_a_library(tmp_path: Path, trained: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    arguments = [f"--checkpoint={run}", "--num_images=70", *SAMPLING]
    assert_done(run_ranks(_eval_with_sums_for_maxima, arguments))


def _sample_nan_on_rank_1(script: str, arguments: list[str]) -> None:
    sample_block = ImageSampler._sample_block

    def spoilt(self: ImageSampler, indices: range) -> torch.Tensor:
        x_0 = sample_block(self, indices)
        return x_0 * torch.nan if os.environ["RANK"] == "1" else x_0

    ImageSampler._sample_block = spoilt  # type: ignore[method-assign]
    command(script, arguments)


@pytest.mark.parametrize("name", ["grid.png", "folder", "eval"])
def test_images_of_one_rank_that_are_not_finite_end_all(
    tmp_path: Path, trained: Path, name: str
) -> None:
    arguments = [f"--checkpoint={trained}", "--num_images=70", *SAMPLING]
    script = "eval_fid" if name == "eval" else "sample"
    output = [] if name == "eval" else [f"--output={tmp_path / name}"]
    finished = run_ranks(_sample_nan_on_rank_1, script, [*arguments, *output])
    assert [done.exit_code for done in finished] == [EXIT_DIVERGED] * 2, finished
    assert "process 1: ddpm in 3 steps ended in values that are not finite" in finished[0].last_line
    assert len(finished[0].last_line) <= 200
    assert not (trained / "eval.jsonl").exists()


def test_training_goes_on_where_samples_of_one_rank_are_not_finite(tmp_path: Path) -> None:
    changes = {"train.eval_every_steps": 12, "train.sample_every_steps": 6, "eval.num_images": 70}
    arguments = train_arguments(tmp_path, {**changes, "sample.batch_size": 16})
    assert_done(run_ranks(_sample_nan_on_rank_1, "train", arguments))
    rows = [row for row in log_lines(tmp_path) if "nonfinite_images" in row]
    assert rows == [{"step": 12, "nonfinite_images": 1}]  # the preview is the first rank's
    assert len(list(tmp_path.glob("samples/*.png"))) == 2


def test_metrics_are_the_same_numbers(trained: Path) -> None:
    arguments = [f"--checkpoint={trained}", "--num_images=70", *SAMPLING]
    alone = Child(command, "eval_fid", arguments).wait()
    together = run_ranks(command, "eval_fid", arguments)
    assert_done([alone, *together])
    expected = json.loads(alone.stdout.splitlines()[-1])
    found = json.loads(together[0].stdout.splitlines()[-1])
    assert together[1].stdout == ""
    assert expected.keys() == found.keys()
    assert expected["metric"] == "fd"
    for name, value in expected.items():
        if isinstance(value, float) and name != "seconds":
            assert found[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name
        elif name != "seconds":
            assert found[name] == value
    lines = (trained / "eval.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [expected, found]
    assert checkpoint_hashes(step_folder(trained, 12))["ema.safetensors"] == found["weights_sha256"]
