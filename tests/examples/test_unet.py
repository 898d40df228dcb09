"""diffusers' UNet2DModel with shared units: places, equations, weights, wrappers, training."""

import copy
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from examples import unet
from examples.unet import SIZES, make_unet, noised, unet_targets
from tests.support.forked import start_ranks
from uvit_dia import share_attention

SMALL = ["--num_train", "64", "--batch_size", "16", "--num_epochs", "2"]
NEAR = {"rtol": 1e-4, "atol": 1e-5}


def small(unit: str | None = "dia_lstm", *, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    model = make_unet("small", 1, 8)
    if unit:
        share_attention(model, unet_targets(model), unit, **options)
    return model


def inputs(batch: int = 3) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(batch, 1, 8, 8, generator=draw), torch.arange(batch) * 300


def answer(model: nn.Module, batch: int = 3) -> Tensor:
    return model(*inputs(batch)).sample


def test_stages_are_blocks_of_one_width_in_the_order_of_the_data() -> None:
    model = small(None)
    targets = unet_targets(model)
    assert {name: len(places) for name, places in targets.items()} == {
        "down0": 2,
        "deepest": 2 + 2 + 3,
        "up1": 3,
    }
    assert targets["deepest"][2] == "mid_block.resnets.0.conv2"
    # share_attention looks at the order itself, and refuses another one
    share_attention(copy.deepcopy(model), targets, example_input=inputs())
    late = {"all": ["down_blocks.1.*.*.conv2", "up_blocks.0.*.*.conv2", "mid_block.*.*.conv2"]}
    with pytest.raises(ValueError, match="another order"):
        share_attention(model, late, example_input=inputs())


def test_ddpm_is_the_published_size_and_gets_a_unit_a_stage() -> None:
    """Appendix B of arXiv:2006.11239: 35.7 million weights; 10 N^2 / r of each unit with r = 4."""
    model = make_unet("ddpm", 3, 32)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 35.7
    targets = unet_targets(model)
    attention = share_attention(model, targets, "dia_lstm", reduction=4)
    widths = {"down0": 128, "down1": 256, "down2": 256, "deepest": 256, "up1": 256, "up2": 256}
    widths["up3"] = 128
    assert {name: attention[name].channels for name in attention} == widths
    assert attention.num_weights() == sum(10 * n**2 // 4 for n in widths.values())


@pytest.mark.parametrize("unit", ["dia_lstm", "dia_lstm_light", "se"])
def test_a_unit_that_is_the_identity_changes_nothing(unit: str) -> None:
    reference = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, **SIZES["small"])
    model = small(None)
    reference.load_state_dict(model.state_dict())
    expected = answer(reference.eval())
    assert torch.equal(answer(model.eval()), expected)
    share_attention(model, unet_targets(model), unit, gate_init="identity")
    assert torch.equal(answer(model), expected)


def test_branches_are_gated_by_a_state_that_is_passed_by_hand() -> None:
    model = small("dia_lstm").eval()
    plain = small(None).eval()
    plain.load_state_dict(
        {n: v for n, v in model.state_dict().items() if not n.startswith("shared_attention")}
    )
    states: dict[str, Any] = {}

    def gate(stage: str, index: int, _module: nn.Module, _inputs: object, a: Tensor) -> Tensor:
        unit, tokens = model.shared_attention[stage].unit, a.flatten(2).transpose(1, 2)  # B L C
        state = states[stage] if index else unit.initial_state(tokens)
        _, h, states[stage] = unit(tokens, state, index, tuple(a.shape[2:]))
        return a * h[:, :, None, None]  # Eq. 4

    for stage, names in unet_targets(plain).items():
        for index, name in enumerate(names):
            plain.get_submodule(name).register_forward_hook(partial(gate, stage, index))
    torch.testing.assert_close(answer(plain), answer(model), **NEAR)


def test_weights_are_saved_and_loaded(tmp_path: Path) -> None:
    model = small().eval()
    save_file(model.state_dict(), tmp_path / "unet.safetensors")
    again = small(seed=1).eval()
    assert not torch.equal(answer(again), answer(model))
    again.load_state_dict(load_file(tmp_path / "unet.safetensors"))
    assert torch.equal(answer(again), answer(model))


def test_a_program_is_exported() -> None:
    model = small().eval()
    program = torch.export.export(model, inputs())
    torch.testing.assert_close(program.module()(*inputs()).sample, answer(model), **NEAR)


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    def gradients(model: nn.Module) -> dict[str, Tensor]:
        answer(model).square().mean().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    model = small(checkpointing=True)
    kept = copy.deepcopy(model)
    model.enable_gradient_checkpointing()
    expected, found = gradients(kept), gradients(model)
    assert found.keys() == expected.keys() == dict(model.named_parameters()).keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, **NEAR)


@pytest.mark.slow
def test_a_unet_is_compiled_whole() -> None:
    model = small()
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(answer(compiled), answer(model), **NEAR)
    answer(compiled).square().mean().backward()
    answer(model).square().mean().backward()
    for (name, one), other in zip(model.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-5, msg=name)


def gradients_as_rank(folder: str) -> None:
    """Save the gradients of this rank's half of the images, averaged over the ranks."""
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    rank = int(os.environ["RANK"])
    distributed.init_process_group("gloo")
    wrapped = DistributedDataParallel(small())
    x, timesteps = (part.chunk(2)[rank] for part in inputs(4))
    wrapped(x, timesteps).sample.square().mean().backward()
    found = {name: p.grad for name, p in wrapped.module.named_parameters()}
    save_file(found, Path(folder) / f"{rank}.safetensors")
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    finished = [child.wait() for child in start_ranks(2, gradients_as_rank, str(tmp_path))]
    assert [done.exit_code for done in finished] == [0, 0], finished
    one = small()
    answer(one, 4).square().mean().backward()
    for rank in (0, 1):
        found = load_file(tmp_path / f"{rank}.safetensors")
        assert found.keys() == dict(one.named_parameters()).keys()
        for name, parameter in one.named_parameters():
            torch.testing.assert_close(found[name], parameter.grad, **NEAR, msg=name)


# ---------------------------------------------------------------- training


def record_of(folder: Path) -> dict:
    return json.loads((folder / "record.json").read_text())


def test_noise_is_that_of_the_process_and_belongs_to_positions() -> None:
    """Eq. 4 of arXiv:2006.11239, with alpha-bar of its linear schedule in float64."""
    images = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    cpu = torch.device("cpu")
    whole = noised(images, 3, 7, range(6), 6, cpu)
    alpha_bar = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(dim=0)
    alpha = alpha_bar[whole.timesteps][:, None, None, None]
    expected = alpha.sqrt() * (images / 127.5 - 1) + (1 - alpha).sqrt() * whole.target
    torch.testing.assert_close(whole.x_t.double(), expected, rtol=0, atol=1e-5)
    part = noised(images[2:4], 3, 7, range(2, 4), 6, cpu)
    assert torch.equal(part.x_t, whole.x_t[2:4])
    assert torch.equal(part.timesteps, whole.timesteps[2:4])


def test_a_run_learns_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--unit", "dia_lstm", *SMALL[:-1], "3", "--learning_rate", "2e-3"]
    words += ["--eval_every_epochs", "3"]
    unet.main(["--workdir", str(tmp_path / "whole"), *words])
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["train_loss"] for line in lines]
    assert losses[-1] < 0.8 * losses[0]

    class Killed(unet.Denoising):
        def batches(self, epoch: int, accelerator: Accelerator) -> Iterator[unet.NoisedImages]:
            if epoch == 1:
                raise KeyboardInterrupt
            return super().batches(epoch, accelerator)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(unet, "Denoising", Killed)
        unet.main(["--workdir", str(tmp_path / "cut"), *words])
    unet.main(["--workdir", str(tmp_path / "cut"), *words])
    whole, cut = (record_of(tmp_path / name) for name in ("whole", "cut"))
    assert {**whole, "seconds": 0} == {**cut, "seconds": 0}
    assert whole["unit_weights"] == 10 * (2 * 32**2 + 64**2) // 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "ddpm"], "--size ddpm: images of 8 pixels cannot be halved 3x"),
        (["--batch_size", "0"], "--batch_size 0: allowed is 1 or more"),
        (["--learning_rate", "-1"], "--learning_rate -1.0: allowed is 0 or more"),
        (["--option", "reduction=2"], "--option and --unshared are of a unit; give --unit"),
        (["--unit", "se", "--option", "cells=2"], "--unit se: there is no option 'cells'"),
        (["--unit", "se", "--option", "reduction"], "--option reduction: must be KEY=VALUE"),
    ],
)
def test_wrong_flags(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        unet.main(["--workdir", str(tmp_path / "run"), *SMALL, *words])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("unet: ")
    assert said in error
    assert error.count("\n") == 1
