"""The U-ViT against its authors' numbers; its skips, its unit, checkpointing and dropout."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from tests.support.networks import SMALL, make_uvit, randomise
from uvit_dia.models import UViT
from uvit_dia.models.block import Block
from uvit_dia.models.layers import Attention, PatchEmbed, timestep_embedding, unpatchify
from uvit_dia.models.units.gate import GATE_INITS
from uvit_dia.models.units.protocol import UnitState
from uvit_dia.models.units.recurrent import RecurrentUnit
from uvit_dia.models.units.recurrent_cells import ACTIVATION_FUNCTIONS, AT_ZERO, LSTMCell
from uvit_dia.models.units.registry import ATTENTION_NAMES

GOLDEN = Path(__file__).parents[1] / "golden"
DIA: dict[str, Any] = {"attention": "dia_lstm"}
UNITS = ("lstm", "dia_lstm", "dia_lstm_light")


def images(batch_size: int = 3, seed: int = 2) -> tuple[Tensor, Tensor]:
    """Make x_t and timesteps."""
    generator = torch.Generator().manual_seed(seed)
    x_t = torch.randn(batch_size, 3, 8, 8, generator=generator)
    return x_t, torch.randint(1000, (batch_size,), generator=generator)


@torch.no_grad()
def predict(model: UViT, *arguments: Any, **named: Any) -> Tensor:
    return model(*(arguments or images()), **named)


def blocks_of(model: UViT) -> list[nn.Module]:
    return [*model.in_blocks, model.mid_block, *model.out_blocks]


# ---------------------------------------------------------------- the authors' numbers


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, json.loads(  # noqa: SIM118
            file.metadata()["config"]
        )


def golden_weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = "state_dict."
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


@pytest.mark.parametrize("name", ["uvit_cond", "uvit_uncond"])
def test_agrees_with_the_authors_network(name: str) -> None:
    tensors, arguments = golden(name)
    model = UViT.from_official(golden_weights(tensors), **arguments)
    assert not model.training
    found = predict(model, tensors["input.x"], tensors["input.timesteps"], tensors.get("input.y"))
    torch.testing.assert_close(found, tensors["output"], rtol=0, atol=1e-5)
    assert found.std() > 0.05  # it is not the zeros that agree
    assert (tensors["input.timesteps"] % 1 != 0).any()  # fractions are among them


def test_state_dict_keys_are_the_authors() -> None:
    for name in ("uvit_cond", "uvit_uncond"):
        tensors, arguments = golden(name)
        state_dict = UViT(**arguments).state_dict()
        shapes = {key: value.shape for key, value in golden_weights(tensors).items()}
        assert {key: value.shape for key, value in state_dict.items()} == shapes


def test_parameter_count_of_u_vit_s_2() -> None:
    with torch.device("meta"):
        model = UViT(img_size=32, patch_size=2, embed_dim=512, depth=12, num_heads=8)
    assert sum(p.numel() for p in model.parameters()) == 44_255_328
    assert model.num_blocks == 13


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"depth": 0},
        {"patch_size": 4, "in_chans": 1},
        {"conv": False, "skip": False, "qkv_bias": True, "mlp_ratio": 1.5},
        {"num_classes": 5, "mlp_time_embed": True, **DIA},
    ],
)
def test_output_has_the_shape_of_the_input(changes: dict) -> None:
    model = make_uvit(**changes)
    x_t = torch.randn(2, changes.get("in_chans", 3), 8, 8)
    labels = torch.tensor([0, 4]) if "num_classes" in changes else None
    found = predict(model, x_t, torch.tensor([0, 999]), labels)
    assert found.shape == x_t.shape
    assert found.dtype == torch.float32


# ---------------------------------------------------------------- parts


def test_unpatchify_is_the_exact_inverse_of_cutting_patches() -> None:
    """Rows of patches from top to bottom, and within a patch the order (p1, p2, C)."""
    x = torch.arange(2 * 3 * 12 * 12, dtype=torch.float32).reshape(2, 3, 12, 12)
    for p in (1, 2, 4, 12):
        n = 12 // p
        patches = torch.stack(
            [
                x[:, :, row * p : (row + 1) * p, column * p : (column + 1) * p]
                .permute(0, 2, 3, 1)
                .flatten(1)
                for row in range(n)
                for column in range(n)
            ],
            dim=1,
        )
        torch.testing.assert_close(unpatchify(patches, p, 12), x, rtol=0, atol=0)


def test_patch_embedding_reads_patches_in_the_same_order() -> None:
    p, side = 2, 8
    embed = PatchEmbed(p, 3, p * p * 3)
    with torch.no_grad():
        embed.proj.bias.zero_()
        pixels = torch.arange(p * p * 3)  # the k-th embedding channel reads pixel k of (p1, p2, C)
        weight = torch.zeros(p * p * 3, 3, p, p)
        weight[pixels, pixels % 3, pixels // (3 * p), (pixels // 3) % p] = 1
        embed.proj.weight.copy_(weight)
        x = torch.randn(2, 3, side, side)
        torch.testing.assert_close(unpatchify(embed(x), p, side), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dim", [1, 2, 7, 64, 513])
def test_timestep_embedding_agrees_with_its_formula(dim: int) -> None:
    """cat(cos, sin) of t / 10000^(k / half); an odd dimension ends with a zero."""
    timesteps = [0.0, 1.0, 0.3, 499.5, 999.0]
    half = dim // 2
    expected = [
        [
            *(math.cos(t * 10000 ** (-k / half)) for k in range(half)),
            *(math.sin(t * 10000 ** (-k / half)) for k in range(half)),
            *([0.0] * (dim % 2)),
        ]
        for t in timesteps
    ]
    found = timestep_embedding(torch.tensor(timesteps), dim)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-4)


def test_timestep_embedding_takes_integers() -> None:
    timesteps = torch.tensor([0, 7, 999])
    torch.testing.assert_close(
        timestep_embedding(timesteps, 16), timestep_embedding(timesteps.float(), 16), rtol=0, atol=0
    )


def test_attention_agrees_with_its_formula() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = Attention(12, 3, qkv_bias=True)
        x = torch.randn(2, 5, 12)
    q, k, v = layer.qkv(x).double().split(12, dim=-1)
    heads = []
    for h in range(3):
        part = slice(4 * h, 4 * h + 4)
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / 4**0.5).softmax(dim=-1)
        heads.append(weights @ v[..., part])
    expected = layer.proj(torch.cat(heads, dim=-1).float())
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)


def test_prediction_of_an_image_depends_on_itself_alone() -> None:
    """No statistics of the batch enter, and each image has its own timestep."""
    model = make_uvit(**DIA)
    randomise(model)
    x_t, timesteps = images(5)
    whole = predict(model, x_t, timesteps)
    for k in range(5):
        alone = predict(model, x_t[k : k + 1], timesteps[k : k + 1])
        torch.testing.assert_close(whole[k : k + 1], alone, rtol=1e-4, atol=1e-5)
    later = predict(model, x_t, (timesteps + 100) % 1000)
    assert not torch.isclose(whole, later).flatten(1).all(dim=1).any()


# ---------------------------------------------------------------- skips


def perturbed(model: UViT, block: nn.Module) -> Tensor:
    """Return the prediction with the weights of a block changed."""
    kept = [p.clone() for p in block.parameters()]
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.5)
        output = predict(model)
        for parameter, value in zip(block.parameters(), kept, strict=True):
            parameter.copy_(value)
    return output


@pytest.mark.parametrize("k", [0, 1, 2])
def test_block_k_of_the_second_half_gets_the_skip_of_its_mirror_block(k: int) -> None:
    """With the trunk cut before block k, and later skips cut, only its skip reaches the output."""
    depth = 6
    model = make_uvit(depth=depth)
    randomise(model)
    width = SMALL["embed_dim"]
    with torch.no_grad():
        model.out_blocks[k].skip_linear.weight[:, :width] = 0  # the trunk comes first
        for later in model.out_blocks[k + 1 :]:
            later.skip_linear.weight[:, width:] = 0
    output = predict(model)
    mirror = depth // 2 - 1 - k
    for j, block in enumerate(model.in_blocks):
        difference = (perturbed(model, block) - output).abs().max()
        assert (difference > 1e-3) == (j <= mirror), f"first half, block {j}"
        assert difference > 1e-3 or difference == 0
    for j, block in enumerate(model.out_blocks):
        difference = (perturbed(model, block) - output).abs().max()
        assert (difference > 1e-3) == (j >= k), f"second half, block {j}"
    assert torch.equal(perturbed(model, model.mid_block), output)


def test_without_skips_the_second_half_reads_the_trunk_alone() -> None:
    model = make_uvit(skip=False)
    assert not any("skip_linear" in key for key in model.state_dict())
    joined = make_uvit(skip=True)
    names = {key for key in joined.state_dict() if "skip_linear" in key}
    assert names == {f"out_blocks.{k}.skip_linear.{p}" for k in (0, 1) for p in ("weight", "bias")}
    torch.testing.assert_close(predict(model).shape, predict(joined).shape, rtol=0, atol=0)


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img_size": 9}, "multiple of patch_size 2, got 9"),
        ({"img_size": 0}, "img_size .* got 0"),
        ({"patch_size": 0}, "patch_size 0, got 8"),
        ({"depth": 3}, "depth must be even and not negative, got 3"),
        ({"depth": -2}, "depth must be even and not negative, got -2"),
        ({"embed_dim": 33}, "multiple of num_heads 2, got 33"),
        ({"num_heads": 0}, "multiple of num_heads 0, got 32"),
        ({"embed_dim": 0}, "embed_dim .* got 0"),
        ({"in_chans": 0}, "in_chans .* got 0"),
        ({"mlp_ratio": 0.0}, r"at least 1, got 3 and 32 \* 0\.0"),
        ({"mlp_ratio": -1.0}, r"32 \* -1\.0"),
        ({"attention": "sa"}, "attention must be one of none, lstm, .* got 'sa'"),
        ({**DIA, "options": {"share": True}}, "no key 'share'; it has shared, reduction"),
        ({**DIA, "options": {"reduction": 5}}, "divide the 32 channels, got 5"),
        ({**DIA, "options": {"blocks": [0, 5]}}, r"indices in 0 \.\. 4, got \[0, 5\]"),
        ({**DIA, "options": {"blocks": [-1]}}, r"0 \.\. 4, got \[-1\]"),
        ({**DIA, "options": {"blocks": []}}, r"0 \.\. 4, got \[\]"),
        ({**DIA, "options": {"blocks": 3}}, r"0 \.\. 4, got 3"),
        ({**DIA, "options": {"blocks": None}}, r"0 \.\. 4, got None"),
        ({**DIA, "options": {"blocks": "first"}}, r"0 \.\. 4, got 'first'"),
        ({**DIA, "options": {"blocks": [0, "1"]}}, r"0 \.\. 4, got \[0, '1'\]"),
        ({**DIA, "options": {"blocks": [True]}}, r"0 \.\. 4, got \[True\]"),
    ],
)
def test_wrong_arguments_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_uvit(**changes)


@pytest.mark.parametrize("shape", [(2, 3, 9, 9), (2, 3, 8, 10), (2, 1, 8, 8), (3, 8, 8)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    """A convolution would crop an image of 9 pixels to 8."""
    with pytest.raises(ValueError, match=r"shape \(B, 3, 8, 8\), got \(2|shape .* got \(3, 8, 8"):
        make_uvit()(torch.zeros(shape), torch.zeros(shape[0]))


@pytest.mark.parametrize("label", [-1, 10, 2**40])
def test_labels_out_of_range_are_refused(label: int) -> None:
    with pytest.raises(ValueError, match=rf"class_labels must be in 0 \.\. 9, got {label}"):
        make_uvit(num_classes=10)(torch.zeros(2, 3, 8, 8), torch.zeros(2), torch.tensor([3, label]))


def test_class_labels_belong_to_a_conditional_model() -> None:
    labels = torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match="num_classes > 0"):
        predict(make_uvit(), *images(), labels)
    conditional = make_uvit(num_classes=4)
    with pytest.raises(ValueError, match="num_classes > 0"):
        predict(conditional)
    randomise(conditional)
    outputs = [predict(conditional, *images(), labels + shift) for shift in (0, 1)]
    assert not torch.isclose(*outputs).flatten(1).all(dim=1).any()


@pytest.mark.parametrize("changes", [{}, {**DIA, "options": {"shared": False, "blocks": [0, 3]}}])
def test_save_pretrained_and_from_pretrained(tmp_path: Path, changes: dict) -> None:
    model = make_uvit(**changes)
    randomise(model)
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    loaded = UViT.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(predict(loaded), predict(model), rtol=0, atol=0)
    assert loaded.attention_blocks == model.attention_blocks


# ---------------------------------------------------------------- initial weights


@pytest.mark.parametrize("name", ["none", *UNITS])
def test_initialisation_law(name: str) -> None:
    """Truncated normal of 0.02 on Linear weights and positions, zeros on biases; the unit too."""
    model = make_uvit(embed_dim=64, attention=name, mlp_time_embed=True, qkv_bias=True)
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    assert len(linears) > 20
    assert any(n.startswith("attention_unit") for n in linears) == (name != "none")
    for layer_name, layer in linears.items():
        count = layer.weight.numel()
        assert abs(layer.weight.mean()) < 5 * 0.02 / count**0.5, layer_name
        assert abs(layer.weight.std() / 0.02 - 1) < 5 / (2 * count) ** 0.5, layer_name
        assert not layer.bias.any(), layer_name
    assert abs(model.pos_embed.std() / 0.02 - 1) < 0.1
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all() and not module.bias.any()


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("shared", [True, False])
def test_one_seed_gives_one_backbone(name: str, shared: bool) -> None:
    """The unit draws its weights last: comparisons of one seed start from the same backbone."""
    plain = make_uvit(seed=5).state_dict()
    with_unit = make_uvit(seed=5, attention=name, options={"shared": shared}).state_dict()
    assert all(key.startswith("attention_unit.") for key in set(with_unit) - set(plain))
    for key, weights in plain.items():
        assert torch.equal(with_unit[key], weights), key


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("num_cells", [1, 2])
def test_identity_start_equals_the_network_without_a_unit(
    name: str, shared: bool, num_cells: int
) -> None:
    options = {"gate_init": "identity", "shared": shared, "num_cells": num_cells}
    model = make_uvit(attention=name, options=options)
    for block in blocks_of(model):
        randomise(block)
    plain = make_uvit(seed=5)
    plain.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.startswith("attention_unit.")}
    )
    torch.testing.assert_close(predict(model), predict(plain), rtol=0, atol=0)


def test_paper_start_is_not_the_identity() -> None:
    model = make_uvit(**DIA)
    plain = make_uvit(seed=5)
    plain.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.startswith("attention_unit.")}
    )
    for block, other in zip(blocks_of(model), blocks_of(plain), strict=True):
        randomise(block)
        randomise(other)
    assert (predict(model) - predict(plain)).abs().max() > 1e-2


# ---------------------------------------------------------------- the unit in the network


@contextmanager
def recorded_units(model: UViT) -> Iterator[list[tuple[RecurrentUnit, tuple, tuple]]]:
    """Record unit, arguments and results of all calls of attention units."""
    calls: list[tuple[RecurrentUnit, tuple, tuple]] = []

    def keep(unit: nn.Module, arguments: tuple, result: tuple) -> None:
        assert isinstance(unit, RecurrentUnit)
        calls.append((unit, arguments, result))

    handles = [
        m.register_forward_hook(keep) for m in model.modules() if isinstance(m, RecurrentUnit)
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def test_the_state_runs_unbroken_through_all_blocks() -> None:
    """First half, middle, second half; each block starts from the state that the last returned."""
    model = make_uvit(**DIA)
    with recorded_units(model) as calls:
        predict(model)
    assert [arguments[2] for _, arguments, _ in calls] == [0, 1, 2, 3, 4]
    assert all(unit is model.attention_unit for unit, _, _ in calls)
    first: UnitState = calls[0][1][1]
    assert not first.h.any() and not first.c.any()
    for (_, _, before), (_, after, _) in pairwise(calls):
        assert after[1].h is before[2].h
        assert after[1].c is before[2].c


def test_a_shared_unit_stands_once_in_the_state_dict() -> None:
    unit = {"input_reduce", "input_expand", "hidden_reduce", "hidden_expand"}
    expected = {f"attention_unit.cell.{n}.{p}" for n in unit for p in ("weight", "bias")}
    for depth in (2, 8):
        keys = [k for k in make_uvit(depth=depth, **DIA).state_dict() if "attention_unit" in k]
        assert sorted(keys) == sorted(expected)


def unit_weights(**changes: Any) -> int:
    model = make_uvit(**changes)
    return sum(p.numel() for n, p in model.named_parameters() if n.startswith("attention_unit."))


def test_weights_grow_with_the_blocks_only_where_unshared() -> None:
    one = 10 * 32**2 // 4 + 8 * 32 + 2 * 32 // 4
    for depth in (2, 4, 8):
        assert unit_weights(depth=depth, **DIA) == one
        assert unit_weights(depth=depth, **DIA, options={"shared": False}) == (depth + 1) * one
    assert unit_weights(**DIA, options={"shared": False, "blocks": [1, 3]}) == 2 * one
    assert unit_weights() == 0


def test_unshared_units_serve_one_block_each() -> None:
    model = make_uvit(**DIA, options={"shared": False})
    with recorded_units(model) as calls:
        predict(model)
    assert [unit for unit, _, _ in calls] == [model.attention_unit[str(k)] for k in range(5)]
    assert len({id(unit) for unit, _, _ in calls}) == 5
    weights = [unit.cell.input_expand.weight for unit, _, _ in calls]
    assert not torch.equal(weights[0], weights[1])


@pytest.mark.parametrize("shared", [True, False])
def test_blocks_without_the_unit_are_untouched(shared: bool) -> None:
    """Each block computes what a plain one does, but for the gate where it carries the unit."""
    chosen = [1, 4]
    model = make_uvit(**DIA, options={"blocks": chosen, "shared": shared})
    randomise(model)
    traffic: list[tuple[tuple, tuple]] = []

    def keep(_: nn.Module, arguments: tuple, result: tuple) -> None:
        traffic.append((arguments, result))

    handles = [block.register_forward_hook(keep) for block in blocks_of(model)]
    with recorded_units(model) as calls:
        predict(model)
    for handle in handles:
        handle.remove()
    assert [arguments[2] for _, arguments, _ in calls] == chosen
    assert calls[1][1][1].h is calls[0][2][2].h  # handed on over the blocks in between
    for index, (block, (arguments, (output, _))) in enumerate(
        zip(blocks_of(model), traffic, strict=True)
    ):
        assert isinstance(block, Block)
        with torch.no_grad():
            plain, _ = block(arguments[0], arguments[1], None, None, index)
        assert torch.equal(output, plain) == (index not in chosen)


def test_blocks_may_come_in_any_order_and_twice() -> None:
    model = make_uvit(**DIA, options={"blocks": [3, 0, 3]})
    assert model.attention_blocks == [0, 3]
    with recorded_units(model) as calls:
        predict(model)
    assert [arguments[2] for _, arguments, _ in calls] == [0, 3]


@pytest.mark.parametrize("pool", ["all", "patches"])
@pytest.mark.parametrize("num_classes", [-1, 4])
def test_pooled_tokens_of_the_network(pool: str, num_classes: int) -> None:
    model = make_uvit(**DIA, num_classes=num_classes, options={"pool": pool})
    extra = 1 if num_classes < 0 else 2
    unit = model.attention_unit
    assert unit.first_pooled_token == (extra if pool == "patches" else 0)
    labels = None if num_classes < 0 else torch.tensor([0, 1, 2])
    with recorded_units(model) as calls:
        predict(model, *images(), labels)
    assert calls[0][1][0].shape == (3, extra + 16, 32)


def cut_trunk(model: UViT) -> None:
    """Let no gradient pass from block to block but through the state of the unit."""

    def cut(_: nn.Module, arguments: tuple) -> tuple:
        x, skip, *others = arguments
        return (x.detach(), None if skip is None else skip.detach(), *others)

    for block in blocks_of(model):
        block.register_forward_pre_hook(cut)


@pytest.mark.parametrize("attention", ["none", *UNITS])
def test_gradient_reaches_the_first_block_through_the_state(attention: str) -> None:
    model = make_uvit(attention=attention)
    randomise(model)
    cut_trunk(model)
    model(*images()).square().sum().backward()
    gradient = model.in_blocks[0].attn.proj.weight.grad
    assert model.out_blocks[-1].attn.proj.weight.grad.abs().max() > 1e-3
    if attention == "none":
        assert gradient is None
    else:
        assert gradient.abs().max() > 1e-5


@pytest.mark.parametrize("num_cells", [1, 3])
def test_two_calls_in_a_row_agree(num_cells: int) -> None:
    """Nothing of a batch, not its size either, is left on the module."""
    model = make_uvit(**DIA, options={"num_cells": num_cells})
    randomise(model)
    expected = predict(model)
    predict(model, *images(7, seed=9))
    torch.testing.assert_close(predict(model), expected, rtol=0, atol=0)
    assert not list(model.buffers())


def test_under_bfloat16_the_state_is_float32() -> None:
    model = make_uvit(**DIA, options={"num_cells": 2})
    randomise(model)
    with recorded_units(model) as calls, torch.autocast("cpu", torch.bfloat16):
        output = predict(model)
    assert len(calls) == 5
    for _, (y, state, _), (gated, attention_map, new) in calls:
        assert gated.dtype == y.dtype
        for tensor in (state.h, state.c, attention_map, new.h, new.c):
            assert tensor.dtype == torch.float32
    error = (output.float() - predict(model)).abs().max()
    assert 0 < error < 0.1 * predict(model).abs().max()


# ---------------------------------------------------------------- checkpointing and dropout

STACKED: dict[str, Any] = {**DIA, "options": {"num_cells": 3}}


def output_and_gradients(
    model: UViT, *, dropout_seeds: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        output = model(*images(), dropout_seeds=dropout_seeds)
        output.square().sum().backward()
    return output.detach(), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("with_seeds", [True, False])
@pytest.mark.parametrize(
    "changes", [{}, DIA, STACKED, {**DIA, "options": {"num_cells": 2, "shared": False}}]
)
def test_gradient_checkpointing_changes_nothing(changes: dict, with_seeds: bool) -> None:
    model = make_uvit(**changes).train()
    randomise(model)
    seeds = torch.tensor([11, 12, 2**40]) if with_seeds else None
    expected = output_and_gradients(model, dropout_seeds=seeds)
    runs: list[int] = []
    handle = model.mid_block.norm1.register_forward_hook(lambda *_: runs.append(1))
    model.enable_gradient_checkpointing()
    found = output_and_gradients(model, dropout_seeds=seeds)
    handle.remove()
    assert len(runs) == 2  # once forward, once recomputed: it was on
    assert len(expected[1]) == len(list(model.parameters()))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    model.disable_gradient_checkpointing()
    torch.testing.assert_close(
        output_and_gradients(model, dropout_seeds=seeds), expected, rtol=1e-6, atol=1e-7
    )


def test_dropout_is_a_function_of_the_images_seed() -> None:
    """Whatever batch an image stands in, and whatever the global generator has drawn."""
    model = make_uvit(**STACKED).train()
    randomise(model, 0.3)
    x_t, timesteps = images(6)
    seeds = torch.arange(6) + (1 << 40)
    whole = predict(model, x_t, timesteps, dropout_seeds=seeds)
    order = torch.tensor([4, 1, 5])
    part = predict(model, x_t[order], timesteps[order], dropout_seeds=seeds[order])
    torch.testing.assert_close(part, whole[order], rtol=1e-4, atol=1e-4)
    other = predict(model, x_t, timesteps, dropout_seeds=seeds + 1)
    evaluated = predict(model.eval(), x_t, timesteps, dropout_seeds=seeds)
    for changed in (other, evaluated):
        differences = (changed - whole).flatten(1).abs().amax(dim=1)
        assert (differences > 5e-3).all()
    torch.testing.assert_close(evaluated, predict(model, x_t, timesteps), rtol=0, atol=0)


def test_dropout_without_seeds_draws_from_the_global_generator() -> None:
    model = make_uvit(**STACKED).train()
    randomise(model, 0.3)
    outputs = []
    for seed in (0, 0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            outputs.append(predict(model))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)
    assert (outputs[0] - outputs[2]).abs().max() > 5e-3


def test_training_mode_drops_nothing_with_a_single_cell() -> None:
    model = make_uvit(**DIA)
    expected = predict(model)
    torch.testing.assert_close(predict(model.train()), expected, rtol=0, atol=0)


# ---------------------------------------------------------------- torch.compile


def without_scalars(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    """Run a graph as it is, like the backend "eager", if the host waits for no number in it."""
    assert not [node for node in graph.graph.nodes if node.target in ("item", "tolist")]
    return graph.forward


@pytest.mark.parametrize("name", ATTENTION_NAMES)
@pytest.mark.parametrize("gate_init", GATE_INITS)
def test_every_unit_compiles_to_one_graph(name: str, gate_init: str) -> None:
    torch.compiler.reset()
    options = {"gate_init": gate_init, "reduction": 2}
    if name == "lstm":  # with its tanh there would be nothing to divide by
        options["activation"] = "sigmoid"
    model = make_uvit(depth=0, attention=name, options=options)
    randomise(model)
    compiled: Any = torch.compile(model, fullgraph=True, backend=without_scalars)
    torch.testing.assert_close(predict(compiled), predict(model), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", ACTIVATION_FUNCTIONS)
def test_gate_of_zero_is_that_of_the_activation(activation: str) -> None:
    expected = 0.5 * ACTIVATION_FUNCTIONS[activation](torch.zeros(()))
    assert AT_ZERO.keys() == ACTIVATION_FUNCTIONS.keys()
    assert LSTMCell(4, activation).initial_gate() == expected
