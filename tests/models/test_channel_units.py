"""Units without a state: against float64 references and timm, their counts, and what is refused."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from uvit_dia.config.units import DEFAULT_OPTIONS, UNITS
from uvit_dia.models.units.channel import eca_kernel_size
from uvit_dia.models.units.own_units import facts_of_class
from uvit_dia.models.units.protocol import AttentionUnit
from uvit_dia.models.units.registry import ATTENTION_NAMES, CLASSES, make_attention_unit
from uvit_dia.models.units.spatial import CBAM, SPA
from uvit_dia.models.uvit import UViT

NAMES = tuple(name for name in CLASSES if name != "constant")
# gates that are the same for every token
BY_CHANNEL = ("se", "eca", "srm", "spa", "spem", "sem")
OF_TABLES = {"reduction": 4, "groups": 8}  # in the formulas below
BATCH, SIDE, EXTRA, CHANNELS = 3, 4, 2, 16
TOKENS = EXTRA + SIDE * SIDE


def make_unit(name: str, channels: int = CHANNELS, extra: int = EXTRA, **options: Any) -> Any:
    """Build a unit whose every parameter, biases too, has a value that shows."""
    complete = {**DEFAULT_OPTIONS, **OF_TABLES, **options}
    unit = make_attention_unit(name, channels, extra, complete, (0, 1))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in unit.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return unit.eval()


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def call(unit: AttentionUnit, y: Tensor, **arguments: Any) -> tuple[Tensor, Tensor]:
    gated, attention_map, _ = unit(y, unit.initial_state(y), 0, **arguments)
    return gated, attention_map


# ---------------------------------------------------------------- references in float64


def weights_of(unit: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().double() for name, tensor in unit.state_dict().items()}


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


def mlp(w: dict[str, Tensor], s: Tensor) -> Tensor:
    hidden = (s @ w["reduce.weight"].T + w.get("reduce.bias", 0)).clamp(min=0)
    return hidden @ w["expand.weight"].T + w.get("expand.bias", 0)


def neighbours(w: dict[str, Tensor], s: Tensor) -> Tensor:
    """Weigh each channel's k neighbours, zeros outside, one by one."""
    kernel = w["conv.weight"].flatten()
    reach = len(kernel) // 2
    out = torch.zeros_like(s)
    for channel in range(s.shape[1]):
        for offset, weight in zip(range(-reach, reach + 1), kernel, strict=True):
            if 0 <= channel + offset < s.shape[1]:
                out[:, channel] += weight * s[:, channel + offset]
    return out


def reference(name: str, unit: torch.nn.Module, y: Tensor, first: int) -> Tensor:
    """Compute what multiplies y, (B, L, D) or (B, 1, D), from the papers' equations, in float64."""
    w, y = weights_of(unit), y.double()
    pooled = y[:, first:]
    mean = pooled.mean(1)
    if name == "se":
        return sigmoid(mlp(w, mean))[:, None]
    if name == "eca":
        return sigmoid(neighbours(w, mean))[:, None]
    if name == "srm":
        std = ((pooled - mean[:, None]).square().mean(1) + 1e-5).sqrt()
        z = mean * w["style"][:, 0] + std * w["style"][:, 1]
        norm = {k.removeprefix("norms.0."): v for k, v in w.items() if k.startswith("norms.0.")}
        z = (z - norm["running_mean"]) / (norm["running_var"] + 1e-5).sqrt()
        return sigmoid(z * norm["weight"] + norm["bias"])[:, None]
    if name == "spem":
        high, low = (
            x * w["pooled_scale"] + w["pooled_shift"] for x in (pooled.amax(1), pooled.amin(1))
        )
        share = w["mixture"][0] ** 2 / (w["mixture"] ** 2).sum()
        mixed = (share * high + (1 - share) * low) * w["mixed_scale"] + w["mixed_shift"]
        return (sigmoid(high + low) * sigmoid(mixed))[:, None]
    if name == "sem":
        switch = sigmoid(mean @ w["switch.weight"].T + w["switch.bias"])
        parts = (mlp(w, mean), neighbours(w, mean), mean * w["scale"] + w["shift"])
        gate = torch.ones_like(mean)
        for k, part in enumerate(parts):
            gate = gate * sigmoid(switch[:, k : k + 1] * part)
        return gate[:, None]
    if name == "sge":
        gate = torch.empty_like(y)
        size = y.shape[2] // len(w["scale"])
        for g in range(len(w["scale"])):
            part = slice(g * size, (g + 1) * size)
            likeness = (y[:, :, part] * mean[:, None, part]).sum(-1)
            seen = likeness[:, first:]
            z = (likeness - seen.mean(1, keepdim=True)) / (seen.std(1, keepdim=True) + 1e-5)
            gate[:, :, part] = sigmoid(z * w["scale"][g] + w["shift"][g])[:, :, None]
        return gate
    image = y[:, EXTRA:].reshape(len(y), SIDE, SIDE, -1)
    if name == "spa":
        numbers = []
        for side in (1, 2, 4):
            cell = SIDE // side
            by_channel = [
                image[:, r * cell : (r + 1) * cell, c * cell : (c + 1) * cell].mean((1, 2))
                for r in range(side)
                for c in range(side)
            ]
            numbers.append(torch.stack(by_channel, dim=2).flatten(1))  # channel by channel
        return sigmoid(mlp(w, torch.cat(numbers, 1)))[:, None]
    assert name == "cbam"
    channel = sigmoid(mlp(w, mean) + mlp(w, pooled.amax(1)))
    image = image * channel[:, None, None]
    seen = torch.stack([image.mean(-1), image.amax(-1)], dim=1)
    spatial = sigmoid(F.conv2d(F.pad(seen, (3, 3, 3, 3)), w["spatial.weight"]))[:, 0].flatten(1)
    gate = channel[:, None].repeat(1, y.shape[1], 1)
    gate[:, EXTRA:] *= spatial[:, :, None]
    return gate


@pytest.mark.parametrize("pool", ["all", "patches"])
@pytest.mark.parametrize("name", NAMES)
def test_units_agree_with_references_in_float64(name: str, pool: str) -> None:
    unit, y = make_unit(name, pool=pool), tokens(BATCH, TOKENS, CHANNELS)
    if name == "srm":
        unit.norms["0"].running_mean.copy_(0.1 * tokens(CHANNELS))
        unit.norms["0"].running_var.copy_(0.5 + tokens(CHANNELS, seed=2).square())
    gate = reference(name, unit, y, EXTRA if pool == "patches" else 0)
    gated, attention_map = call(unit, y)
    atol = 5e-6 if name == "sge" else 1e-6  # which divides by a spread, in float32
    torch.testing.assert_close(gated.double(), y.double() * gate, rtol=0, atol=atol)
    assert attention_map.shape == (BATCH, CHANNELS)
    assert attention_map.dtype == torch.float32
    if name in BY_CHANNEL:
        torch.testing.assert_close(attention_map.double(), gate[:, 0], rtol=0, atol=1e-6)
    elif name == "sge":
        torch.testing.assert_close(attention_map.double(), gate.mean(1), rtol=0, atol=atol)


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("pool", ["all", "patches"])
@pytest.mark.parametrize("name", NAMES)
def test_one_token_gives_finite_numbers(name: str, pool: str, mode: bool) -> None:
    """Feature maps of 1 x 1, and one patch among extra tokens, have nothing to be compared with."""
    for extra in (0, EXTRA):
        unit = make_unit(name, extra=extra, pool=pool).train(mode)
        y = tokens(BATCH, extra + 1, CHANNELS).requires_grad_()
        gated, attention_map = call(unit, y)
        gated.square().sum().backward()
        found = (gated, attention_map, y.grad, *(p.grad for p in unit.parameters()))
        assert all(tensor.isfinite().all() for tensor in found if tensor is not None)
        if name == "sge" and (pool == "patches" or extra == 0):
            expected = torch.sigmoid(unit.shift).repeat_interleave(CHANNELS // 8)
            torch.testing.assert_close(attention_map, expected.expand(BATCH, -1))


# ---------------------------------------------------------------- against timm


def as_map(y: Tensor) -> Tensor:
    return y.transpose(1, 2).unflatten(2, (SIDE, SIDE))


def as_tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def test_se_agrees_with_timm() -> None:
    timm = pytest.importorskip("timm.layers")
    unit = make_unit("se", extra=0)
    theirs = timm.SEModule(CHANNELS, rd_channels=CHANNELS // 4).double()
    with torch.no_grad():
        for layer, name in ((unit.reduce, "fc1"), (unit.expand, "fc2")):
            getattr(theirs, name).weight.copy_(layer.weight[:, :, None, None])
            getattr(theirs, name).bias.copy_(layer.bias)
    y = tokens(BATCH, SIDE * SIDE, CHANNELS)
    expected = as_tokens(theirs(as_map(y.double())))
    torch.testing.assert_close(call(unit, y)[0].double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [16, 64, 256, 512])
def test_eca_agrees_with_timm(channels: int) -> None:
    timm = pytest.importorskip("timm.layers")
    unit = make_unit("eca", channels, extra=0)
    theirs = timm.EcaModule(channels).double()
    with torch.no_grad():
        theirs.conv.weight.copy_(unit.conv.weight)  # of the same length
    y = tokens(BATCH, SIDE * SIDE, channels)
    expected = as_tokens(theirs(as_map(y.double())))
    torch.testing.assert_close(call(unit, y)[0].double(), expected, rtol=0, atol=1e-6)


def test_cbam_agrees_with_timm() -> None:
    """There, the MLP has no biases, and a normalisation stands after the 7 x 7 convolution."""
    timm = pytest.importorskip("timm.layers.cbam")
    unit = make_unit("cbam", extra=0)
    theirs = timm.CbamModule(CHANNELS, rd_channels=CHANNELS // 4, spatial_kernel_size=7)
    theirs = theirs.double().eval()
    theirs.spatial.conv.bn.eps = 0.0
    with torch.no_grad():
        unit.reduce.bias.zero_()
        unit.expand.bias.zero_()
        theirs.channel.fc1.weight.copy_(unit.reduce.weight[:, :, None, None])
        theirs.channel.fc2.weight.copy_(unit.expand.weight[:, :, None, None])
        theirs.spatial.conv.conv.weight.copy_(unit.spatial.weight)
    y = tokens(BATCH, SIDE * SIDE, CHANNELS)
    expected = as_tokens(theirs(as_map(y.double())))
    torch.testing.assert_close(call(unit, y)[0].double(), expected, rtol=0, atol=1e-6)


# ---------------------------------------------------------------- counts and sharing

COUNTS = {  # weights without the biases of Linear and normalisation layers, N = 64, r = 4, G = 8
    "se": 2 * 64 * 64 // 4,
    "eca": 3,
    "cbam": 2 * 64 * 64 // 4 + 98,
    "srm": 2 * 64,
    "spa": 22 * 64 * 64 // 4,
    "sge": 2 * 8,
    "spem": 4 * 64 + 2,
    "sem": 2 * 64 * 64 // 4 + 5 * 64 + 3,
}


def count(model: torch.nn.Module) -> int:
    return sum(
        p.numel()
        for name, p in model.named_parameters()
        if name.startswith("attention_unit.")
        and not name.endswith("bias")
        and ".norms." not in name
    )


def make_uvit(**changes: Any) -> UViT:
    shape = {"img_size": 8, "patch_size": 2, "in_chans": 1, "embed_dim": 64}
    torch.manual_seed(0)
    return UViT(**{**shape, "depth": 4, "num_heads": 2, **changes})


@pytest.mark.parametrize("name", NAMES)
def test_sharing_leaves_one_nth_of_the_weights(name: str) -> None:
    """Table III; each block has a normalisation of its own in SRM."""
    shared, unshared = (
        make_uvit(attention=name, attention_options={"shared": shared, **OF_TABLES})
        for shared in (True, False)
    )
    assert count(shared) == COUNTS[name]
    assert count(unshared) == 5 * COUNTS[name]
    for model in (shared, unshared):
        norms = [n for n, _ in model.named_parameters() if ".norms." in n]
        assert len(norms) == (10 if name == "srm" else 0)


@pytest.mark.parametrize(("channels", "k"), [(8, 3), (64, 3), (128, 5), (256, 5), (512, 5)])
def test_eca_kernel_size_follows_its_equation(channels: int, k: int) -> None:
    assert eca_kernel_size(channels) == k


def test_the_table_of_units_is_what_their_classes_say() -> None:
    assert ("none", *UNITS) == ATTENTION_NAMES
    for name, unit in CLASSES.items():
        told, facts = UNITS[name], facts_of_class(unit)
        assert set(told.options) == set(facts.options), name
        assert told.normalises_over_images == facts.normalises_over_images, name
        assert told.has_running_averages == facts.has_running_averages, name


# ---------------------------------------------------------------- in the network


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_identity_start_equals_the_network_without_a_unit(name: str, shared: bool) -> None:
    model = make_uvit(attention=name, attention_options={"shared": shared, "gate_init": "identity"})
    plain = make_uvit()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "unit" not in k})
    x, t = tokens(BATCH, 1, 8, 8), torch.tensor([0.0, 400.0, 999.0])
    for mode in (True, False):  # srm normalises with the batch, or with what it has seen
        torch.testing.assert_close(model.train(mode)(x, t), plain(x, t), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_identity_start_can_be_left(name: str) -> None:
    model = make_uvit(attention=name, attention_options={"gate_init": "identity"}).train()
    x, t = tokens(BATCH, 1, 8, 8), torch.tensor([0.0, 400.0, 999.0])
    model(x, t).square().mean().backward()
    unit = model.attention_unit
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in unit.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_paper_start_multiplies_with_the_map(name: str) -> None:
    unit, y = make_unit(name), tokens(BATCH, TOKENS, CHANNELS)
    gate = torch.tensor([[0.2, 0.7]])
    assert unit.gate(gate) is gate
    if name in BY_CHANNEL:
        gated, attention_map = call(unit, y)
        torch.testing.assert_close(gated, y * attention_map[:, None])


def test_tokens_outside_the_grid_keep_the_gate_of_the_channels() -> None:
    unit, y = make_unit("cbam"), tokens(BATCH, TOKENS, CHANNELS)
    gated, attention_map = call(unit, y)
    torch.testing.assert_close(gated[:, :EXTRA], (y * attention_map[:, None])[:, :EXTRA])
    assert not torch.allclose(gated[:, EXTRA:], (y * attention_map[:, None])[:, EXTRA:])


@pytest.mark.parametrize("kind", [CBAM, SPA])
def test_the_grid_is_rows_by_columns(kind: type) -> None:
    name = kind.__name__.lower()
    unit, y = make_unit(name, extra=0), tokens(BATCH, 32, CHANNELS)
    assert not torch.allclose(call(unit, y, grid=(4, 8))[0], call(unit, y, grid=(8, 4))[0])
    assert torch.equal(unit.patches(y, (4, 8))[0, 3, 1], y[0, 8:16, 3])


def test_srm_has_a_normalisation_a_block() -> None:
    unit, y = make_unit("srm").train(), tokens(BATCH, TOKENS, CHANNELS)
    unit(y, unit.initial_state(y), 1)
    assert unit.norms["1"].num_batches_tracked == 1
    assert unit.norms["0"].num_batches_tracked == 0
    assert not torch.equal(unit.norms["1"].running_var, unit.norms["0"].running_var)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("short_parameters", [False, True])
def test_maps_are_float32_under_bfloat16(name: str, short_parameters: bool) -> None:
    unit, y = make_unit(name), tokens(BATCH, TOKENS, CHANNELS).bfloat16()
    if short_parameters:
        unit = unit.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=not short_parameters):
        gated, attention_map = call(unit, y)
    assert gated.dtype == torch.bfloat16
    assert attention_map.dtype == torch.float32
    assert not torch.equal(attention_map, attention_map.bfloat16().float())


@pytest.mark.parametrize("name", ATTENTION_NAMES[1:])
def test_networks_of_bfloat16_run_forwards_and_backwards(name: str) -> None:
    whole = make_uvit(attention=name)
    model = copy.deepcopy(whole).bfloat16()
    x, t = tokens(BATCH, 1, 8, 8), torch.tensor([0.0, 400.0, 999.0])
    for mode in (True, False):
        found = model.train(mode)(x.bfloat16(), t)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), whole.train(mode)(x, t), rtol=0.05, atol=0.05)
        model.zero_grad()
        found.float().square().mean().backward()
        gradients = [p.grad for p in model.attention_unit.parameters() if p.grad is not None]
        assert bool(gradients) == (name != "constant")
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_srm_keeps_running_statistics_in_bfloat16() -> None:
    short, whole = make_unit("srm").bfloat16().train(), make_unit("srm").train()
    whole.load_state_dict(short.state_dict())  # rounded once
    for seed in range(30):
        y = tokens(BATCH, TOKENS, CHANNELS, seed=seed).bfloat16()
        for unit in (short, whole):
            call(unit, y)
    found, expected = short.norms["0"], whole.norms["0"]
    assert found.num_batches_tracked == 30
    assert found.running_var.dtype == torch.bfloat16
    for name in ("running_mean", "running_var"):  # each update is rounded, to 8 bits
        torch.testing.assert_close(
            getattr(found, name).float(), getattr(expected, name), rtol=0.05, atol=1e-3
        )
    assert not torch.equal(found.running_mean, torch.zeros_like(found.running_mean))


@pytest.mark.parametrize("name", NAMES)
def test_gradient_checkpointing_changes_nothing(name: str) -> None:
    found = []
    for is_on in (False, True):
        model = make_uvit(attention=name).train()
        if is_on:
            model.enable_gradient_checkpointing()
        x = tokens(BATCH, 1, 8, 8)
        model(x, torch.tensor([0.0, 400.0, 999.0])).square().mean().backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    for plain, checkpointed in zip(*found, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=1e-6, atol=1e-7)


# ---------------------------------------------------------------- ablations of the network


@pytest.mark.parametrize("name", ["none", "dia_lstm", "se"])
@pytest.mark.parametrize("switch", ["residual", "layer_norm", "skip"])
def test_ablations_leave_out_what_they_say(name: str, switch: str) -> None:
    """Figs. 13 and 14, Table XVI."""
    model = make_uvit(attention=name, **{switch: False})
    norms = [m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert len(norms) == (0 if switch == "layer_norm" else 11)
    assert any("skip_linear" in n for n, _ in model.named_parameters()) == (switch != "skip")
    block = model.in_blocks[0]
    with torch.no_grad():
        for parameter in (*block.mlp.parameters(), *block.attn.parameters()):
            parameter.zero_()
    x = tokens(BATCH, 17, 64)
    unit = model.unit_of_block(0)
    state = None if unit is None else unit.initial_state(x)
    out, _ = block(x, None, unit, state, 0)
    assert torch.equal(out, torch.zeros_like(x) if switch == "residual" else x)
    model(tokens(BATCH, 1, 8, 8), torch.zeros(BATCH)).sum().backward()


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("se", {"reduction": 5}, "divide the 16 channels, got 5"),
        ("cbam", {"reduction": 3}, "divide the 16 channels, got 3"),
        ("spa", {"reduction": 32}, "divide the 16 channels, got 32"),
        ("sem", {"reduction": -1}, "at least 1 and divide the 16 channels, got -1"),
        ("sge", {"groups": 6}, "groups must be at least 1 and divide the 16 channels, got 6"),
        ("se", {"activation": "relu"}, "options of lstm, dia_lstm, dia_lstm_light; se has neither"),
        ("eca", {"num_cells": 2}, "eca has neither"),
        ("spa", {"pool": "max"}, "pool must be one of"),
        ("sge", {"gate_init": "one"}, "gate_init must be one of"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_unit(name, **options)


@pytest.mark.parametrize("name", ["cbam", "spa"])
def test_patches_without_a_square_are_refused(name: str) -> None:
    unit = make_unit(name)
    y = tokens(BATCH, EXTRA + 12, CHANNELS)
    with pytest.raises(ValueError, match="needs a square grid of patches, got 12 after 2 extra"):
        call(unit, y)
    with pytest.raises(ValueError, match="a grid of 3 x 5 of patches, got 12"):
        call(unit, y, grid=(3, 5))
    call(unit, y, grid=(3, 4))


def test_srm_refuses_to_train_on_one_image() -> None:
    unit, y = make_unit("srm").train(), tokens(1, TOKENS, CHANNELS)
    with pytest.raises(ValueError, match="at least 2 images"):
        call(unit, y)
    call(unit.eval(), y)


def test_the_initial_maps_are_what_the_papers_start_with() -> None:
    for name in ("sge", "spem"):
        fresh = make_attention_unit(name, CHANNELS, EXTRA, DEFAULT_OPTIONS)
        _, attention_map = call(fresh, tokens(BATCH, TOKENS, CHANNELS))
        expected = torch.full_like(attention_map, fresh.gate.map_start)
        torch.testing.assert_close(attention_map, expected)
    assert math.isclose(fresh.gate.map_start, 0.03206, abs_tol=1e-5)
