"""diffusers' UNet2DModel with shared units: stages in the order of the data, Eq. 4, and wrappers.

The unit gates the second convolution of each residual block, the last layer of its branch.
"""

import copy
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.pipelines.ddim.pipeline_ddim import DDIMPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.support.forked import Child, start_ranks
from uvit_dia import share_attention, stages_by_width

EXACT = {"rtol": 0.0, "atol": 1e-6}
LAST = [
    "down_blocks.*.resnets.*.conv2",
    "mid_block.resnets.*.conv2",
    "up_blocks.*.resnets.*.conv2",
]
WIDTHS = (8, 8, 16)
STAGES = {
    "stage1": [f"down_blocks.{i}.resnets.0.conv2" for i in (0, 1)],
    "stage2": [
        "down_blocks.2.resnets.0.conv2",
        *(f"mid_block.resnets.{i}.conv2" for i in (0, 1)),
        *(f"up_blocks.0.resnets.{i}.conv2" for i in (0, 1)),
    ],
    "stage3": [f"up_blocks.{i}.resnets.{j}.conv2" for i in (1, 2) for j in (0, 1)],
}


def plain_unet(**options: Any) -> Any:
    """A UNet of three levels, self-attention at the lowest, 8 x 8 grey images."""
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=WIDTHS,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
        **options,
    ).eval()


def inputs(batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noised images and their timesteps."""
    generator = torch.Generator().manual_seed(seed)
    x_t = torch.randn(batch, 1, 8, 8, generator=generator)
    return x_t, torch.randint(1000, (batch,), generator=generator)


def make(unit: str = "dia_lstm", *, unet: nn.Module | None = None, **options: Any) -> Any:
    """A UNet with units whose weights show."""
    unet = plain_unet() if unet is None else unet
    attention = share_attention(unet, stages_by_width(unet, LAST, inputs()), unit, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return unet


class GatedByHand(nn.Module):
    """A convolution and the unit behind it; `states` hands the state on from block to block."""

    def __init__(self, conv: nn.Module, unit: Any, index: int, states: list[Any]) -> None:
        super().__init__()
        self.conv, self.index, self.states = conv, index, states
        self.units = (unit,)  # no submodule: its weights keep their names

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv.forward(x)  # B C H W, past the hooks
        tokens = a.permute(0, 2, 3, 1).flatten(1, 2)
        (unit,) = self.units
        state = self.states.pop() if self.index else unit.initial_state(tokens)
        _, h, state = unit(tokens, state, self.index, tuple(a.shape[2:]))
        self.states.append(state)
        return a * h[:, :, None, None]


def by_hand(unet: nn.Module) -> nn.Module:
    """Return a copy whose convolutions pass the state by themselves, without hooks."""
    unet = copy.deepcopy(unet)
    attention: Any = unet.shared_attention
    for stage, names in STAGES.items():
        states: list[Any] = []
        for index, name in enumerate(names):
            parent, _, child = name.rpartition(".")
            gated = GatedByHand(unet.get_submodule(name), attention[stage].unit, index, states)
            setattr(unet.get_submodule(parent), child, gated)
    return unet


def loss_gradients(unet: nn.Module) -> dict[str, Tensor]:
    unet.zero_grad()
    unet(*inputs()).sample.square().mean().backward()
    return {name: p.grad.clone() for name, p in unet.named_parameters() if p.grad is not None}


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


# ---------------------------------------------------------------- stages


def test_stages_follow_the_data_not_the_order_of_registration() -> None:
    unet = plain_unet()
    assert stages_by_width(unet, LAST[::-1], inputs()) == STAGES
    registered = [name for name, _ in unet.named_modules()]
    assert registered.index("mid_block") > registered.index("up_blocks")  # hence the function
    assert [s.channels for s in make().shared_attention.stages()] == [8, 16, 8]


def test_every_residual_block_is_gated() -> None:
    unet = plain_unet()
    blocks = [n for n, module in unet.named_modules() if isinstance(module, ResnetBlock2D)]
    gated = [name for names in stages_by_width(unet, LAST, inputs()).values() for name in names]
    assert sorted(gated) == sorted(f"{name}.conv2" for name in blocks)


def test_one_pattern_and_maps_with_channels_last_have_stages_too() -> None:
    net = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 5))
    x = torch.randn(2, 4, 7, 5)
    stages = {"stage1": ["0", "1"], "stage2": ["2"]}
    assert stages_by_width(net, "*", x, channels_last=True) == stages
    assert stages_by_width(net, "*", x) == {"stage1": ["0", "1", "2"]}  # four rows each


def test_modes_and_weights_stay_as_they_are() -> None:
    unet = plain_unet()
    unet.mid_block.train()
    before = copy.deepcopy(unet.state_dict())
    stages_by_width(unet, LAST, inputs())
    assert unet.mid_block.training
    assert not unet.training
    assert not any(module._forward_hooks for module in unet.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in unet.state_dict().items())


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("up_blocks.*.conv2", r"'up_blocks\.\*\.conv2' of stage 'stage' matches no module"),
        ([*LAST, LAST[0]], r"down_blocks\.0\.resnets\.0\.conv2 is matched 2 times"),
        ("mid_block.resnets.*.nonlinearity", r"resnets\.0\.nonlinearity ran 3 times for example"),
        ("down_blocks.*", r"down_blocks\.0 returns no tensor \(B, C, H, W\) or \(B, L, C\)"),
        ("down_blocks", "down_blocks ran 0 times for example_input, not once"),
    ],
)
def test_targets_that_do_not_fit_are_told_in_one_line(targets: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        stages_by_width(plain_unet(), targets, inputs())
    assert "\n" not in str(raised.value)


# ---------------------------------------------------------------- what is computed


@pytest.mark.parametrize("unit", ["dia_lstm", "dia_lstm_light", "se"])
def test_outputs_and_gradients_are_those_of_a_state_passed_by_hand(unit: str) -> None:
    unet = make(unit)
    reference = by_hand(unet)
    torch.testing.assert_close(unet(*inputs()).sample, reference(*inputs()).sample, **EXACT)
    found = loss_gradients(unet)
    expected = loss_gradients(reference)
    expected = {name.replace("conv2.conv.", "conv2."): g for name, g in expected.items()}
    assert any(name.startswith("shared_attention") for name in found)
    assert_same_gradients(found, expected)


def test_without_a_unit_and_at_the_identity_it_is_diffusers_unet() -> None:
    unet = plain_unet()
    expected = unet(*inputs()).sample
    keys = list(unet.state_dict())
    share_attention(unet, stages_by_width(unet, LAST, inputs()), gate_init="identity")
    assert torch.equal(unet(*inputs()).sample, expected)
    assert [name for name in unet.state_dict() if not name.startswith("shared_")] == keys


def test_added_weights_are_those_of_the_formula() -> None:
    unet = plain_unet()
    attention = share_attention(unet, stages_by_width(unet, LAST, inputs()), reduction=4)
    assert attention.num_weights() == sum(10 * width**2 // 4 for width in (8, 16, 8))


# ---------------------------------------------------------------- what survives


def test_weights_go_through_diffusers_own_files(tmp_path: Path) -> None:
    unet = make()
    unet.save_pretrained(tmp_path)
    config = UNet2DModel.load_config(tmp_path)
    again: Any = UNet2DModel.from_config(config).eval()
    share_attention(again, stages_by_width(again, LAST, inputs()))
    again.load_state_dict(load_file(tmp_path / "diffusion_pytorch_model.safetensors"))
    assert torch.equal(again(*inputs()).sample, unet(*inputs()).sample)


def test_diffusers_pipeline_samples_with_the_unit() -> None:
    def sample(unet: nn.Module) -> Any:
        pipeline = DDIMPipeline(unet=unet, scheduler=DDIMScheduler())
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        return pipeline(2, generator, num_inference_steps=3, output_type="np").images

    unet = make()
    images = sample(unet)
    assert images.shape == (2, 8, 8, 1)
    assert (images == sample(by_hand(unet))).all()
    assert (images != sample(plain_unet())).any()


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    unet = make(checkpointing=True).train()
    expected = loss_gradients(unet)
    unet.enable_gradient_checkpointing()
    assert_same_gradients(loss_gradients(unet), expected)


def test_gradient_checkpointing_without_its_option_is_told() -> None:
    unet = make().train()
    unet.enable_gradient_checkpointing()
    with pytest.raises(RuntimeError, match=r"checkpointing=True\) keeps it"):
        loss_gradients(unet)


def test_copies_and_exports_give_its_outputs() -> None:
    unet, x = make(), inputs(3)
    expected = unet(*x).sample
    assert torch.equal(copy.deepcopy(unet)(*x).sample, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, on state that it sees a hook set and drop
        program = torch.export.export(unet, x, strict=False)
    torch.testing.assert_close(program.module()(*x).sample, expected, **EXACT)


@pytest.mark.slow
def test_a_compiled_unet_gives_its_outputs_and_gradients() -> None:
    torch.compiler.reset()
    unet, x = make(), inputs()
    expected, expected_gradients = unet(*x).sample, loss_gradients(unet)
    compiled: Any = torch.compile(unet, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*x).sample, expected, rtol=1e-4, atol=1e-5)
    found = loss_gradients(compiled)
    assert_same_gradients(
        {name.removeprefix("_orig_mod."): g for name, g in found.items()}, expected_gradients
    )


def train_as_rank(folder: str) -> None:
    """Take two steps on this rank's share of the images; save the weights."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    unet = make().train()
    wrapped = unet
    if world > 1:
        torch.distributed.init_process_group("gloo")
        wrapped = nn.parallel.DistributedDataParallel(unet)
    optimizer = torch.optim.SGD(unet.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        share = [each.chunk(world)[rank] for each in inputs(4, seed=step)]
        wrapped(*share).sample.square().mean().backward()
        optimizer.step()
    save_file(unet.state_dict(), Path(folder) / f"{world}-{rank}.safetensors")
    if world > 1:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_train_the_weights_of_one(tmp_path: Path) -> None:
    children = start_ranks(2, train_as_rank, str(tmp_path))
    finished = [Child(train_as_rank, str(tmp_path)).wait(), *(c.wait() for c in children)]
    assert [done.exit_code for done in finished] == [0, 0, 0], finished
    one = load_file(tmp_path / "1-0.safetensors")
    assert any(not torch.equal(one[name], x) for name, x in make().state_dict().items())
    for rank in (0, 1):
        for name, tensor in load_file(tmp_path / f"2-{rank}.safetensors").items():
            torch.testing.assert_close(tensor, one[name], rtol=1e-4, atol=1e-5, msg=name)
