"""On a CUDA device: what a CPU promises holds, and the host does not wait for the device."""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.runs import (
    ROOT,
    checkpoint_hashes,
    step_folder,
    tiny_config,
    tiny_trainer,
    train_arguments,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CHANGES: dict[str, object] = {"train.num_steps": 12, "train.checkpoint_every_steps": 4}
UNITS = ["none", "dia_lstm", "dia_lstm_light", "se", "srm"]


def losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("unit", UNITS)
def test_a_resumed_run_has_the_bits_of_one_that_was_not_stopped(tmp_path: Path, unit: str) -> None:
    changes = {**CHANGES, "model.attention": unit, "optimizer.lr_schedule": "constant"}
    changes |= {"model.attention_options.gate_init": "paper"}
    tiny_trainer(tmp_path / "whole", changes).fit()
    tiny_trainer(tmp_path / "parts", {**changes, "train.num_steps": 8}).fit()
    trainer = tiny_trainer(tmp_path / "parts", changes)
    trainer.resume()
    trainer.fit()
    whole, parts = (
        checkpoint_hashes(step_folder(tmp_path / name, 12)) for name in ("whole", "parts")
    )
    assert whole == parts


def test_losses_are_those_of_the_cpu(tmp_path: Path) -> None:
    """The noise is drawn on the device, by another generator: alike on average, not in its bits."""
    changes = {**CHANGES, "train.log_every_steps": 1, "train.num_steps": 40}
    tiny_trainer(tmp_path, changes).fit()
    found = losses(tmp_path)
    assert len(found) == 40 and 0.3 < sum(found[-10:]) / 10 < 1.1 and found[-1] < found[0]


@pytest.mark.parametrize("unit", UNITS)
def test_the_network_is_that_of_the_cpu(unit: str) -> None:
    from uvit_dia.models.build import make_model

    changes = {"model.attention": unit, "model.attention_options.gate_init": "paper"}
    model = make_model(tiny_config(changes)).eval()
    x_t, timesteps = torch.randn(8, 1, 8, 8), torch.arange(8) * 100
    expected = model(x_t, timesteps)
    found = model.cuda()(x_t.cuda(), timesteps.cuda()).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_held_out_loss_is_that_of_the_cpu() -> None:
    """Its noise is drawn on the host: the same on any device."""
    from accelerate import Accelerator

    from uvit_dia.evaluation.held_out_loss import make_held_out_loss
    from uvit_dia.models.build import make_model

    config = tiny_config({"data.held_out_images": 50})
    model, loss = make_model(config).eval(), make_held_out_loss(config)
    accelerator = Accelerator()
    on_gpu = loss.measure(model.to(accelerator.device), accelerator)

    class OnCPU:
        process_index, num_processes, is_main_process = 0, 1, True
        device = torch.device("cpu")

    on_cpu = loss.measure(model.cpu(), OnCPU())  # type: ignore[arg-type]
    assert on_gpu["held_out_loss"] == pytest.approx(on_cpu["held_out_loss"], rel=1e-4)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_host_waits_for_the_device_at_log_steps_only(
    tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch reports each synchronising call; the steps between log lines must have none."""
    from uvit_dia.training import trainer as module

    changes = {
        **CHANGES,
        "train.mixed_precision": precision,
        "train.log_every_steps": 12,
        "train.checkpoint_every_steps": 12,
        "train.sample_every_steps": 0,
    }
    trainer = tiny_trainer(tmp_path, changes)
    draw, seen = module.draw_batch, []

    def watch(*arguments: object, step: int, **named: object) -> object:
        # from the draws of step 3 to those of step 10: no log line lies between them
        torch.cuda.set_sync_debug_mode("error" if 3 <= step < 10 else "default")
        seen.append(step)
        return draw(*arguments, step=step, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "draw_batch", watch)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.fit()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert set(range(12)) <= set(seen)


def test_commands_run_there(tmp_path: Path) -> None:
    """In fresh processes: a fork of one that has used the device cannot use it."""
    run, images = tmp_path / "run", tmp_path / "images"
    arguments = train_arguments(run, {**CHANGES, "train.sample_every_steps": 12})
    small = ["--num_images=64", "--num_steps=4", "--allow_few_images"]
    commands = [
        ["train.py", *arguments],
        ["sample.py", f"--checkpoint={run}", "--num_images=8", f"--output={images}"],
        ["eval_fid.py", f"--checkpoint={run}", *small],
    ]
    for script, *flags in commands:
        done = subprocess.run(
            [sys.executable, ROOT / script, *flags], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert json.loads((run / "env.json").read_text())["device"].startswith("cuda")
    assert len(list(images.glob("*.png"))) == 8
    assert json.loads(done.stdout)["fd"] > 0
