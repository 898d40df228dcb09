"""Options of units: starts, defaults and normalisations of their authors' code, and places."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uvit_dia.config.units import DEFAULT_OPTIONS, UNITS, own_number, units_with
from uvit_dia.models.units.protocol import AttentionUnit
from uvit_dia.models.units.registry import CELLS, make_attention_unit
from uvit_dia.models.uvit import UViT

BATCH, SIDE, EXTRA, CHANNELS = 4, 4, 1, 64
SMALL: dict[str, Any] = {"img_size": 8, "patch_size": 2, "in_chans": 1, "embed_dim": CHANNELS}
SMALL |= {"depth": 2, "num_heads": 2}


def make_unit(name: str, channels: int = CHANNELS, **options: Any) -> Any:
    torch.manual_seed(0)
    complete = {**DEFAULT_OPTIONS, **options}
    unit = make_attention_unit(name, channels, EXTRA, complete, (0, 1))
    unit.initialise(complete["linear_init"])
    return unit


def make_uvit(attention: str, **options: Any) -> UViT:
    torch.manual_seed(0)
    return UViT(**SMALL, attention=attention, attention_options=options).eval()


def tokens(batch: int = BATCH, channels: int = CHANNELS, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, EXTRA + SIDE * SIDE, channels, generator=generator)


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(BATCH, 1, 8, 8, generator=generator), torch.tensor([0.0, 9.0, 500.0, 999.0])


def gate_and_map(unit: AttentionUnit, y: Tensor, block: int = 0) -> tuple[Tensor, Tensor]:
    return unit.full_gate(y, unit.initial_state(y), block)[:2]


# ---------------------------------------------------------------- defaults of the authors

AUTHORS = {"dia_lstm": 4, "dia_lstm_light": 4, "se": 16, "cbam": 16, "spa": 16, "sem": 16}


@pytest.mark.parametrize("name", AUTHORS)
def test_a_reduction_of_0_is_the_unit_authors(name: str) -> None:
    assert set(AUTHORS) == set(units_with("reduction"))
    found = make_unit(name)
    layer = found.cell.input_reduce if name in CELLS else found.reduce
    assert layer.out_features == CHANNELS // AUTHORS[name]
    asked = make_unit(name, reduction=8)
    layer = asked.cell.input_reduce if name in CELLS else asked.reduce
    assert layer.out_features == CHANNELS // 8


@pytest.mark.parametrize(("channels", "expected"), [(64, 64), (512, 64), (96, 32), (8, 8)])
def test_groups_of_0_are_64_or_what_divides_the_width(channels: int, expected: int) -> None:
    assert make_unit("sge", channels).groups == own_number(64, channels) == expected
    assert make_unit("sge", 64, groups=8).groups == 8


@pytest.mark.parametrize(("channels", "expected"), [(512, 16), (24, 8), (6, 2), (5, 1)])
def test_the_own_reduction_is_lowered_to_what_divides_the_width(
    channels: int, expected: int
) -> None:
    assert make_unit("se", channels).reduce.out_features == channels // expected
    assert own_number(16, channels) == expected


def test_defaults_of_the_network_keep_what_older_configs_mean() -> None:
    """A key that an older config lacks must not change what its run computes."""
    assert {key: DEFAULT_OPTIONS[key] for key in NEW_OPTIONS} == NEW_OPTIONS


NEW_OPTIONS = {"gate_form": "h", "place": "mlp_input", "linear_init": "u_vit"}
NEW_OPTIONS |= {"time_first_state": False, "forget_bias": 0.0, "variance": "biased"}
NEW_OPTIONS |= {"normalisation": "default", "mixture_penalty": 0.0, "constant": 0.25}


# ---------------------------------------------------------------- linear layers


@pytest.mark.parametrize("name", [*CELLS, "se", "cbam", "spa", "sem"])
def test_linear_layers_start_as_asked(name: str) -> None:
    for init in ("u_vit", "torch"):
        unit = make_unit(name, linear_init=init, reduction=2)
        layers = [layer for layer in unit.modules() if isinstance(layer, nn.Linear)]
        assert layers
        for layer in layers:
            torchs = layer.in_features**-0.5 / 3**0.5
            expected = 0.02 if init == "u_vit" else torchs
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.15)
            if layer.bias is not None:
                assert (layer.bias.abs().max() == 0) == (init == "u_vit")


def test_the_network_beside_the_unit_keeps_u_vits_start() -> None:
    model = make_uvit("dia_lstm", linear_init="torch")
    assert model.mid_block.mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    weight = model.attention_unit.cell.input_expand.weight
    assert weight.std().item() == pytest.approx(16**-0.5 / 3**0.5, rel=0.05)


def test_an_unknown_start_is_refused() -> None:
    with pytest.raises(ValueError, match="linear_init must be one of u_vit, torch, got 'kaiming'"):
        make_uvit("se", linear_init="kaiming")


# ---------------------------------------------------------------- SRM


@pytest.mark.parametrize("mode", [True, False])
def test_srm_starts_with_a_gate_of_exactly_a_half(mode: bool) -> None:
    unit = make_unit("srm").train(mode)
    gate, _ = gate_and_map(unit, tokens())
    assert torch.equal(gate, torch.full_like(gate, 0.5))
    gate.mul(tokens(seed=3).mean(dim=1, keepdim=True)).sum().backward()
    assert unit.style.grad.abs().min() > 0  # and leaves it


def test_srm_can_leave_its_identity_start_by_more_than_its_bias() -> None:
    unit = make_unit("srm", gate_init="identity").train()
    gate, _ = gate_and_map(unit, tokens())
    assert torch.equal(gate, torch.ones_like(gate))
    gate.mul(tokens(seed=3).mean(dim=1, keepdim=True)).sum().backward()
    assert unit.norms["0"].weight.grad.abs().min() > 0


@pytest.mark.parametrize("variance", ["biased", "unbiased"])
def test_srm_divides_the_variance_as_asked(variance: str) -> None:
    unit, y = make_unit("srm", variance=variance).eval(), tokens()
    with torch.no_grad():
        unit.style[:, 1] = 1.0
    count = y.shape[1] - (variance == "unbiased")
    spread = (y - y.mean(dim=1, keepdim=True)).square().sum(dim=1) / count
    z = (spread + 1e-5).sqrt() / math.sqrt(1 + 1e-5)  # a fresh normalisation leaves it alone
    torch.testing.assert_close(gate_and_map(unit, y)[1], torch.sigmoid(z), rtol=0, atol=1e-6)


def test_srm_of_one_token_has_no_spread() -> None:
    unit, y = make_unit("srm", variance="unbiased").eval(), tokens()[:, :1]
    with torch.no_grad():
        unit.style[:, 1] = 1.0
    expected = torch.full((BATCH, CHANNELS), math.sqrt(1e-5)).sigmoid()
    torch.testing.assert_close(gate_and_map(unit, y)[1], expected, rtol=0, atol=1e-5)


def test_a_shared_normalisation_sees_every_block() -> None:
    """Fig. 15: one normalisation for all blocks, whose averages move at each of them."""
    unit = make_unit("srm", normalisation="shared").train()
    assert [key for key in unit.state_dict() if key.endswith("weight")] == ["norms.shared.weight"]
    for block in (0, 1):
        gate_and_map(unit, tokens(), block)
    assert unit.norms["shared"].num_batches_tracked == 2
    own = make_unit("srm", normalisation="block")
    assert list(own.state_dict()) == list(make_unit("srm").state_dict())


# ---------------------------------------------------------------- CBAM


@pytest.mark.parametrize(
    ("normalisation", "keys"), [("block", ("0", "1")), ("shared", ("shared",))]
)
def test_cbams_normalisation_starts_every_patch_with_a_gate_of_a_half(
    normalisation: str, keys: tuple
) -> None:
    unit = make_unit("cbam", normalisation=normalisation).train()
    assert tuple(unit.norms) == keys
    gate, channel_map = gate_and_map(unit, tokens())
    expected = 0.5 * channel_map[:, None].expand_as(gate[:, EXTRA:])
    torch.testing.assert_close(gate[:, EXTRA:], expected, rtol=0, atol=0)
    torch.testing.assert_close(gate[:, :EXTRA], channel_map[:, None], rtol=0, atol=0)
    gate.mul(tokens(seed=3)).sum().backward()
    assert unit.norms[keys[0]].weight.grad.abs().min() > 0
    plain, _ = gate_and_map(make_unit("cbam"), tokens())
    assert (plain[:, EXTRA:] - expected).abs().max() > 1e-3  # without it the start is another


def test_cbams_normalisation_is_that_of_its_convolution() -> None:
    unit, y = make_unit("cbam", normalisation="block").train(), tokens()
    norm = unit.norms["1"]
    nn.init.constant_(norm.weight, 2.0)
    nn.init.constant_(norm.bias, -0.5)
    gate, channel_map = gate_and_map(unit, y, 1)
    x = (y * channel_map[:, None])[:, EXTRA:].transpose(1, 2).unflatten(2, (SIDE, SIDE))
    described = torch.stack([x.mean(dim=1), x.amax(dim=1)], dim=1)
    z = F.conv2d(F.pad(described, (3, 3, 3, 3)), unit.spatial.weight)
    z = (z - z.mean()) / (z.var(unbiased=False) + 1e-5).sqrt() * 2 - 0.5
    patches = (gate / channel_map[:, None])[:, EXTRA:, 0]
    torch.testing.assert_close(patches, z.sigmoid().flatten(1), rtol=1e-4, atol=1e-5)
    assert norm.momentum == 0.01
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("name", ["srm", "cbam"])
def test_unknown_normalisations_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="normalisation must be one of default, block, shared, go"):
        make_unit(name, normalisation="none")


# ---------------------------------------------------------------- SPEM's penalty


def test_spems_penalty_is_a_term_for_each_block() -> None:
    """0.1 (p_1² + p_2²) a block, in its authors' training loss."""
    for shared in (True, False):
        model = make_uvit("spem", mixture_penalty=0.1, shared=shared)
        penalty = model.attention_penalty()
        assert penalty.item() == pytest.approx(3 * 0.1 * 2 * 0.25)  # three blocks, p = 0.5
        penalty.backward()
        units = {id(unit): unit for k in range(3) if (unit := model.unit_of_block(k))}
        for unit in units.values():
            times = 3 if shared else 1
            assert unit.mixture.grad.tolist() == pytest.approx([times * 0.1] * 2)
    assert make_uvit("spem").attention_penalty() is None
    assert make_uvit("se").attention_penalty() is None
    assert make_uvit("none").attention_penalty() is None
    with pytest.raises(ValueError, match="mixture_penalty must be 0 or more, got -1"):
        make_uvit("spem", mixture_penalty=-1.0)


# ---------------------------------------------------------------- recurrent cells


@pytest.mark.parametrize("num_cells", [1, 3])
@pytest.mark.parametrize("name", CELLS)
def test_the_forget_gates_start_with_their_bias(name: str, num_cells: int) -> None:
    """Other gates and weights start as without it; the map starts with the same 0.25."""
    plain, unit = (make_unit(name, num_cells=num_cells, forget_bias=b) for b in (0.0, 2.0))
    changed = {}
    for key, tensor in unit.state_dict().items():
        difference = tensor - plain.state_dict()[key]
        if difference.any():
            changed[key] = difference
    assert len(changed) == num_cells
    for difference in changed.values():
        of_gates = difference.view(4, -1)  # i, f, g, o
        assert torch.equal(of_gates[1], torch.full_like(of_gates[1], 2.0))
        assert not of_gates[[0, 2, 3]].any()
    assert all("hidden" not in key for key in changed)


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_remembers_longer_with_a_forget_bias(name: str) -> None:
    unit = make_unit(name, forget_bias=2.0)
    state = unit.initial_state(tokens())
    state = state._replace(c=torch.ones_like(state.c))
    _, _, after = unit.full_gate(tokens(), state, 0)
    expected = torch.sigmoid(torch.tensor(2.0))
    assert after.c.mean().item() == pytest.approx(expected.item(), abs=0.01)


@pytest.mark.parametrize("init", ["paper", "identity"])
def test_a_forget_bias_keeps_the_identity_start(init: str) -> None:
    unit = make_unit("dia_lstm", forget_bias=2.0, gate_init=init)
    gate, _ = gate_and_map(unit, tokens())
    expected = 1.0 if init == "identity" else 0.25
    torch.testing.assert_close(gate, torch.full_like(gate, expected), rtol=0, atol=0.02)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("num_cells", [1, 2])
def test_the_first_state_comes_from_the_time_token(num_cells: int, shared: bool) -> None:
    options = {"time_first_state": True, "num_cells": num_cells, "shared": shared}
    model = make_uvit("dia_lstm", **options)
    plain = make_uvit("dia_lstm", num_cells=num_cells, shared=shared)
    first = model.unit_of_block(0)
    added = set(model.state_dict()) - set(plain.state_dict())
    place = "attention_unit." if shared else "attention_unit.0."
    assert added == {f"{place}first_state.weight", f"{place}first_state.bias"}
    assert not first.first_state.weight.any()  # it starts as Eq. 4 has it
    assert not first.first_state.bias.any()
    x = tokens()
    weight = torch.randn(first.first_state.weight.shape)
    with torch.no_grad():
        first.first_state.weight.copy_(weight)
    state = first.initial_state(x)
    time = x[:, 0]  # the token before the patches
    parts = (time @ weight.T).view(BATCH, 2, num_cells, CHANNELS)
    for found, part in zip((state.h, state.c), parts.unbind(dim=1), strict=True):
        assert found.shape == (num_cells, BATCH, CHANNELS)
        torch.testing.assert_close(found, part.transpose(0, 1), rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(first.initial_state(x).h, state.h)
    model(*images()).square().sum().backward()
    assert first.first_state.weight.grad.abs().max() > 0
    assert all(p.grad is not None for p in model.parameters())  # else DDP would wait for it


def test_the_time_token_of_a_conditional_network_comes_after_the_label() -> None:
    torch.manual_seed(0)
    options = {"time_first_state": True}
    model = UViT(**SMALL, num_classes=3, attention="lstm", attention_options=options)
    x = torch.randn(2, 18, CHANNELS)
    unit = model.attention_unit
    nn.init.normal_(unit.first_state.weight)
    state = unit.initial_state(x)
    other = x.clone()
    other[:, [0, *range(2, 18)]] += 1
    assert torch.equal(unit.initial_state(other).h, state.h)
    other[:, 1] += 1
    assert not torch.equal(unit.initial_state(other).h, state.h)


def test_a_first_state_needs_a_time_token() -> None:
    options = {**DEFAULT_OPTIONS, "time_first_state": True}
    with pytest.raises(ValueError, match="needs a time token before the patches"):
        make_attention_unit("lstm", CHANNELS, 0, options)


# ---------------------------------------------------------------- the place in a block


@pytest.mark.parametrize("attention", ["dia_lstm", "cbam"])
def test_at_the_output_of_the_mlp_the_block_is_eq_4(attention: str) -> None:
    """`a_t = MLP(Norm2(x))`, `x + a_t ⊗ h_t / h_0` where the gate is rescaled."""
    options = {"place": "mlp_output", "gate_init": "rescaled"}
    model = make_uvit(attention, **options)
    block, unit = model.mid_block, model.unit_of_block(1)
    for parameter in (*block.parameters(), *unit.parameters()):
        nn.init.normal_(parameter, std=0.3)
    x = tokens()
    state = unit.initial_state(x)
    found, new = block(x, None, unit, state, 1)
    x = x + block.attn(block.norm1(x))
    a = block.mlp(block.norm2(x))
    gate, _, expected_state = unit.full_gate(a, state, 1)
    torch.testing.assert_close(found, x + a * gate, rtol=1e-5, atol=1e-5)
    if attention == "dia_lstm":
        torch.testing.assert_close(new.h, expected_state.h)
        h = expected_state.h[0]
        torch.testing.assert_close(found, x + a * (4 * h)[:, None], rtol=1e-5, atol=1e-5)


def test_places_differ_and_unknown_ones_are_refused() -> None:
    outputs = []
    for place in ("mlp_input", "mlp_output"):
        model = make_uvit("dia_lstm", place=place)
        with torch.no_grad():
            outputs.append(model(*images()))
    assert not torch.allclose(*outputs)
    with pytest.raises(ValueError, match="place must be one of mlp_input, mlp_output, got 'attn'"):
        make_uvit("dia_lstm", place="attn")


# ---------------------------------------------------------------- the constant


def test_the_constant_gates_all_alike() -> None:
    y = tokens()
    for constant in (0.25, 0.7):
        gated, attention_map, _ = make_unit("constant", constant=constant)(y, None, 0)
        torch.testing.assert_close(gated, constant * y, rtol=0, atol=1e-7)
        torch.testing.assert_close(attention_map, torch.full((BATCH, CHANNELS), constant))
    assert not list(make_unit("constant").parameters())
    model, plain = make_uvit("constant"), make_uvit("none")
    plain.load_state_dict(model.state_dict())
    for block in (*plain.in_blocks, plain.mid_block, *plain.out_blocks):
        block.mlp.fc1.weight.data *= 0.25  # which is what the gate does
    torch.testing.assert_close(model(*images()), plain(*images()), rtol=1e-5, atol=1e-6)
    for constant in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="constant must be above 0, got"):
            make_unit("constant", constant=constant)


# ---------------------------------------------------------------- options without effect

ELSEWHERE = {
    "activation": "tanh",
    "num_cells": 2,
    "time_first_state": True,
    "forget_bias": 1.0,
    "variance": "unbiased",
    "normalisation": "shared",
    "mixture_penalty": 0.1,
    "constant": 0.5,
}


@pytest.mark.parametrize("option", ELSEWHERE)
def test_an_option_without_effect_is_refused(option: str) -> None:
    owners = units_with(option)
    for name in UNITS:
        if name in owners:
            make_unit(name, **{option: ELSEWHERE[option]})
            continue
        with pytest.raises(ValueError, match=rf"{option}.* of {', '.join(owners)}; {name} has "):
            make_unit(name, **{option: ELSEWHERE[option]})
