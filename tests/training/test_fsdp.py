"""FSDP2 beside DDP and one process: the same losses, and checkpoints that each of them resumes.

Accelerate shards on accelerators only. Here, on CPUs, the tests tell it that it does; everything
after that is the real thing: torch's `fully_shard`, its collectives over gloo, and our trainer.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.forked import Child, Finished, start_ranks
from tests.support.runs import command, log_lines, status, step_folder, train, train_arguments
from uvit_dia.system.errors import EXIT_BAD_INPUT

pytestmark = pytest.mark.multiprocess

CHANGES: dict[str, object] = {
    "train.num_steps": 12,
    "train.checkpoint_every_steps": 6,
    "train.sample_every_steps": 12,
    "train.log_every_steps": 1,
    "model.attention_options.num_cells": 2,  # with dropout
    "data.random_flip": True,
    "optimizer.lr_schedule": "constant",  # then a run may be lengthened
}


def _train_sharded(arguments: list[str], version: int = 2) -> None:
    from accelerate import Accelerator
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    initialise = Accelerator.__init__

    def sharded(self: Accelerator, *args: Any, **named: Any) -> None:
        initialise(self, *args, **named)
        self.state.distributed_type = DistributedType.FSDP
        self.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=version,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=["Block"],
            cpu_ram_efficient_loading=False,
        )

    Accelerator.__init__ = sharded  # type: ignore[method-assign]
    command("train", arguments)


def _train_plainly(arguments: list[str]) -> None:
    command("train", arguments)


def run_two(function: Any, path: Path, changes: dict[str, object] | None = None) -> list[Finished]:
    flags = ["--allow_other_world_size"]
    arguments = [*train_arguments(path, {**CHANGES, **(changes or {})}), *flags]
    finished = [child.wait() for child in start_ranks(2, function, arguments)]
    assert [done.exit_code for done in finished] == [0, 0], finished[0].stderr
    return finished


def losses(path: Path) -> list[float]:
    return [line["loss"] for line in log_lines(path)]


def assert_same_weights(found: Path, expected: Path, step: int) -> None:
    for name in ("model", "ema"):
        file = f"{name}.safetensors"
        ours, theirs = (load_file(step_folder(run, step) / file) for run in (found, expected))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of two processes by DDP."""
    path = tmp_path_factory.mktemp("ddp")
    run_two(_train_plainly, path)
    return path


def test_fsdp_has_the_losses_of_ddp(tmp_path: Path, plain: Path) -> None:
    run_two(_train_sharded, tmp_path)
    assert losses(tmp_path) == pytest.approx(losses(plain), rel=1e-5)
    for ours, theirs in zip(log_lines(tmp_path), log_lines(plain), strict=True):
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
        assert ours["update_ratio"] == pytest.approx(theirs["update_ratio"], rel=1e-4)
    assert_same_weights(tmp_path, plain, 12)
    grids = [run / "samples" / "step_00000012.png" for run in (tmp_path, plain)]
    assert grids[0].read_bytes() == grids[1].read_bytes()


def test_fsdp_of_version_1_is_refused(tmp_path: Path) -> None:
    arguments = train_arguments(tmp_path, CHANGES)
    finished = [child.wait() for child in start_ranks(2, _train_sharded, arguments, 1)]
    assert [done.exit_code for done in finished] == [EXIT_BAD_INPUT] * 2, finished
    assert "FSDP" in finished[0].last_line
    assert "--fsdp_version 2" in finished[0].last_line
    assert [len(done.stderr.splitlines()) for done in finished] == [1, 0]


@pytest.mark.parametrize("kind", ["DEEPSPEED", "MEGATRON_LM"])
def test_other_ways_to_distribute_are_refused(tmp_path: Path, kind: str) -> None:
    environment = {f"ACCELERATE_USE_{kind}": "true"}
    done = Child(command, "train", train_arguments(tmp_path), environment=environment).wait()
    assert done.exit_code == EXIT_BAD_INPUT, done.stderr
    assert kind in done.last_line
    assert "--fsdp_version 2" in done.last_line
    assert len(done.stderr.splitlines()) == 1


def test_parameters_are_sharded(tmp_path: Path) -> None:
    """The test above would pass without sharding; so look at what each process holds."""
    for child in start_ranks(2, _hold_a_share, train_arguments(tmp_path, CHANGES)):
        done = child.wait()
        assert done.exit_code == 0, done.stderr
        assert "sharded: True" in done.stdout


def _hold_a_share(arguments: list[str]) -> None:
    from torch.distributed.tensor import DTensor

    from uvit_dia.training.trainer import Trainer

    fit = Trainer.fit

    def look(self: Trainer) -> None:
        fit(self)
        parameters = [*self.model.parameters(), *self.ema.model.parameters()]
        whole = sum(p.numel() for p in parameters)
        held = sum(p.to_local().numel() for p in parameters if isinstance(p, DTensor))
        print(f"sharded: {0 < held < 0.7 * whole}", flush=True)

    Trainer.fit = look  # type: ignore[method-assign]
    _train_sharded(arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("sharded", "sharded"),
        ("sharded", "ddp"),
        ("sharded", "one"),
        ("ddp", "sharded"),
        ("one", "sharded"),
    ],
)
def test_each_goes_on_with_the_others_checkpoints(
    tmp_path: Path, plain: Path, first: str, second: str
) -> None:
    for kind, num_steps in ((first, 6), (second, 12)):
        changes: dict[str, object] = {"train.num_steps": num_steps}
        if kind == "one":
            done = train(tmp_path, {**CHANGES, **changes}, "--allow_other_world_size")
            assert done.exit_code == 0, done.stderr
        else:
            function = _train_sharded if kind == "sharded" else _train_plainly
            finished = run_two(function, tmp_path, changes)
            done = finished[0]
        assert f"{'starting' if num_steps == 6 else 'going on at step 6'}:" in done.stdout
    assert status(tmp_path)["state"] == "done"
    assert losses(tmp_path) == pytest.approx(losses(plain), rel=1e-5)
    assert_same_weights(tmp_path, plain, 12)
