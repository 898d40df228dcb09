"""Watch and replace what attention units do, through forward hooks.

Every unit is called as `unit(y, state, block_index)`, whether it is shared or not, recurrent or
not, so one hook on each distinct unit sees every block.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from uvit_dia.analysis.subject import Subject
from uvit_dia.models import UViT

Output = tuple[Tensor, Tensor, Any]  # gated y (B, L, D), attention map (B, D), state
Watcher = Callable[[nn.Module, Tensor, int, Output], Output | None]


@dataclass(frozen=True)
class Observations:
    """What the units gave for each image; n blocks carry the unit.

    Attributes:
        blocks: their places in the order of the data, ascending.
        maps: (n, N, D) float32 on the CPU, attention maps.
        gates: (n, N, D) float32 on the CPU, what multiplied the channels: the unit's `gate` of its
            map. Of a unit whose map differs from token to token it is that of the tokens' mean, and
            a spatial part is left out.
        timesteps: (N,) int64, noise level of each image; None for a backbone without noise.
    """

    blocks: tuple[int, ...]
    maps: Tensor
    gates: Tensor
    timesteps: Tensor | None


def distinct_units(model: UViT) -> list[Any]:
    """Return each attention unit once, in the order of the blocks."""
    units = [model.unit_of_block(index) for index in model.attention_blocks]
    return list({id(unit): unit for unit in units}.values())


@contextmanager
def watched(model: UViT, watcher: Watcher) -> Iterator[None]:
    """Call a function after every call of a unit; its result, unless None, replaces the output.

    Args:
        model: the network.
        watcher: called with the unit, y (B, L, D), the block's index, and the unit's output.
    """

    def hook(unit: nn.Module, inputs: tuple[Any, ...], output: Output) -> Output | None:
        return watcher(unit, inputs[0], inputs[2], output)  # y, state, block_index

    with hooked(distinct_units(model), hook):
        yield


@contextmanager
def hooked(units: Iterable[nn.Module], hook: Callable[..., Output | None]) -> Iterator[None]:
    """Hook units: `hook(unit, (y, state, block_index, ...), output)`; each is to be given once."""
    with ExitStack() as stack:
        for unit in units:
            handle = unit.register_forward_hook(hook)
            stack.callback(handle.remove)
        yield


@contextmanager
def replaced_gates(model: UViT, gates: Mapping[int, Tensor | None]) -> Iterator[None]:
    """Put constants in the place of the gates of some blocks.

    The unit still reads the block's tokens and hands its state on, so a recurrent unit's later
    blocks see the same kind of past; only its action on these blocks' tokens is taken out, all of
    it: also what differs from token to token in the units where something does.

    Args:
        model: the network.
        gates: block index -> (D,) or (L, D) numbers that multiply the channels, or None for 1, that
            is, no multiplication.
    """

    def replace(unit: nn.Module, y: Tensor, block_index: int, output: Output) -> Output | None:
        if block_index not in gates:
            return None
        gate = gates[block_index]
        return (y if gate is None else y * gate.to(y), *output[1:])

    with watched(model, replace):
        yield


@torch.no_grad()
def observe(subject: Subject) -> Observations:
    """Run the images through the network and keep every attention map and gate."""
    model = subject.trained.model
    maps: dict[int, list[Tensor]] = {block: [] for block in model.attention_blocks}
    gates: dict[int, list[Tensor]] = {block: [] for block in model.attention_blocks}

    def keep(unit: Any, y: Tensor, block_index: int, output: Output) -> None:  # noqa: ANN401
        maps[block_index].append(output[1].float().cpu())
        gates[block_index].append(unit.gate(output[1]).float().cpu())

    with watched(model, keep):
        _run_images(subject, "attention maps")
    return Observations(
        blocks=tuple(model.attention_blocks),
        maps=torch.stack([torch.cat(parts) for parts in maps.values()]),
        gates=torch.stack([torch.cat(parts) for parts in gates.values()]),
        timesteps=subject.timesteps,
    )


@torch.no_grad()
def mean_gates(subject: Subject) -> dict[int, Tensor]:
    """Average over the images all that multiplies the tokens.

    Returns:
        Block index -> (1, D) or, of a unit whose gate differs from token to token, (L, D); float32
        on the CPU.
    """
    model = subject.trained.model
    sums: dict[int, Tensor] = {}

    def add(unit: Any, inputs: tuple[Any, ...], output: Output) -> None:  # noqa: ANN401
        gate, _, _ = unit.full_gate(*inputs)  # B 1|L D
        total = gate.cpu().double().sum(dim=0)
        block_index = inputs[2]
        sums[block_index] = total + sums[block_index] if block_index in sums else total

    with hooked(distinct_units(model), add):
        _run_images(subject, "mean gates")
    return {block: (sums[block] / subject.num_images).float() for block in model.attention_blocks}


def _run_images(subject: Subject, label: str) -> None:
    """Run the subject's images through its network, with a progress bar."""
    with tqdm(total=subject.num_images, unit="image", desc=label) as bar:
        for batch in subject.batches():
            subject.predict(batch)
            bar.update(len(batch))


@contextmanager
def recorded_outputs(model: UViT) -> Iterator[list[Tensor]]:
    """Collect each block's output tokens, (B, L, D), in the order of the blocks, with graph."""
    outputs: list[Tensor] = []
    blocks: Any = [*model.in_blocks, model.mid_block, *model.out_blocks]
    with ExitStack() as stack:
        for block in blocks:
            handle = block.register_forward_hook(
                lambda module, inputs, output: outputs.append(output[0])
            )
            stack.callback(handle.remove)
        yield outputs
