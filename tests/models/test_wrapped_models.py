"""Models with shared units in torch's wrappers: export, tracing, compilation, prefixes."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from uvit_dia.models.other_backbones.share_attention import share_attention

EXACT = {"rtol": 0.0, "atol": 1e-6}
TARGETS = "blocks.*.1"
OPTIONS = (
    {},
    {"unit": "cbam"},
    {"unit": "srm"},
    {"num_cells": 2},
    {"shared": False},
    {"checkpointing": True},
    {"gate_form": "mean_one"},
)


class Net(nn.Module):
    """Three residual blocks, in the manner of a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)) for _ in range(3)
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 5)."""
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(x.mean((2, 3)))


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    model = Net()
    attention = share_attention(model, TARGETS, **options)
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model.eval()


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch))


# ---------------------------------------------------------------- export and tracing


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_model_gives_the_models_outputs(strict: bool, options: dict) -> None:
    model, x = make(**options), images()
    expected = model(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, on state that it sees a hook set and drop
        program = torch.export.export(model, (x,), strict=strict)
    for other in (x, images() + 1):
        torch.testing.assert_close(program.module()(other), model(other), **EXACT)
    torch.testing.assert_close(model(x), expected, **EXACT)  # and the model is as it was
    parts = [m for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    gates = [n for part in parts for n in part.graph.nodes if "sigmoid" in str(n.target)]
    assert len(gates) >= 3  # they are in the program, not left out


def test_an_exported_model_takes_batches_of_any_size() -> None:
    model = make()
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (images(3),), dynamic_shapes=({0: batch},), strict=False)
    for size in (2, 5):
        torch.testing.assert_close(program.module()(images(size)), model(images(size)), **EXACT)


def test_an_export_after_a_pass_that_failed_knows_nothing_of_it() -> None:
    model, x = make(), images()
    expected = model(x)
    handle = model.blocks[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(x)
    handle.remove()
    program = torch.export.export(model, (x,), strict=False)
    torch.testing.assert_close(program.module()(x), expected, **EXACT)


def test_a_traced_model_gives_the_models_outputs() -> None:
    model, x = make(), images()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is on its way out
        traced = torch.jit.trace(model, (x,))
    torch.testing.assert_close(traced(images() + 1), model(images() + 1), **EXACT)


# ---------------------------------------------------------------- compilation


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("how", ["function", "method"])
def test_compilation_comes_after_the_unit(how: str, when: str) -> None:
    """A program that torch compiled before a hook was there may run on without it."""
    torch.compiler.reset()
    x, model = images(), Net().eval()
    if when == "after":
        share_attention(model, TARGETS)
    expected = model(x)
    compiled: Any = model
    if how == "function":
        compiled = torch.compile(model, backend="eager")
    else:
        model.compile(backend="eager")
    torch.testing.assert_close(compiled(x), expected, **EXACT)
    if when == "before":
        with pytest.raises(ValueError, match=r"compiled|wrapped in OptimizedModule"):
            share_attention(compiled, TARGETS)
        torch.testing.assert_close(compiled(x), expected, **EXACT)


@pytest.mark.parametrize("how", ["function", "method"])
def test_a_part_that_was_compiled_is_refused_as_a_target(how: str) -> None:
    torch.compiler.reset()
    model = Net().eval()
    if how == "function":
        model.blocks[1] = torch.compile(model.blocks[1], backend="eager")
        targets = ["blocks.0.1", "blocks.1._orig_mod.1", "blocks.2.1"]
    else:
        model.blocks[1].compile(backend="eager")
        targets = [TARGETS]
    model(images())
    with pytest.raises(ValueError, match=r"blocks\.1.* is compiled: call share_attention before"):
        share_attention(model, targets)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_compiled_part_without_targets_does_no_harm() -> None:
    torch.compiler.reset()
    model = Net().eval()
    model.head = torch.compile(model.head, backend="eager")
    share_attention(model, TARGETS)
    assert model(images()).shape == (2, 5)


# ---------------------------------------------------------------- wrappers and prefixes


def test_weights_with_the_prefix_of_a_wrapper_are_loaded_by_torchs_own_means() -> None:
    model = make()
    saved = nn.DataParallel(model).state_dict()
    assert "module.shared_attention.stage.unit.cell.input_reduce.weight" in saved
    again = make()
    for parameter in again.parameters():
        nn.init.zeros_(parameter)
    nn.modules.utils.consume_prefix_in_state_dict_if_present(saved, "module.")
    again.load_state_dict(saved, strict=True)
    torch.testing.assert_close(again(images()), model(images()), **EXACT)


def test_a_copy_of_a_compiled_model_has_units_of_its_own() -> None:
    torch.compiler.reset()
    model = make()
    compiled: Any = torch.compile(model, backend="eager")
    expected = compiled(images())
    clone: Any = copy.deepcopy(compiled)
    with torch.no_grad():
        for parameter in model.shared_attention.parameters():
            parameter.add_(1)
    torch.testing.assert_close(clone(images()), expected, **EXACT)
    assert not torch.allclose(compiled(images()), expected)
