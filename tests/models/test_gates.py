"""How an attention map becomes a gate: every start and form, for every unit."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from uvit_dia.config.units import DEFAULT_OPTIONS
from uvit_dia.models.units.gate import GATE_FORMS, GATE_INITS, Gate
from uvit_dia.models.units.protocol import AttentionUnit
from uvit_dia.models.units.registry import ATTENTION_NAMES, make_attention_unit
from uvit_dia.models.uvit import UViT

BATCH, SIDE, EXTRA, CHANNELS = 3, 4, 1, 16
UNITS = ATTENTION_NAMES[1:]
FORMS = [(init, "h") for init in GATE_INITS] + [("paper", form) for form in GATE_FORMS[1:]]
CONSTANT_STARTS = ("srm", "sge", "spem")
RESIDUAL = [name for name in UNITS if name not in CONSTANT_STARTS]
SMALL: dict[str, Any] = {"img_size": 8, "patch_size": 2, "in_chans": 1, "embed_dim": CHANNELS}
SMALL |= {"depth": 2, "num_heads": 2}


def make_unit(name: str, **options: Any) -> AttentionUnit:
    """Make a unit as it starts; the plain LSTM with a sigmoid, since tanh's start is 0."""
    if name == "lstm":
        options = {"activation": "sigmoid", **options}
    torch.manual_seed(0)
    options = {**DEFAULT_OPTIONS, "reduction": 2, "groups": 4, **options}
    unit = make_attention_unit(name, CHANNELS, EXTRA, options)
    unit.initialise()
    return unit.eval()


def randomised(unit: AttentionUnit) -> AttentionUnit:
    unit = copy.deepcopy(unit)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in unit.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return unit


def tokens(seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, EXTRA + SIDE * SIDE, CHANNELS, generator=generator)


def gate_of(unit: AttentionUnit, y: Tensor) -> Tensor:
    return unit.full_gate(y, unit.initial_state(y), 0)[0]


def factors(unit: AttentionUnit, paper: AttentionUnit, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the channels' and the patches' maps of a unit, the latter 1 where it has none."""
    _, channel_map, _ = paper.full_gate(y, paper.initial_state(y), 0)
    by_token = gate_of(paper, y)
    if type(unit).__name__ == "CBAM":
        return channel_map[:, None], by_token / channel_map[:, None]
    return by_token, torch.ones_like(by_token)


# ---------------------------------------------------------------- the formulas


@pytest.mark.parametrize("name", UNITS)
def test_a_rescaled_gate_is_h_over_its_start(name: str) -> None:
    y = tokens()
    paper, rescaled = (make_unit(name, gate_init=init) for init in ("paper", "rescaled"))
    rescaled.load_state_dict(randomised(paper).state_dict())
    paper.load_state_dict(rescaled.state_dict())
    expected = gate_of(paper, y) / paper.gate.map_start
    if name == "cbam":  # both of its maps are divided; its second one sees rescaled channels
        channels, _ = factors(paper, paper, y)
        expected = channels / 0.5
        found = gate_of(rescaled, y)[:, :EXTRA]  # tokens without a place in the grid
        torch.testing.assert_close(found, expected.expand_as(found), rtol=1e-5, atol=1e-6)
        return
    torch.testing.assert_close(gate_of(rescaled, y), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", UNITS)
def test_a_rescaled_gate_starts_near_one(name: str) -> None:
    """The fresh weights are small, so the map is near its start, which "rescaled" divides by."""
    gate = gate_of(make_unit(name, gate_init="rescaled"), tokens())
    assert (gate - 1).abs().max() < (0.8 if name in ("eca", "sem", "cbam") else 0.05), name
    assert make_unit(name).gate.map_start == pytest.approx(START[name])


START = {"lstm": 0.25, "dia_lstm": 0.25, "dia_lstm_light": 0.25, "se": 0.5, "eca": 0.5}
START |= {"cbam": 0.5, "srm": 0.5, "spa": 0.5, "sge": 0.731059, "spem": 0.0320586, "sem": 0.125}
START |= {"constant": 0.25}


@pytest.mark.parametrize("name", [name for name in UNITS if name != "cbam"])
def test_a_mean_one_gate_averages_to_one_over_the_channels(name: str) -> None:
    y = tokens()
    paper, unit = (make_unit(name, gate_form=form) for form in ("h", "mean_one"))
    unit.load_state_dict(randomised(paper).state_dict())
    paper.load_state_dict(unit.state_dict())
    gate, h = gate_of(unit, y), gate_of(paper, y)
    torch.testing.assert_close(gate.mean(dim=-1), torch.ones(gate.shape[:-1]), rtol=0, atol=1e-5)
    torch.testing.assert_close(gate, h / h.mean(dim=-1, keepdim=True), rtol=1e-5, atol=1e-6)


def test_cbams_patch_gate_averages_to_one_over_the_patches() -> None:
    unit = make_unit("cbam", gate_form="mean_one")
    unit.load_state_dict(randomised(unit).state_dict())
    gate = gate_of(unit, tokens())
    channels = gate[:, :1]  # the time token has no place in the grid
    torch.testing.assert_close(channels.mean(dim=-1), torch.ones(BATCH, 1), rtol=0, atol=1e-5)
    patches = (gate / channels)[:, EXTRA:]
    torch.testing.assert_close(patches.mean(dim=1), torch.ones(BATCH, CHANNELS), rtol=0, atol=1e-4)
    assert patches.std(dim=1).min() > 1e-3


@pytest.mark.parametrize("name", RESIDUAL)
def test_a_residual_gate_is_one_plus_a_times_the_change_of_h(name: str) -> None:
    y, paper = tokens(), make_unit(name)
    unit = make_unit(name, gate_form="residual")
    assert unit.gate.residual.shape == (CHANNELS,)
    assert torch.equal(gate_of(unit, y), torch.ones_like(gate_of(unit, y)))  # a starts at 0
    paper = randomised(paper)
    unit.load_state_dict(paper.state_dict(), strict=False)
    with torch.no_grad():
        unit.gate.residual.copy_(torch.linspace(-2, 3, CHANNELS))
    channels, _ = factors(unit, paper, y)
    expected = 1 + torch.linspace(-2, 3, CHANNELS) * (channels - START[name])
    found = gate_of(unit, y)[:, :EXTRA] if name == "cbam" else gate_of(unit, y)
    torch.testing.assert_close(found, expected.expand_as(found), rtol=1e-5, atol=1e-5)


def test_cbams_patches_have_a_residual_weight_of_their_own() -> None:
    unit = make_unit("cbam", gate_form="residual")
    keys = {key for key, _ in unit.named_parameters() if "residual" in key}
    assert keys == {"gate.residual", "patch_gate.residual"}
    assert unit.patch_gate.residual.shape == (1,)
    changed = randomised(unit)
    with torch.no_grad():
        changed.gate.residual.zero_()
    gate = gate_of(changed, tokens())
    assert torch.equal(gate[:, :EXTRA], torch.ones_like(gate[:, :EXTRA]))
    assert gate[:, EXTRA:].std(dim=1).min() > 1e-3


@pytest.mark.parametrize(("init", "form"), FORMS)
@pytest.mark.parametrize("name", UNITS)
def test_weights_beside_the_forms_own_are_the_same(name: str, init: str, form: str) -> None:
    """Only "residual" adds weights, under names of its own."""
    if form == "residual" and name in CONSTANT_STARTS:
        pytest.skip("refused")
    options = {"gate_init": init, "gate_form": form}
    plain, unit = make_unit(name), make_unit(name, **options)
    added = set(unit.state_dict()) - set(plain.state_dict())
    expected = {"gate.residual", "patch_gate.residual"} if name == "cbam" else {"gate.residual"}
    assert added == (expected if form == "residual" else set())
    assert set(plain.state_dict()) <= set(unit.state_dict())


# ---------------------------------------------------------------- in the network


@pytest.mark.parametrize(("init", "form"), [pair for pair in FORMS if pair != ("paper", "h")])
@pytest.mark.parametrize("name", [name for name in UNITS if name != "constant"])
def test_every_start_can_be_left(name: str, init: str, form: str) -> None:
    """After a few steps the map of two images differs, so the gate reads what it multiplies."""
    if form == "residual" and name in CONSTANT_STARTS:
        pytest.skip("refused")
    torch.manual_seed(0)
    options = {"gate_init": init, "gate_form": form, "reduction": 2, "groups": 4}
    options |= {"activation": "sigmoid"} if name == "lstm" else {}
    model = UViT(**SMALL, attention=name, attention_options=options).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x, t = torch.randn(8, 1, 8, 8), torch.linspace(0, 999, 8)
    before = {k: v.clone() for k, v in model.attention_unit.named_parameters()}
    for _ in range(4):
        optimizer.zero_grad()
        (model(x, t) - x.flip(0)).square().mean().backward()
        optimizer.step()
    moved = {k for k, v in model.attention_unit.named_parameters() if not torch.equal(v, before[k])}
    assert moved
    unit = model.attention_unit.eval()
    y = 3 * torch.randn(2, 17, CHANNELS, generator=torch.Generator().manual_seed(4))
    first, second = gate_of(unit, y).mean(dim=1)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("form", ["rescaled", "mean_one", "residual"])
def test_forms_are_float32_under_bfloat16_and_compile(form: str) -> None:
    options = {"gate_init": "rescaled"} if form == "rescaled" else {"gate_form": form}
    torch.manual_seed(0)
    model = UViT(**SMALL, attention="dia_lstm", attention_options=options).eval()
    nn.init.normal_(model.attention_unit.cell.input_expand.weight)
    if form == "residual":
        nn.init.ones_(model.attention_unit.gate.residual)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([10.0, 500.0])
    expected = model(x, t)
    torch.compiler.reset()
    compiled: Any = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, t), expected, rtol=1e-5, atol=1e-6)
    found = copy.deepcopy(model).bfloat16()(x.bfloat16(), t)
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.5, "papers"), "gate_init must be one of paper, identity, rescaled, got 'papers'"),
        ((0.5, "paper", "two"), "gate_form must be one of h, mean_one, residual, got 'two'"),
        ((0.5, "identity", "residual"), "gate_form='residual' goes with gate_init='paper' alone"),
        ((0.5, "rescaled", "mean_one"), "gate_form='mean_one' goes with gate_init='paper' alone"),
        ((0.0, "rescaled"), "divides by the attention map's start, which is 0.0 here"),
        ((0.0, "paper", "mean_one"), "'mean_one' divides by .* activation sigmoid"),
        ((None, "rescaled"), "which is None here"),
        ((None, "identity"), "needs a unit that tells the start of its attention map"),
        ((None, "paper", "residual"), "needs a unit that tells the start"),
    ],
)
def test_gates_that_cannot_be_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Gate(CHANNELS, *arguments)


@pytest.mark.parametrize("name", CONSTANT_STARTS)
def test_a_residual_gate_of_a_constant_map_would_never_move(name: str) -> None:
    with pytest.raises(ValueError, match="residual' would stay at its start with"):
        make_unit(name, gate_form="residual")
    unit = make_unit(name)
    maps = [unit.full_gate(tokens(k), unit.initial_state(tokens(k)), 0)[1] for k in (2, 3)]
    assert torch.equal(*maps)
    with pytest.raises(ValueError, match="residual' needs normalisation='default' in CBAM"):
        make_unit("cbam", gate_form="residual", normalisation="block")


def test_a_gate_of_tanh_has_nothing_to_divide_by() -> None:
    for options in ({"gate_init": "rescaled"}, {"gate_form": "mean_one"}):
        with pytest.raises(ValueError, match="needs activation sigmoid"):
            make_unit("lstm", activation="tanh", **options)
    make_unit("lstm", activation="tanh", gate_form="residual")
