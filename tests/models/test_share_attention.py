"""`share_attention` against a state passed by hand, the paper's counts, and what models meet."""

import contextlib
import copy
import io
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import uvit_dia
from examples.quick_comparison import read_input
from examples.resnet import (
    Bottleneck,
    PreActBottleneck,
    ResNet,
    WideBlock,
    preact_resnet164,
    resnet164,
    wrn52_4,
)
from tests.support.forked import Child, start_ranks
from uvit_dia.models.other_backbones.share_attention import share_attention
from uvit_dia.models.units.channel import eca_kernel_size
from uvit_dia.models.units.registry import ATTENTION_NAMES

ROOT = Path(__file__).resolve().parents[2]
NORMS = "blocks.*.norm2"
WIDTH = 8
EXACT = {"rtol": 0.0, "atol": 1e-6}


class Block(nn.Module):
    """`x + MLP(Norm2(x))`, the half of a transformer block that the unit is put into."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm2(x))


class TokenNet(nn.Module):
    """Blocks on tokens (B, L, D); before a block `fail_at` raises `error`, `stop_at` returns."""

    error: type[BaseException] = ArithmeticError

    def __init__(self, num_blocks: int = 4, *, use_reentrant: bool | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(num_blocks))
        self.use_reentrant = use_reentrant  # None: no gradient checkpointing
        self.fail_at, self.stop_at = -1, -1

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.blocks):
            if index == self.fail_at:
                raise self.error
            if index == self.stop_at:
                return x
            if self.use_reentrant is None:
                x = block(x)
            else:
                x = checkpoint(block, x, use_reentrant=self.use_reentrant)
        return x


class Parts(nn.Module):
    """A TokenNet of four blocks whose halves can be called one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(Block(), Block())
        self.b = nn.Sequential(Block(), Block())

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))

    def blocks(self) -> TokenNet:
        net = TokenNet()
        net.blocks = nn.ModuleList([*self.a, *self.b])
        return net


class Ordered(TokenNet):
    """Runs its blocks as `order` says, the first of them without gradients where that is asked."""

    order: tuple[int, ...] = ()
    is_first_frozen = False

    def forward(self, x: Tensor) -> Tensor:
        for place, index in enumerate(self.order):
            with torch.set_grad_enabled(place > 0 or not self.is_first_frozen):
                x = self.blocks[index](x)
        return x


class ConvBlock(nn.Module):
    """`x + Norm(Conv(x))` on feature maps of 3 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.back = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.back(self.norm(self.conv(x)))


def by_hand(model: nn.Module, attention: nn.Module, x: Tensor) -> Tensor:
    """Run a TokenNet, passing the state explicitly (Fig. 7)."""
    unit: Any = attention["stage"].unit
    state = None
    for index, block in enumerate(model.blocks):
        own = unit[index] if isinstance(unit, nn.ModuleList) else unit
        state = own.initial_state(x) if state is None else state
        gated, _, state = own(block.norm2.forward(x), state, index)  # no hooks
        x = x + block.mlp(gated)
    return x


def small_resnet(block: Any = Bottleneck, blocks_per_stage: int = 3) -> ResNet:
    torch.manual_seed(0)
    return ResNet(block, blocks_per_stage, widths=(16, 32, 64))


def branch(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a block's residual branch gives, normalised but ungated, and its shortcut."""
    if isinstance(block, Bottleneck):
        y = F.relu(block.bn1(block.conv1(x)))
        y = block.conv3(F.relu(block.bn2(block.conv2(y))))
        return block.bn3.forward(y), block.shortcut(x)  # `forward` goes past the hooks
    y = block.conv2(F.relu(block.bn2(block.conv1(F.relu(block.bn1(x))))))
    if isinstance(block, PreActBottleneck):
        return block.bn4.forward(block.conv3(F.relu(block.bn3(y)))), block.shortcut(x)
    shortcut = block.shortcut(F.relu(block.bn1(x))) if block.changes_width else x
    return block.bn3.forward(y), shortcut


def resnet_by_hand(model: ResNet, attention: nn.Module, x: Tensor) -> Tensor:
    """Run a ResNet, passing the state by hand: `x + a ⊗ h` with GAP over positions (Eq. 4)."""
    x = model.stem_norm(model.stem(x))
    for name in model.targets:
        unit: Any = attention[name].unit
        state = None
        for index, block in enumerate(getattr(model, name)):
            a, shortcut = branch(block, x)  # B C H W
            tokens = a.permute(0, 2, 3, 1).flatten(1, 2)
            state = unit.initial_state(tokens) if state is None else state
            _, h, state = unit(tokens, state, index, tuple(a.shape[2:]))
            x = shortcut + a * h[:, :, None, None]
            x = F.relu(x) if isinstance(block, Bottleneck) else x
    return model.head(model.norm(x).mean(dim=(2, 3)))


def randomise(module: nn.Module) -> None:
    """Give every parameter a value that shows, biases too."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))


def make(
    targets: Any = NORMS, unit: str = "dia_lstm", *, model: nn.Module | None = None, **options: Any
) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = TokenNet() if model is None else model
    attention = share_attention(model, targets, unit, **options)
    randomise(attention)
    return model, attention


def tokens(batch: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(batch, 5, WIDTH, generator=torch.Generator().manual_seed(seed))


def images(batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, 8, 12, generator=torch.Generator().manual_seed(seed))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


# ---------------------------------------------------------------- what is computed


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("unit", ["lstm", "dia_lstm", "dia_lstm_light", "se", "srm"])
def test_tokens_agree_with_a_state_that_is_passed_by_hand(unit: str, shared: bool) -> None:
    model, attention = make(unit=unit, shared=shared)
    model.eval()
    torch.testing.assert_close(model(tokens()), by_hand(model, attention, tokens()), **EXACT)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("block", [Bottleneck, PreActBottleneck, WideBlock])
@pytest.mark.parametrize("unit", ["dia_lstm", "cbam"])
def test_feature_maps_agree_with_eq_4(
    unit: str, block: type, memory_format: torch.memory_format
) -> None:
    resnet = small_resnet(block)
    model, attention = make(resnet.targets, unit, model=resnet)
    model.eval()
    x = images().to(memory_format=memory_format)
    if unit == "dia_lstm":
        torch.testing.assert_close(
            model(x), resnet_by_hand(model, attention, x), rtol=1e-4, atol=1e-5
        )
    assert model(x).shape == (2, 10)  # cbam sees that 8 x 12 is no square
    seen: list[Tensor] = []
    last = getattr(model.stage1[0], block.last_norm)
    last.register_forward_hook(lambda module, inputs, y: seen.append(y))
    model(x)
    assert seen[0].is_contiguous(memory_format=memory_format)


def test_gradients_agree_too() -> None:
    model, attention = make()
    model(tokens()).square().sum().backward()
    found = gradients(model)
    model.zero_grad()
    by_hand(model, attention, tokens()).square().sum().backward()
    expected = gradients(model)
    assert found.keys() == expected.keys() == dict(model.named_parameters()).keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-5)


def test_feature_maps_with_channels_last_are_the_same_numbers() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Block() for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    x = torch.randn(2, 3, 4, WIDTH)
    mapped, _ = make(model=Net(), channels_last=True)
    flat, _ = make(model=Net())
    flat.load_state_dict(mapped.state_dict())
    torch.testing.assert_close(mapped(x).flatten(1, 2), flat(x.flatten(1, 2)), **EXACT)


def test_only_patches_are_pooled_where_that_is_asked() -> None:
    model, attention = make(pool="patches", num_extra_tokens=2)
    torch.testing.assert_close(model(tokens()), by_hand(model, attention, tokens()), **EXACT)
    other = tokens()
    other[:, :2] += 1  # the extra tokens don't reach the patches
    assert torch.equal(model(other)[:, 2:], model(tokens())[:, 2:])


def test_an_identity_start_changes_nothing() -> None:
    model = TokenNet()
    before = model(tokens())
    share_attention(model, NORMS, gate_init="identity")
    torch.testing.assert_close(model(tokens()), before, rtol=0, atol=0)


def test_linear_layers_start_as_torch_draws_them_or_as_in_u_vit() -> None:
    """On classifiers the units' authors leave torch's start: uniform within 1 / sqrt(fan_in)."""
    layers = []
    for options in ({}, {"linear_init": "torch"}, {"linear_init": "u_vit"}):
        attention = share_attention(ResNet(Bottleneck, 1), "stage3.*.bn3", **options)
        layers.append(attention["stage"].unit.cell.input_expand)
    for layer in layers[:2]:
        bound = layer.in_features**-0.5
        assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
        assert 0.9 * bound < layer.bias.abs().max() <= bound
    assert layers[2].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert layers[2].bias.abs().max() == 0


def test_srm_is_that_of_its_authors_on_classifiers() -> None:
    """Its variance is unbiased there; a U-ViT keeps the biased one, for the sake of older runs."""
    y = tokens()
    units = []
    for options in ({}, {"variance": "biased"}):
        model = TokenNet().eval()
        attention = share_attention(model, NORMS, "srm", **options)
        units.append(attention["stage"].unit)
    styles = []
    for unit in units:
        nn.init.ones_(unit.style)
        unit.eval()
        norm = unit.norms["0"]  # which a new one leaves as it is, but for eps
        z = torch.logit(unit(y, unit.initial_state(y), 0)[1]) * (1 + norm.eps) ** 0.5
        styles.append(z)
    for found, unbiased in zip(styles, (True, False), strict=True):
        std = (y.var(dim=1, unbiased=unbiased) + 1e-5).sqrt()
        torch.testing.assert_close(found, y.mean(dim=1) + std, rtol=0, atol=1e-5)


def test_names_in_another_order_are_the_order_of_the_state() -> None:
    class Reversed(TokenNet):
        def forward(self, x: Tensor) -> Tensor:
            for block in reversed(self.blocks):
                x = block(x)
            return x

    names = [f"blocks.{i}.norm2" for i in (3, 2, 1, 0)]
    model, attention = make(names, model=Reversed())
    straight = TokenNet()
    straight.blocks = nn.ModuleList(reversed(model.blocks))
    expected = by_hand(straight, attention, tokens())
    torch.testing.assert_close(model(tokens()), expected, **EXACT)
    model, _ = make(model=Reversed())
    with pytest.raises(RuntimeError, match=r"blocks\.3\.norm2 ran when blocks\.0\.norm2 was to"):
        model(tokens())
    assert attention["stage"].target_names == tuple(names)


def test_the_tenth_block_comes_after_the_ninth() -> None:
    _, attention = make(model=TokenNet(12))
    assert attention["stage"].target_names == tuple(f"blocks.{i}.norm2" for i in range(12))


# ---------------------------------------------------------------- how many weights


def on_meta(make_model: Callable[..., ResNet]) -> ResNet:
    """Make a network for CIFAR-100 that only has shapes."""
    with torch.device("meta"):
        return make_model(num_classes=100)


def millions(model: nn.Module) -> float:
    return sum(p.numel() for p in model.parameters()) / 1e6


def added(make_model: Callable[..., ResNet], **options: Any) -> Any:
    """Return the units that the paper adds to a network."""
    model = on_meta(make_model)
    return share_attention(model, model.targets, **options)


def test_resnet164_has_the_papers_size() -> None:
    """1.73M alone, 1.95M with DIA-LSTM and its biases (Tables XII and XIV): post-activation."""
    model = on_meta(resnet164)
    assert millions(model) == pytest.approx(1.73, abs=0.005)
    share_attention(model, model.targets)
    assert millions(model) == pytest.approx(1.95, abs=0.005)


def test_the_pre_activation_networks_have_a_normalisation_before_the_unit() -> None:
    """Each block has 2 N weights more than He et al.'s."""
    model = on_meta(preact_resnet164)
    extra = sum(2 * width for width in (64, 128, 256)) * 18
    norms = [m for n, m in model.named_modules() if n.endswith("bn4")]
    assert sum(p.numel() for norm in norms for p in norm.parameters()) == extra
    for make_model, per_stage in ((resnet164, 18), (preact_resnet164, 18), (wrn52_4, 8)):
        attention = added(make_model)
        assert [len(stage.target_names) for stage in attention.stages()] == [per_stage] * 3
        assert [stage.channels for stage in attention.stages()] == [64, 128, 256]


@pytest.mark.parametrize("make_model", [resnet164, preact_resnet164])
@pytest.mark.parametrize(("reduction", "expected"), [(1, 0.86), (4, 0.22), (8, 0.11), (16, 0.05)])
def test_added_weights_are_those_of_table_xii(
    make_model: Callable[..., ResNet], reduction: int, expected: float
) -> None:
    assert round(added(make_model, reduction=reduction).num_weights() / 1e6, 2) == expected


def test_stacked_cells_add_the_weights_of_table_xiv() -> None:
    one, three = (added(resnet164, num_cells=k).num_weights() for k in (1, 3))
    assert round((three - one) / 1e6, 2) == 1.38


def test_wrn52_4_gets_the_papers_weights() -> None:
    """+0.23M at r = 4 is the unit and the normalisations that its authors put before it."""
    model = on_meta(wrn52_4)
    of_norms = sum(p.numel() for n, p in model.named_parameters() if ".bn3." in n) / 1e6
    plain = millions(model) - of_norms
    share_attention(model, model.targets)
    assert round(millions(model) - plain, 2) == 0.23


def weights_of_table(width: int, reduction: int, groups: int, num_blocks: int) -> dict[str, int]:
    """Work out the table of docs/experiments.md: `10D²/r` and the like, by unit."""
    page = (ROOT / "docs" / "experiments.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|(]+?) (?:\([^|]*)?\|", page, re.M)
    values = {"D": width, "r": reduction, "G": groups, "n": num_blocks, "k": eca_kernel_size(width)}
    found = {}
    for name, formula in rows:
        total = 0
        for term in formula.split(" + "):
            number, letters, square, divided = re.fullmatch(
                r"(\d*)([DGnk]*)(²?)(/r)?", term
            ).groups()  # type: ignore[union-attr]
            value = int(number or 1)
            for letter in letters:
                value *= values[letter] ** (2 if square else 1)
            total += value // (reduction if divided else 1)
        found[name] = total
    return found


@pytest.mark.parametrize("width", [WIDTH, 64])
def test_weights_are_those_of_the_docs_table(width: int) -> None:
    table = weights_of_table(width, reduction=4, groups=8, num_blocks=3)
    assert tuple(table) == ATTENTION_NAMES
    for name in ATTENTION_NAMES[1:]:
        model = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        attention = share_attention(model, "*", name, reduction=4, groups=8)
        assert attention.num_weights() == table[name], name


def test_unshared_units_have_a_weight_set_each() -> None:
    shared, unshared = (
        added(resnet164, unit="se", shared=is_shared).num_weights() for is_shared in (True, False)
    )
    assert unshared == 18 * shared  # 94.4 % less (Table III)


# ---------------------------------------------------------------- bad input

NAMES = ["blocks.0.norm2", "blocks.1.norm2"]
BAD: list[tuple[Any, dict[str, Any], str]] = [
    (
        "blocks.*.norm3",
        {},
        r"'blocks\.\*\.norm3' of stage 'stage' matches no module; .*blocks\.\d\.norm2",
    ),
    ("*.norm2", {}, "matches no module"),  # * stays within one part
    ([NORMS, "blocks.0.norm2"], {}, r"blocks\.0\.norm2 is matched 2 times: let one pattern"),
    ({"a": NAMES, "b": NAMES[1:]}, {}, r"blocks\.1\.norm2 is matched 2 times"),
    ([], {}, "stage 'stage' has no targets"),
    ({}, {}, "targets is empty"),
    ({"a.b": NORMS}, {}, "a stage cannot be called 'a.b'"),
    ({"keys": NORMS}, {}, "a stage cannot be called 'keys'"),
    (
        ["blocks.0.norm2", "blocks.0.mlp.0"],
        {},
        "mixes widths .*has 8 channels, .*has 16 channels.*make one",
    ),
    (
        "blocks.*.mlp",
        {},
        r"blocks\.0\.mlp of stage 'stage' does not tell its width: give channels= or example",
    ),
    (NORMS, {"unit": "none"}, "unit must be one of lstm, dia_lstm"),
    (NORMS, {"unit": "dia"}, "unit must be one of lstm, dia_lstm"),
    (NORMS, {"reductoin": 4}, "there is no option 'reductoin'; a unit has reduction"),
    (NORMS, {"blocks": [0]}, "there is no option 'blocks'.* targets choose the blocks"),
    (NORMS, {"reduction": 3}, "reduction must .* divide the 8 channels, got 3"),
    (NORMS, {"name": "blocks"}, "name must be a new attribute of the model.*got 'blocks'"),
    (NORMS, {"name": "a.b"}, "name must be a new attribute"),
    (
        list(reversed(NAMES)),
        {"example_input": tokens()},
        r"another order: give the names as \['blocks\.0",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("targets", "arguments", "message"), BAD)
def test_bad_input_is_told_in_one_line_and_leaves_the_model_alone(
    targets: Any, arguments: dict[str, Any], message: str
) -> None:
    model = TokenNet()
    keys, before = list(model.state_dict()), model(tokens())
    with pytest.raises(ValueError, match=message) as caught:
        share_attention(model, targets, **arguments)
    assert "\n" not in str(caught.value)
    assert list(model.state_dict()) == keys
    assert torch.equal(model(tokens()), before)
    assert all(not module._forward_hooks for module in model.modules())


def test_a_module_under_two_names_is_refused() -> None:
    model = TokenNet(2)
    model.blocks.append(model.blocks[0])
    with pytest.raises(ValueError, match=r"blocks\.0\.norm2 and blocks\.2\.norm2 are one module"):
        share_attention(model, NORMS)


def test_a_second_unit_needs_other_targets_and_another_name() -> None:
    model, _ = make(NAMES)
    with pytest.raises(ValueError, match="choose another name="):
        share_attention(model, "blocks.2.norm2")
    with pytest.raises(ValueError, match=r"blocks\.0\.norm2 has a unit already"):
        share_attention(model, NORMS, name="second")
    share_attention(model, ["blocks.2.norm2", "blocks.3.norm2"], "se", name="second")
    assert model(tokens()).shape == tokens().shape


def test_wrapped_models_are_refused() -> None:
    for wrapped in (nn.DataParallel(TokenNet()), torch.compile(TokenNet())):
        with pytest.raises(ValueError, match="on the model inside, before wrapping"):
            share_attention(wrapped, "module.blocks.*.norm2")


def test_outputs_of_another_shape_are_told() -> None:
    model, _ = make()
    with pytest.raises(ValueError, match=r"blocks\.0\.norm2 must return one tensor .*\(3, 8\)"):
        model(tokens()[:, 0])
    with pytest.raises(ValueError, match=r"returned shape .* of 2 channels where 8 were expected"):
        model(torch.zeros(1, 2, 3, WIDTH))
    model, _ = make(channels_last=True, num_extra_tokens=1)
    with pytest.raises(ValueError, match="leave out num_extra_tokens=1"):
        model(torch.zeros(1, 2, 3, WIDTH))
    attention = nn.MultiheadAttention(WIDTH, 2)
    share_attention(holder := nn.ModuleDict({"attn": attention}), "attn", channels=WIDTH)
    with pytest.raises(ValueError, match=r"attn must return one tensor .* got tuple"):
        holder["attn"](tokens(), tokens(), tokens())


# ---------------------------------------------------------------- widths


def test_an_example_tells_widths_and_leaves_no_trace() -> None:
    model = small_resnet(blocks_per_stage=1)
    model.stage1.eval()
    before = copy.deepcopy(model.state_dict())
    attention = share_attention(model, {"a": "stage1.*", "b": "stage2.*"}, example_input=images())
    assert [stage.channels for stage in attention.stages()] == [16, 32]
    assert (model.training, model.stage1.training, model.stage2.training) == (True, False, True)
    for name, tensor in before.items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_channels_are_taken_as_given() -> None:
    _, attention = make("blocks.*.mlp", channels=WIDTH)
    assert attention["stage"].channels == WIDTH


@pytest.mark.parametrize("targets", ["blocks.*.mlp", NORMS, {"a": "blocks.0.*", "b": "blocks.1.*"}])
def test_channels_must_be_those_of_the_example(targets: Any) -> None:
    model = TokenNet()
    keys, before = list(model.state_dict()), model(tokens())
    with pytest.raises(ValueError, match=r"blocks\.0\.\w+ has 8 channels .* channels=16"):
        share_attention(model, targets, channels=16, example_input=tokens())
    assert list(model.state_dict()) == keys
    assert torch.equal(model(tokens()), before)
    share_attention(model, targets, channels=WIDTH, example_input=tokens())


def test_an_example_finds_what_does_not_run_once() -> None:
    class Twice(TokenNet):
        def forward(self, x: Tensor) -> Tensor:
            return self.blocks[1](self.blocks[0](self.blocks[0](x)))

    for name, count in (("blocks.0.norm2", 2), ("blocks.2.norm2", 0)):
        with pytest.raises(ValueError, match=f"{name} ran {count} times for example_input"):
            share_attention(Twice(), name, example_input=(tokens(),))


def test_a_later_target_that_runs_twice_or_not_at_all_is_told() -> None:
    model, _ = make(model=Ordered())
    for order, ran in (((0, 1, 1), 1), ((0, 1, 3), 3)):
        model.order = order
        message = rf"blocks\.{ran}\.norm2 ran when blocks\.2\.norm2 was to run"
        with pytest.raises(RuntimeError, match=message):
            model(tokens())


def test_units_go_where_the_model_is() -> None:
    _, attention = make(model=TokenNet().to("meta", torch.bfloat16))
    assert {(p.device.type, p.dtype) for p in attention.parameters()} == {("meta", torch.bfloat16)}
    evaluated = TokenNet().eval()
    assert not share_attention(evaluated, NORMS).training


# ---------------------------------------------------------------- what models are put through


def fresh_state(attention: nn.Module) -> bool:
    return all(
        stage._live.state is None and stage._live.caller is None for stage in attention.stages()
    )


def test_importing_the_package_does_not_import_torch() -> None:
    program = "import sys, uvit_dia; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
    assert uvit_dia.share_attention is share_attention
    with pytest.raises(AttributeError, match="has no attribute 'share_atention'"):
        uvit_dia.share_atention  # noqa: B018


def test_weights_stand_once_under_their_prefix() -> None:
    model = small_resnet()
    plain = list(model.state_dict())
    make(model.targets, model=model)
    added = [key for key in model.state_dict() if key not in plain]
    assert [key for key in model.state_dict() if key in plain] == plain
    assert len(added) == 3 * 8
    prefixes = tuple(f"shared_attention.stage{k}.unit.cell." for k in (1, 2, 3))
    assert all(key.startswith(prefixes) for key in added)
    assert len(list(model.parameters())) == len({id(p) for p in model.parameters()})


def test_state_dicts_go_there_and_back(tmp_path: Path) -> None:
    model, _ = make()
    save_file(model.state_dict(), tmp_path / "model.safetensors")  # which refuses shared tensors
    other = TokenNet()
    share_attention(other, NORMS)
    assert not torch.equal(other(tokens()), model(tokens()))
    other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    assert torch.equal(other(tokens()), model(tokens()))


def test_a_copy_has_a_unit_of_its_own() -> None:
    model, attention = make()
    expected = model(tokens())
    clone = copy.deepcopy(model)
    assert torch.equal(clone(tokens()), expected)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.add_(1)
    assert torch.equal(clone(tokens()), expected)
    clone(tokens()).sum().backward()
    assert not gradients(model)
    assert len(gradients(clone)) == len(list(clone.parameters()))
    assert len(clone.state_dict()) == len(model.state_dict())


def test_whole_models_can_be_pickled_in_the_middle_of_a_pass() -> None:
    model, attention = make()
    model.fail_at, model.error = 2, KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        model(tokens())  # no exception for hooks: the state stays, with its graph
    assert not fresh_state(attention)
    model.fail_at = -1
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for other in (loaded, copy.deepcopy(model)):
        assert torch.equal(other(tokens()), model(tokens()))


@pytest.mark.parametrize("how", ["fail_at", "stop_at"])
@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
def test_a_pass_that_ends_early_leaves_nothing_behind(how: str, error: type[BaseException]) -> None:
    model, attention = make()
    expected = model(tokens())
    model.error = error
    setattr(model, how, 2)
    with contextlib.suppress(error):
        model(tokens(seed=1))
    assert fresh_state(attention) or (how, error) == ("fail_at", KeyboardInterrupt)
    setattr(model, how, -1)
    assert torch.equal(model(tokens()), expected)
    assert fresh_state(attention)


def test_parts_called_by_themselves_do_not_meet_old_states() -> None:
    model, attention = make("*.*.norm2", model=Parts())
    whole = by_hand(model.blocks(), attention, tokens())
    torch.testing.assert_close(model(tokens()), whole, **EXACT)
    seen: list[Tensor] = []
    handle = model.a.register_forward_hook(lambda module, inputs, y: seen.append(y))
    model(tokens())
    handle.remove()
    assert torch.equal(model.a(tokens()), seen[0])  # it begins a pass
    assert fresh_state(attention)
    with pytest.raises(
        RuntimeError, match=r"b\.0\.norm2 ran when a\.0\.norm2 was to run: .*by itself"
    ):
        model.b(tokens(seed=1))
    assert fresh_state(attention)
    torch.testing.assert_close(model(tokens()), whole, **EXACT)


def test_parts_with_a_stage_each_can_be_called_by_themselves() -> None:
    model, attention = make({"a": "a.*.norm2", "b": "b.*.norm2"}, model=Parts())
    expected = model(tokens())
    z = model.a(tokens())
    model.a(tokens(5, seed=1))
    assert torch.equal(model.b(z), expected)
    assert fresh_state(attention)


def test_a_module_around_all_targets_is_as_good_as_the_model() -> None:
    """Such as `forward_features` of timm's ViT calls."""
    outer, attention = make("net.*.*.norm2", model=nn.ModuleDict({"net": Parts()}))
    found = outer["net"](tokens())
    torch.testing.assert_close(found, by_hand(outer["net"].blocks(), attention, tokens()), **EXACT)
    assert fresh_state(attention)


def test_a_pass_outside_of_calls_is_refused() -> None:
    model, attention = make()
    first = model.blocks[0](tokens())
    assert fresh_state(attention)
    for call in (model.blocks[1], model.forward):
        with pytest.raises(
            RuntimeError, match=r"blocks\.1\.norm2 ran outside of a call of the mod"
        ):
            call(first)
        assert fresh_state(attention)


def test_batches_of_all_sizes_are_independent() -> None:
    model, attention = make()
    whole = model(tokens(6))
    for size in (1, 6, 2, 5):
        torch.testing.assert_close(model(tokens(6)[:size]), whole[:size], **EXACT)
        assert fresh_state(attention)


def test_training_and_evaluation_follow_the_model() -> None:
    model, attention = make(num_cells=2)  # which drops while training
    model.eval()
    assert not attention["stage"].unit.training
    expected = model(tokens())
    assert torch.equal(model(tokens()), expected)
    model.train()
    assert not torch.equal(model(tokens()), expected)
    model.eval()
    assert torch.equal(model(tokens()), expected)


def test_modes_of_torch() -> None:
    model, _ = make()
    expected = model(tokens())
    with torch.no_grad():
        assert torch.equal(model(tokens()), expected)
    with torch.inference_mode():
        assert torch.equal(model(tokens()), expected)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(tokens())
        found.float().sum().backward()
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)
    for unit in ("dia_lstm", "srm"):
        half, _ = make(unit=unit, model=TokenNet().bfloat16())
        assert half(tokens().bfloat16()).dtype == torch.bfloat16


def test_two_threads_do_not_mix_their_states() -> None:
    model, _ = make()
    expected = [model(tokens(seed=seed)) for seed in (0, 1)]
    barrier, found = threading.Barrier(2, timeout=20), {}

    def wait(*_: object) -> None:
        barrier.wait()

    for block in model.blocks:  # every step of one thread is followed by one of the other
        block.register_forward_hook(wait)

    def run(seed: int) -> None:
        found[seed] = model(tokens(seed=seed))

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert all(torch.equal(found[seed], expected[seed]) for seed in (0, 1))


def test_a_sequential_runs_the_holder_as_one_of_its_layers() -> None:
    model = nn.Sequential(Block(), Block())
    attention = share_attention(model, "*.norm2")
    assert model(tokens()).shape == tokens().shape
    holder = TokenNet(2)
    holder.blocks = nn.ModuleList(model[:2])
    torch.testing.assert_close(model(tokens()), by_hand(holder, attention, tokens()), **EXACT)


# ---------------------------------------------------------------- gradient checkpointing


def loss_gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(3)  # for what drops
    model(x).square().sum().backward()
    return gradients(model)


@pytest.mark.parametrize("options", [{}, {"num_cells": 2}, {"shared": False}, {"unit": "se"}])
def test_checkpointing_gives_the_same_gradients(options: dict[str, Any]) -> None:
    model, _ = make(checkpointing=True, **options)
    expected = loss_gradients(model, tokens())
    model.use_reentrant = False
    found = loss_gradients(model, tokens())
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, **EXACT)
    copy.deepcopy(model)


def test_a_stage_within_one_checkpoint_needs_no_option() -> None:
    model, _ = make()
    expected = loss_gradients(model, tokens())
    for use_reentrant in (True, False):
        model.zero_grad()
        x = tokens().requires_grad_()
        checkpoint(model, x, use_reentrant=use_reentrant).square().sum().backward()
        for name, gradient in gradients(model).items():
            torch.testing.assert_close(gradient, expected[name], **EXACT)


def test_checkpointing_without_its_option_is_told() -> None:
    model, _ = make(model=TokenNet(use_reentrant=False))
    with pytest.raises(RuntimeError, match=r"blocks\.3\.norm2 was recomputed .*checkpointing=True"):
        model(tokens()).sum().backward()
    model.use_reentrant = None
    model(tokens()).sum().backward()


def test_reentrant_checkpointing_is_told() -> None:
    model, _ = make(model=TokenNet(use_reentrant=True), checkpointing=True)
    with pytest.raises(RuntimeError, match="use checkpointing with use_reentrant=False"):
        model(tokens().requires_grad_()).sum().backward()


def test_a_recomputation_of_an_older_pass_is_told() -> None:
    model, _ = make(model=TokenNet(use_reentrant=False), checkpointing=True)
    older = model(tokens())
    with torch.no_grad():
        model(tokens(seed=1))  # without gradients: no harm
    older.sum().backward()
    older = model(tokens())
    model(tokens(seed=1))
    with pytest.raises(RuntimeError, match="call backward before the next forward pass"):
        older.sum().backward()


def test_gradients_switched_on_in_the_middle_are_told() -> None:
    model, _ = make(model=Ordered())
    model.order, model.is_first_frozen = (0, 1, 2, 3), True
    with pytest.raises(RuntimeError, match=r"gradients were off at blocks\.0\.norm2 and are on at"):
        model(tokens())


# ---------------------------------------------------------------- torch.compile


def check_compiled(model: nn.Module, make_input: Callable[..., Tensor], backend: str) -> None:
    compiled: Any = torch.compile(model, fullgraph=True, backend=backend)
    for batch in (2, 4, 4):
        x = make_input(batch, seed=batch)
        model.zero_grad()
        expected = model(x)
        expected.square().mean().backward()
        expected_gradients = {name: g.clone() for name, g in gradients(model).items()}
        model.zero_grad()
        found = compiled(x)
        found.square().mean().backward()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert gradients(model).keys() == expected_gradients.keys()
        for name, gradient in gradients(model).items():
            torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-3, atol=1e-4)
    assert fresh_state(model.shared_attention)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_model_gives_the_same_numbers(backend: str) -> None:
    torch.compiler.reset()
    model, _ = make(model=TokenNet(3))
    check_compiled(model, tokens, backend)
    model, _ = make("*.*.norm2", model=Parts())
    check_compiled(model, tokens, backend)
    stages = {"a": "0.norm", "b": ["1.norm", "2.norm"]}
    model, _ = make(stages, "dia_lstm_light", model=nn.Sequential(*(ConvBlock() for _ in range(3))))
    check_compiled(model, images, backend)


# ---------------------------------------------------------------- several processes


def train_as_rank(folder: str, checkpointing: bool) -> None:
    """Take two steps on this rank's half of the images; save the weights and the last gradients."""
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    model, _ = make(
        model=TokenNet(use_reentrant=False if checkpointing else None), checkpointing=checkpointing
    )
    wrapped: nn.Module = model
    if world > 1:
        distributed.init_process_group("gloo")
        wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        x = tokens(6, seed=step).chunk(world)[rank]
        wrapped(x).square().mean().backward()
        optimizer.step()
    saved = {f"gradient {name}": g for name, g in gradients(model).items()}
    save_file({**model.state_dict(), **saved}, Path(folder) / f"{world}-{rank}.safetensors")
    if world > 1:
        distributed.destroy_process_group()


@pytest.mark.multiprocess
@pytest.mark.parametrize("checkpointing", [False, True])
def test_two_processes_train_the_weights_of_one(tmp_path: Path, checkpointing: bool) -> None:
    children = start_ranks(2, train_as_rank, str(tmp_path), checkpointing)
    finished = [Child(train_as_rank, str(tmp_path), False).wait()]
    finished += [child.wait() for child in children]
    assert [done.exit_code for done in finished] == [0, 0, 0], finished
    one = load_file(tmp_path / "1-0.safetensors")
    for rank in (0, 1):
        for name, tensor in load_file(tmp_path / f"2-{rank}.safetensors").items():
            torch.testing.assert_close(tensor, one[name], **EXACT, msg=name)


# ---------------------------------------------------------------- timm


def test_timm_resnet() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet26", num_classes=3)
    attention = share_attention(model, {f"layer{i}": f"layer{i}.*.bn3" for i in (1, 2, 3, 4)})
    assert [stage.channels for stage in attention.stages()] == [256, 512, 1024, 2048]
    model.eval()
    x = torch.randn(2, 3, 32, 32)
    block = model.layer1[1]
    seen: dict[str, Tensor] = {}
    block.bn3.register_forward_hook(lambda module, inputs, y: seen.update(gated=y.clone()))
    block.register_forward_hook(lambda module, inputs, y: seen.update(x=inputs[0], out=y))
    assert model(x).shape == (2, 3)
    torch.testing.assert_close(seen["out"], F.relu(seen["x"] + seen["gated"]), **EXACT)
    assert fresh_state(attention)


def test_features_of_a_timm_vit_are_those_of_its_pass() -> None:
    timm = pytest.importorskip("timm")
    arguments = {"img_size": 8, "patch_size": 2, "in_chans": 1, "embed_dim": 16, "depth": 3}
    model = timm.create_model("vit_tiny_patch16_224", num_heads=2, num_classes=3, **arguments)
    _, attention = make(NORMS, model=model.eval(), num_extra_tokens=1)
    x = torch.randn(2, 1, 8, 8)
    features = model.forward_features(x)
    assert fresh_state(attention)
    assert torch.equal(model.forward_head(features), model(x))


def test_timm_vit_with_checkpointing() -> None:
    timm = pytest.importorskip("timm")
    arguments = {"img_size": 8, "patch_size": 2, "in_chans": 1, "embed_dim": 16, "depth": 3}
    model = timm.create_model("vit_tiny_patch16_224", num_heads=2, num_classes=3, **arguments)
    _, attention = make(NORMS, model=model, checkpointing=True, num_extra_tokens=1, pool="patches")
    assert attention["stage"].target_names == tuple(f"blocks.{i}.norm2" for i in range(3))
    x = torch.randn(2, 1, 8, 8)
    expected = loss_gradients(model, x)
    model.set_grad_checkpointing()
    found = loss_gradients(model, x)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- docs and examples


def test_the_docs_code_runs() -> None:
    pytest.importorskip("timm")
    page = (ROOT / "docs" / "other-backbones.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    assert len(blocks) >= 4
    program = "\n".join(blocks)  # a page is one session: later blocks use what earlier ones made
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--batch_size 2000", "--batch_size 2000: allowed is 2 to 1437"),
        ("--batch_size 1", "--batch_size 1: allowed is 2 to 1437"),
        ("--num_epochs 0", "--num_epochs 0: allowed is 1 or more"),
        ("--device gpu", "--device gpu: torch cannot use it here"),
        ("--device meta", "--device meta: torch cannot use it here"),
        ("--seed -1", "--seed -1: allowed is 0 to 9223372036854775807"),
        ("--cifar10 .", "cifar-10-binary.tar.gz is corrupt"),
        ("--unit none", "invalid choice"),
    ],
)
def test_examples_refuse_wrong_input(
    words: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["timm_vit.py", *words.split()])
    with pytest.raises(SystemExit) as ended:
        read_input("", num_epochs=1)
    assert ended.value.code == 2
    usage, error, last = capsys.readouterr().err.rpartition("timm_vit.py: error: ")
    assert usage.startswith("usage: ")
    assert error
    assert said in last
    assert last.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm_resnet", "timm_vit"])
def test_examples_print_the_same_for_the_same_seed(name: str) -> None:
    pytest.importorskip("timm")
    command = [sys.executable, f"examples/{name}.py", "--num_epochs", "1"]
    printed = []
    for seed in (0, 0, 1):
        done = subprocess.run(
            [*command, "--seed", str(seed)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        printed.append(re.sub(r"in \d+ s", "", done.stdout))
    assert printed[0] == printed[1] != printed[2]
    assert len(printed[0].splitlines()) == 3
    assert "nothing about the paper's claim" in printed[0].splitlines()[-1]
