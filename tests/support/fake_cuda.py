"""CUDA tensors without a GPU: torch's fake ones, which know their device and no numbers.

What mixes devices raises, and so does what reads a number back to the host, where a GPU would have
to be waited for. torch's autograd engine wants a device; `backward` walks the graph without it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from uvit_dia import rng

CUDA = torch.device("cuda", 0)


class TorchWithoutGenerators:
    """Stands for torch where random numbers are drawn; generators of any device are the CPU's."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def Generator(self, device: object = "cpu") -> torch.Generator:
        return torch.Generator()


@contextmanager
def fake_cuda() -> Iterator[FakeTensorMode]:
    """Make all tensors fake within this context; tensors from before it count as CPU's.

    Generators are the CPU's, since those of CUDA need a device: fake tensors draw nothing.
    """
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, pytest.MonkeyPatch.context() as patch:
        patch.setattr(rng, "torch", TorchWithoutGenerators())
        patch.setattr(Tensor, "backward", backward)
        patch.setattr(nn.Module, "to", stay)
        yield mode


def stay(module: nn.Module, device: object = CUDA, **_: object) -> nn.Module:
    """Stand in for `Module.to`, which fake parameters refuse; the module must be there already."""
    assert device == CUDA
    assert all(p.device == CUDA for p in module.parameters())
    return module


def move(module: nn.Module) -> nn.Module:
    """Move a module to fake CUDA, in place; call it within `fake_cuda`."""
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                new = torch.empty(p.shape, dtype=p.dtype, device=CUDA)
                part._parameters[name] = nn.Parameter(new, requires_grad=p.requires_grad)
        for name, b in part._buffers.items():
            if b is not None:
                part._buffers[name] = torch.empty(b.shape, dtype=b.dtype, device=CUDA)
    return module


def backward(loss: Tensor, **_: object) -> None:
    """Accumulate the gradients of all leaves, one node of the graph after another."""
    root: Any = loss.grad_fn
    incoming: dict[Any, dict[int, Tensor]] = {root: {0: torch.ones_like(loss)}}
    for node in _in_order(root):
        given = incoming.pop(node, None)
        if given is None:
            continue
        if hasattr(node, "variable"):  # a leaf
            leaf, gradient = node.variable, given[0]
            assert gradient.shape == leaf.shape
            assert gradient.device == leaf.device
            leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
            continue
        count = len(node._input_metadata)
        with torch.no_grad():
            found = node(*(given.get(i) for i in range(count)))
        found = found if isinstance(found, tuple) else (found,)
        for (target, index), gradient in zip(node.next_functions, found, strict=False):
            if target is not None and gradient is not None:
                shape = target._input_metadata[index].shape
                part = gradient.sum_to_size(shape)  # of what was broadcast, as the engine does
                slots = incoming.setdefault(target, {})
                slots[index] = part if index not in slots else slots[index] + part


def _in_order(root: Any) -> list[Any]:
    """Return the nodes of a graph, each before those that its gradients go to."""
    finished: list[Any] = []
    seen = {root}
    open_nodes = [(root, iter(root.next_functions))]
    while open_nodes:
        node, targets = open_nodes[-1]
        target = next((t for t, _ in targets if t is not None and t not in seen), None)
        if target is None:
            finished.append(node)
            open_nodes.pop()
        else:
            seen.add(target)
            open_nodes.append((target, iter(target.next_functions)))
    return finished[::-1]
