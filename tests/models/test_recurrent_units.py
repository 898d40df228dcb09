"""The recurrent cells against the authors' numbers and hand-written ones; units, their dropout."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from uvit_dia.config.units import DEFAULT_OPTIONS
from uvit_dia.models.units import recurrent_cells
from uvit_dia.models.units.recurrent import RecurrentUnit
from uvit_dia.models.units.recurrent_cells import (
    UPPER_DROPOUT,
    DIALSTMCell,
    DIALSTMLightCell,
    LSTMCell,
    RecurrentCell,
)
from uvit_dia.models.units.registry import make_attention_unit

GOLDEN = Path(__file__).parents[1] / "golden" / "dia_lstm_r4.safetensors"
N = 12
BATCH = 5
NAMES = ("lstm", "dia_lstm", "dia_lstm_light")

CELLS: dict[str, Callable[..., RecurrentCell]] = {
    "lstm": LSTMCell,
    "dia_lstm": DIALSTMCell,
    "dia_lstm_light": DIALSTMLightCell,
}


def randomise(module: torch.nn.Module, scale: float = 0.5) -> None:
    """Give every parameter, biases too, a value that shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def make_cell(name: str, channels: int = N, **settings: Any) -> RecurrentCell:
    cell = CELLS[name](channels, **settings)
    randomise(cell)
    return cell.eval()


def make_unit(name: str = "dia_lstm", channels: int = N, **options: Any) -> RecurrentUnit:
    unit = make_attention_unit(name, channels, 2, {**DEFAULT_OPTIONS, **options})
    randomise(unit)
    return unit.eval()


def inputs(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def count(module: torch.nn.Module, *, biases: bool) -> int:
    """Count weights alone, or biases alone; `shift` of the Light cell counts, as in Eq. 5."""
    return sum(
        p.numel() for name, p in module.named_parameters() if (name.endswith("bias")) == biases
    )


# ---------------------------------------------------------------- a reference in float64

OUT = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}


def linear(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def path(name: str, weights: dict[str, Tensor], side: str, x: Tensor, reduction: int) -> Tensor:
    """Compute what one path gives to the gates of the lowest cell, (B, 4N)."""
    if name == "lstm":
        return linear(weights, side, x)
    reduced = linear(weights, f"{side}_reduce", x).clamp(min=0)
    if name == "dia_lstm":
        return linear(weights, f"{side}_expand", reduced)
    repeated = torch.cat([reduced] * reduction, dim=1)
    scale, shift = weights[f"{side}_scale"], weights[f"{side}_shift"]
    return torch.cat([scale[k] * repeated + shift[k] for k in range(4)], dim=1)


def reference(
    name: str, cell: RecurrentCell, steps: Tensor, *, reduction: int, activation: str
) -> tuple[Tensor, Tensor]:
    """Run a cell over steps, (T, B, N), from the definitions, in float64.

    Returns:
        h and c, each (T, num_cells, B, N).
    """
    weights = {key: value.double() for key, value in cell.state_dict().items()}
    zeros = torch.zeros(steps.shape[1:], dtype=torch.float64)
    h, c = [zeros] * cell.num_cells, [zeros] * cell.num_cells
    all_h, all_c = [], []
    for s in steps.double():
        x = s
        for k in range(cell.num_cells):
            if k == 0:
                gates = path(name, weights, "input", x, reduction)
                gates = gates + path(name, weights, "hidden", h[0], reduction)
            else:
                gates = linear(weights, f"upper.{k - 1}.input", x)
                gates = gates + linear(weights, f"upper.{k - 1}.hidden", h[k])
            width = gates.shape[1] // 4
            i, f, g, o = (gates[:, j * width : (j + 1) * width] for j in range(4))
            c[k] = f.sigmoid() * c[k] + i.sigmoid() * g.tanh()
            h[k] = x = o.sigmoid() * OUT[activation](c[k])
        all_h.append(torch.stack(h))
        all_c.append(torch.stack(c))
    return torch.stack(all_h), torch.stack(all_c)


def run(cell: RecurrentCell, steps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Run a cell over steps; return attention maps (T, B, N), and h and c, (T, num_cells, B, N)."""
    state = cell.initial_state(steps.shape[1], steps.device)
    maps, hs, cs = [], [], []
    with torch.no_grad():
        for s in steps:
            attention_map, state = cell(s, state)
            maps.append(attention_map)
            hs.append(state[0])
            cs.append(state[1])
    return torch.stack(maps), torch.stack(hs), torch.stack(cs)


# ---------------------------------------------------------------- cells


def test_dia_lstm_agrees_with_the_authors_cell_at_every_step() -> None:
    with safe_open(GOLDEN, "pt") as file:
        golden = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        facts = json.loads(file.metadata()["config"])
    assert facts["order"] == "i,f,g,o"
    cell = DIALSTMCell(facts["N"], facts["reduction"], num_cells=facts["layers"])
    names = {"w_ih.0.seq.0": "input_reduce", "w_ih.0.seq.2": "input_expand"}
    names |= {"w_hh.0.seq.0": "hidden_reduce", "w_hh.0.seq.2": "hidden_expand"}
    cell.load_state_dict(
        {
            f"{ours}.{kind}": golden[f"state_dict.{theirs}.{kind}"]
            for theirs, ours in names.items()
            for kind in ("weight", "bias")
        },
        strict=True,
    )
    maps, h, c = run(cell.eval(), golden["input.s"])
    torch.testing.assert_close(h, golden["output.h"], rtol=0, atol=1e-6)
    torch.testing.assert_close(c, golden["output.c"], rtol=0, atol=1e-6)
    torch.testing.assert_close(maps, golden["output.h"][:, -1], rtol=0, atol=1e-6)


def test_lstm_agrees_with_torch() -> None:
    cell = make_cell("lstm")
    theirs = torch.nn.LSTMCell(N, N)
    weights = cell.state_dict()
    theirs.load_state_dict(
        {
            "weight_ih": weights["input.weight"],
            "bias_ih": weights["input.bias"],
            "weight_hh": weights["hidden.weight"],
            "bias_hh": weights["hidden.bias"],
        }
    )
    steps = inputs(6, BATCH, N)
    _, h, c = run(cell, steps)
    state = (torch.zeros(BATCH, N), torch.zeros(BATCH, N))
    for t, s in enumerate(steps):
        state = theirs(s, state)
        torch.testing.assert_close(h[t, 0], state[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(c[t, 0], state[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_cells", [1, 3])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
@pytest.mark.parametrize("name", NAMES)
def test_cells_agree_with_a_reference_in_float64(
    name: str, activation: str, num_cells: int
) -> None:
    settings = {} if name == "lstm" else {"reduction": 3}
    cell = make_cell(name, activation=activation, num_cells=num_cells, **settings)
    steps = inputs(5, BATCH, N)
    maps, h, c = run(cell, steps)
    expected_h, expected_c = reference(name, cell, steps, reduction=3, activation=activation)
    assert h.dtype == c.dtype == torch.float32
    torch.testing.assert_close(h.double(), expected_h, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(c.double(), expected_c, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(maps.double(), expected_h[:, -1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_cells", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_flow_through_h_and_c_as_in_the_reference(name: str, num_cells: int) -> None:
    """From the last attention map to the input of every step."""
    settings = {} if name == "lstm" else {"reduction": 1}
    cell = make_cell(name, activation="tanh", num_cells=num_cells, **settings)
    steps = inputs(4, BATCH, N).requires_grad_()
    state = cell.initial_state(BATCH, steps.device)
    for s in steps:
        attention_map, state = cell(s, state)
    (found,) = torch.autograd.grad(attention_map.square().sum(), steps)
    h, _ = reference(name, cell, steps, reduction=1, activation="tanh")
    (expected,) = torch.autograd.grad(h[-1, -1].square().sum(), steps)
    assert expected.flatten(1).abs().amax(dim=1).min() > 1e-5  # no step is without influence
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_light_cell_repeats_the_reduced_vector_along_the_channels() -> None:
    """Entry j of the reduced vector, of N / r, serves channels j, j + N / r, j + 2 N / r, ..."""
    cell = DIALSTMLightCell(8, reduction=4)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        cell.input_reduce.bias.copy_(torch.tensor([1.0, 10.0]))
        cell.input_scale.copy_(torch.arange(32.0).reshape(4, 8))
        cell.input_shift.fill_(0.5)
    gates = cell.lowest_gates(torch.zeros(1, 8), torch.zeros(1, 8))
    repeated = torch.tensor([1.0, 10.0] * 4)
    expected = torch.cat([torch.arange(8.0) + 8 * k for k in range(4)]) * repeated.repeat(4) + 0.5
    torch.testing.assert_close(gates[0], expected, rtol=0, atol=0)


def test_default_activations_are_those_of_the_paper() -> None:
    assert {name: make_unit(name).cell.activation for name in NAMES} == {
        "lstm": "tanh",
        "dia_lstm": "sigmoid",
        "dia_lstm_light": "sigmoid",
    }
    assert make_unit("lstm", activation="relu").cell.activation == "relu"


@pytest.mark.parametrize("name", ["dia_lstm", "dia_lstm_light"])
def test_default_reduction_is_4(name: str) -> None:
    assert make_unit(name).cell.reduction == CELLS[name](N).reduction == 4


# ---------------------------------------------------------------- how many weights


@pytest.mark.parametrize("num_cells", [1, 2, 3])
@pytest.mark.parametrize("reduction", [1, 4, 16])
@pytest.mark.parametrize("channels", [64, 256])
def test_weight_counts_follow_the_formulas(channels: int, reduction: int, num_cells: int) -> None:
    n, r = channels, reduction
    upper, upper_biases = 8 * n**2 * (num_cells - 1), 8 * n * (num_cells - 1)
    with torch.device("meta"):
        lstm = LSTMCell(n, num_cells=num_cells)
        dia = DIALSTMCell(n, r, num_cells=num_cells)
        light = DIALSTMLightCell(n, r, num_cells=num_cells)
    assert count(lstm, biases=False) == 8 * n**2 + upper
    assert count(lstm, biases=True) == 8 * n + upper_biases
    assert count(dia, biases=False) == 10 * n**2 // r + upper
    assert count(dia, biases=True) == 8 * n + 2 * n // r + upper_biases
    assert count(light, biases=False) == 2 * n**2 // r + 16 * n + upper
    assert count(light, biases=True) == 2 * n // r + upper_biases


def weights_of_three_stages(**settings: int) -> float:
    """Count the weights, in millions, that units of ResNet164's three stages add."""
    with torch.device("meta"):
        cells = [DIALSTMCell(n, **settings) for n in (64, 128, 256)]
    return sum(count(cell, biases=False) for cell in cells) / 1e6


@pytest.mark.parametrize(("reduction", "millions"), [(1, 0.86), (4, 0.22), (8, 0.11), (16, 0.05)])
def test_counts_of_table_12(reduction: int, millions: float) -> None:
    assert round(weights_of_three_stages(reduction=reduction), 2) == millions


def test_counts_of_table_14() -> None:
    three = weights_of_three_stages(reduction=4, num_cells=3)
    one = weights_of_three_stages(reduction=4, num_cells=1)
    assert round(three - one, 2) == 1.38


# ---------------------------------------------------------------- units


def test_unit_pools_steps_and_gates() -> None:
    unit = make_unit()
    y = inputs(BATCH, 7, N)
    state = unit.initial_state(y)
    for block_index in range(4):
        gated, attention_map, new = unit(y, state, block_index)
        expected, (h, c) = unit.cell(y.mean(dim=1), (state.h, state.c))
        torch.testing.assert_close(attention_map, expected, rtol=0, atol=1e-7)
        torch.testing.assert_close(new.h, h, rtol=0, atol=1e-7)
        torch.testing.assert_close(new.c, c, rtol=0, atol=1e-7)
        torch.testing.assert_close(gated, y * attention_map[:, None], rtol=0, atol=1e-7)
        state, y = new, inputs(BATCH, 7, N, seed=block_index + 2)


def test_state_starts_at_zero() -> None:
    """Eq. 4: h_0 = c_0 = 0."""
    state = make_unit(num_cells=2).initial_state(inputs(3, 7, N))
    assert state.h.shape == state.c.shape == (2, 3, N)
    assert not state.h.any() and not state.c.any()
    assert state.dropout_seeds is None


def test_new_unit_gates_with_about_a_quarter() -> None:
    """σ(0) · σ(0) = 0.25 where all weights are small, as at the start of training."""
    unit = make_attention_unit("dia_lstm", N, 2, DEFAULT_OPTIONS)
    randomise(unit, 1e-3)
    y = inputs(BATCH, 7, N)
    _, attention_map, _ = unit.eval()(y, unit.initial_state(y), 0)
    torch.testing.assert_close(attention_map, torch.full((BATCH, N), 0.25), rtol=0, atol=1e-2)


def test_pooling_patches_ignores_extra_tokens() -> None:
    unit = make_unit(pool="patches")
    y = inputs(BATCH, 7, N)
    changed = torch.cat([y[:, :2] + 10, y[:, 2:]], dim=1)  # two extra tokens
    gated, attention_map, _ = unit(changed, unit.initial_state(y), 0)
    _, expected, _ = unit(y, unit.initial_state(y), 0)
    torch.testing.assert_close(attention_map, expected, rtol=0, atol=0)
    torch.testing.assert_close(gated, changed * attention_map[:, None], rtol=0, atol=0)
    pooled, _ = unit.cell(y[:, 2:].mean(dim=1), unit.cell.initial_state(BATCH, y.device))
    torch.testing.assert_close(attention_map, pooled, rtol=0, atol=1e-6)


def test_pooling_all_tokens_does_not_ignore_them() -> None:
    unit = make_unit(pool="all")
    y = inputs(BATCH, 7, N)
    for token in range(7):
        changed = y.clone()
        changed[:, token] += 10
        maps = [unit(x, unit.initial_state(y), 0)[1] for x in (y, changed)]
        assert not torch.isclose(*maps).all(dim=1).any()


def test_gradient_reaches_an_earlier_block_through_the_state() -> None:
    unit = make_unit(reduction=1)  # wide enough that no image finds all ReLUs closed
    first, second = inputs(BATCH, 7, N).requires_grad_(), inputs(BATCH, 7, N, seed=9)
    _, _, state = unit(first, unit.initial_state(first), 0)
    _, attention_map, _ = unit(second, state, 1)
    attention_map.sum().backward()
    assert first.grad is not None
    assert (first.grad.flatten(1).abs().sum(dim=1) > 1e-4).all()


def test_nothing_stays_on_the_unit_between_two_calls() -> None:
    unit = make_unit(num_cells=2)
    y = inputs(BATCH, 7, N)
    state = unit.initial_state(y)
    before = [t.clone() for t in (state.h, state.c)]
    outputs = [unit(y, state, 0) for _ in range(2)]
    torch.testing.assert_close(outputs[0][1], outputs[1][1], rtol=0, atol=0)
    torch.testing.assert_close([state.h, state.c], before, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("short_parameters", [False, True])
def test_state_and_map_are_float32_under_bfloat16(name: str, short_parameters: bool) -> None:
    unit = make_unit(name, num_cells=2)
    y = inputs(BATCH, 7, N).to(torch.bfloat16)
    if short_parameters:
        unit = unit.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        gated, attention_map, state = unit(y, unit.initial_state(y), 0)
    assert gated.dtype == torch.bfloat16
    assert attention_map.dtype == state.h.dtype == state.c.dtype == torch.float32
    exact = unit.float()
    _, expected, expected_state = exact(y.float(), exact.initial_state(y), 0)
    torch.testing.assert_close(attention_map, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(state.c, expected_state.c, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- identity start


@pytest.mark.parametrize("num_cells", [1, 2])
@pytest.mark.parametrize("activation", ["default", "sigmoid", "tanh"])
@pytest.mark.parametrize("name", NAMES)
def test_identity_start_is_exact_at_every_block(name: str, activation: str, num_cells: int) -> None:
    unit = make_unit(name, activation=activation, num_cells=num_cells, gate_init="identity")
    unit.reset_gate()
    y = 3 * inputs(BATCH, 7, N)
    state = unit.initial_state(y)
    for block_index in range(5):
        gated, _, state = unit(y, state, block_index)
        assert not state.c[-1].any()  # tanh(0) = 0 feeds it nothing
        torch.testing.assert_close(gated, y, rtol=0, atol=0)


@pytest.mark.parametrize("num_cells", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_identity_start_can_be_left(name: str, num_cells: int) -> None:
    unit = make_unit(name, num_cells=num_cells, gate_init="identity")
    unit.reset_gate()
    y = inputs(BATCH, 7, N)
    gated, _, _ = unit(y, unit.initial_state(y), 0)
    (gated * inputs(BATCH, 7, N, seed=4)).sum().backward()
    gradients = {n: p.grad for n, p in unit.named_parameters() if p.grad is not None}
    assert any(gradient.abs().max() > 1e-4 for gradient in gradients.values())


def test_paper_start_leaves_the_weights_alone() -> None:
    unit = make_unit(gate_init="paper")
    before = {k: v.clone() for k, v in unit.state_dict().items()}
    unit.reset_gate()
    torch.testing.assert_close(unit.state_dict(), before, rtol=0, atol=0)


def test_identity_gate_lies_between_its_limits() -> None:
    """1 + tanh(4 (h - 0.25)) with h in (0, 1): from 0.24 to 2."""
    unit = make_unit(gate_init="identity")
    randomise(unit, 20)
    y = torch.ones(64, 3, N) * inputs(64, 1, N)
    gated, attention_map, _ = unit(y, unit.initial_state(y), 0)
    gate = gated / y
    expected = 1 + torch.tanh(4 * (attention_map.double() - 0.25))
    torch.testing.assert_close(gate[:, 0].double(), expected, rtol=1e-5, atol=1e-6)
    assert gate.min() > 0.238 and gate.max() < 2


# ---------------------------------------------------------------- dropout


def dropout_masks(unit: RecurrentUnit, seeds: Tensor | None, block_index: int) -> Tensor | None:
    """Return the masks that a unit gives to its cell."""
    given: list[Tensor | None] = []

    def keep(_: torch.nn.Module, arguments: tuple) -> None:
        given.append(arguments[2])

    y = torch.zeros(4 if seeds is None else len(seeds), 3, N)
    with unit.cell.register_forward_pre_hook(keep), torch.no_grad():
        unit(y, unit.initial_state(y, seeds), block_index)
    return given[0]


def test_dropout_masks_have_their_rate_and_scale() -> None:
    unit = make_unit(num_cells=3).train()
    masks = dropout_masks(unit, torch.arange(4000), 2)
    assert masks is not None
    assert masks.shape == (2, 4000, N)
    torch.testing.assert_close(
        masks.unique(), torch.tensor([0.0, 1 / (1 - UPPER_DROPOUT)]), rtol=0, atol=1e-7
    )
    for mask in masks:
        rate = (mask == 0).double().mean()
        assert abs(rate - 0.1) < 5 * (0.1 * 0.9 / mask.numel()) ** 0.5


def test_dropout_masks_differ_by_image_block_and_cell() -> None:
    unit = make_unit(channels=N, num_cells=3).train()
    seeds = torch.arange(200)
    masks = [dropout_masks(unit, seeds, block_index) for block_index in range(13)]
    rows = torch.cat([m.transpose(0, 1).reshape(200, -1) for m in masks if m is not None], dim=1)
    flat = torch.corrcoef(rows.reshape(200, 26, N).transpose(0, 1).reshape(26, -1))
    flat.fill_diagonal_(0)
    assert flat.abs().max() < 6 / (200 * N) ** 0.5  # no two sites drop alike
    assert len(rows.unique(dim=0)) == 200


def test_dropout_masks_belong_to_the_seed() -> None:
    unit = make_unit(num_cells=2).train()
    whole = dropout_masks(unit, torch.tensor([5, 6, 7]), 1)
    alone = dropout_masks(unit, torch.tensor([6]), 1)
    assert whole is not None and alone is not None
    torch.testing.assert_close(whole[:, 1:2], alone, rtol=0, atol=0)


def test_nothing_is_dropped_at_evaluation_or_in_a_single_cell() -> None:
    seeds = torch.arange(4)
    assert dropout_masks(make_unit(num_cells=3).eval(), seeds, 0) is None
    assert dropout_masks(make_unit(num_cells=1).train(), seeds, 0) is None
    assert dropout_masks(make_unit(num_cells=3).train(), None, 0) is None
    cell = make_cell("dia_lstm", num_cells=2)
    s = inputs(BATCH, N)
    maps = [cell(s, cell.initial_state(BATCH, s.device))[0] for _ in range(2)]
    torch.testing.assert_close(maps[0], maps[1], rtol=0, atol=0)


@pytest.mark.parametrize("with_masks", [True, False])
def test_dropout_stands_between_an_h_and_the_next_cell(
    monkeypatch: pytest.MonkeyPatch, with_masks: bool
) -> None:
    """It leaves the recurrent path and the state alone, and has its rate with masks or without."""
    cell = make_cell("dia_lstm", num_cells=2).train()
    entered: list[Tensor] = []
    upper: Any = cell.upper[0]

    def spy(layer: torch.nn.Linear, x: Tensor) -> Tensor:
        if layer is upper["input"]:
            entered.append(x)
        return F.linear(x, layer.weight, layer.bias)

    monkeypatch.setattr(recurrent_cells, "linear_float32", spy)
    s = inputs(2000, N)
    masks = (inputs(1, 2000, N).abs() > 0.1257).float() / 0.9 if with_masks else None
    _, (h, _) = cell(s, cell.initial_state(2000, s.device), masks)
    plain, _ = reference("dia_lstm", cell, s[None], reduction=4, activation="sigmoid")
    torch.testing.assert_close(h[0].double(), plain[0, 0], rtol=1e-5, atol=1e-6)
    ratio = entered[0] / h[0]
    if masks is not None:
        torch.testing.assert_close(ratio, masks[0], rtol=1e-5, atol=0)
    dropped = (ratio == 0).double().mean()
    assert abs(dropped - 0.1) < 5 * (0.1 * 0.9 / ratio.numel()) ** 0.5
    torch.testing.assert_close(
        ratio[ratio != 0], torch.full_like(ratio[ratio != 0], 1 / 0.9), rtol=1e-5, atol=0
    )


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LSTMCell(0), "channels must be at least 1, got 0"),
        (lambda: LSTMCell(8, "gelu"), "activation must be one of sigmoid, tanh, relu, got 'gelu'"),
        (lambda: LSTMCell(8, num_cells=0), "num_cells must be at least 1, got 0"),
        (lambda: DIALSTMCell(8, 3), "divide the 8 channels, got 3"),
        (lambda: DIALSTMCell(8, 0), "at least 1 and divide the 8 channels, got 0"),
        (lambda: DIALSTMCell(8, 16), "divide the 8 channels, got 16"),
        (lambda: DIALSTMLightCell(8, -2), "at least 1 and divide the 8 channels, got -2"),
        (lambda: make_unit(pool="max"), "pool must be one of all, patches, got 'max'"),
        (
            lambda: make_unit(gate_init="one"),
            "gate_init must be one of paper, identity, rescaled, got 'one'",
        ),
        (
            lambda: make_unit(gate_init="identity", activation="relu"),
            "gate_init='identity' needs activation sigmoid or tanh",
        ),
        (lambda: make_unit("sa"), "attention must be one of none, lstm, dia_lstm.*got 'sa'"),
        (lambda: make_unit("none"), "attention must be one of"),
    ],
)
def test_wrong_arguments_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
