"""An attention unit inside a model that was not written for one: what hooks gate, and how state passes between them.

A foreign model hands no state from block to block, so a `Stage` keeps it from the first target of a pass to the last,
and no longer. A pass is one call: of the model, or of a module in it that holds several targets, if that is called by
itself. Its beginning and its end, an exception included, drop the state; so do the first target and the last. State of
one thread is not seen by another.

Legend of tensor names: B batch, C channels, H rows, W columns, L tokens.
"""

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from uvit_dia.models.units.protocol import UnitState

MODEL = ""  # the model's own name among its modules
NO_BACKWARD = -1  # what torch answers when no backward pass is running
SAME_IMAGES_RTOL, SAME_IMAGES_ATOL = (
    1e-3,
    1e-4,
)  # between a pass and its recomputation; other images differ by far more


def is_traced() -> bool:
    """Say whether this is traced for compiled code, which is one pass and does not see what a thread stored before."""
    return torch.compiler.is_compiling()


def running_backward() -> int:
    """Return the number of the backward pass that runs in this thread, or `NO_BACKWARD`."""
    if is_traced():  # outside of backward passes
        return NO_BACKWARD
    return torch._C._current_graph_task_id()


class _Live(threading.local):
    """The state between two targets of one forward pass; it is never copied nor saved with the model."""

    caller: str | None = None  # name of the module whose call the pass is
    state: UnitState | None = None
    next_index: int = 0
    backward: int = NO_BACKWARD  # the pass was a recomputation of this backward pass
    has_grad: bool = False

    def __reduce__(self) -> tuple:
        return _Live, ()


class _Recorded(NamedTuple):
    """What a recomputation of one target needs: the state before it, and its pooled input to be known by."""

    state: UnitState
    pooled: Tensor  # (B, C) float32


class Stage(nn.Module):
    """The targets that share one unit, in the order of the data.

    Args:
        unit: the unit of all targets, or a ModuleList with one a target.
        target_names: full names of the targets.
        channels: C.
        channels_last: whether four-dimensional outputs are (B, H, W, C), not (B, C, H, W).
        num_extra_tokens: tokens (class, registers) before the patches in outputs (B, L, C).
        grid: rows and columns of the patches in outputs (B, L, C); None for a square.
        checkpointing: whether the states of the latest pass are kept for gradient checkpointing.
    """

    def __init__(
        self,
        unit: nn.Module,
        target_names: Sequence[str],
        *,
        channels: int,
        channels_last: bool,
        num_extra_tokens: int,
        grid: tuple[int, int] | None,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.unit = unit
        self.target_names = tuple(target_names)
        self.channels = channels
        self.channels_last = channels_last
        self.num_extra_tokens = num_extra_tokens
        self.grid = grid
        self.checkpointing = checkpointing
        self._live = _Live()
        self._recorded: dict[int, _Recorded] = {}

    def extra_repr(self) -> str:
        """Name the targets in a printed model."""
        return f"channels={self.channels}, targets={', '.join(self.target_names)}"

    def callers(self) -> list[str]:
        """Return the names of the modules whose call can be a pass: the model, and what holds several targets."""
        parts = (name.split(".") for name in self.target_names)
        counts = Counter(".".join(p[:end]) for p in parts for end in range(1, len(p)))
        return [MODEL, *(name for name, count in counts.items() if count > 1)]

    def begin_pass(self, caller: str) -> None:
        """Begin a pass with the call of a module, unless that is part of a pass; the model's is never."""
        if not is_traced() and (caller == MODEL or self._live.caller is None):
            self._drop_state()
            self._live.caller = caller

    def end_pass(self, caller: str) -> None:
        """End the pass that is the call of this module, wherever it ended."""
        if not is_traced() and self._live.caller == caller:
            self._drop_state()
            self._live.caller = None

    def _drop_state(self) -> None:
        self._live.state = None
        self._live.next_index = 0

    def gate(self, y: Tensor, index: int) -> Tensor:
        """Gate the channels of one target's output.

        Args:
            y: (B, C, H, W), (B, H, W, C) or (B, L, C).
            index: the target's place in the stage.

        Returns:
            The gated y, in its shape and dtype.

        Raises:
            ValueError: if y has another shape or width than the stage was made for.
            RuntimeError: if the targets run in another order or outside of a pass, or state that gradient
                checkpointing needs is not there.
        """
        tokens, grid = self._to_tokens(y, index)  # B L C
        unit: Any = self.unit[index] if isinstance(self.unit, nn.ModuleList) else self.unit
        backward = running_backward()
        if self.checkpointing and backward != NO_BACKWARD:
            gated, _, _ = unit(tokens, self._recorded_state(tokens, index), index, grid)
            return self._from_tokens(gated, y)
        live = self._live
        is_outside = live.caller is None and backward == NO_BACKWARD and not is_traced()
        if index == 0:
            live.state = unit.initial_state(tokens)
            live.backward, live.has_grad = backward, torch.is_grad_enabled()
        elif is_outside:
            raise RuntimeError(
                f"{self.target_names[index]} ran outside of a call of the model, or of a module in it that holds"
                " several targets, within which state passes: call that (not its forward), or make a stage of each"
                " part that is called by itself"
            )
        else:
            self._check_turn(index, backward)
        state = live.state
        assert state is not None  # it is set at the first target and checked at the others
        if self.checkpointing and torch.is_grad_enabled():
            self._record(tokens, state, index)
        gated, _, live.state = unit(tokens, state, index, grid)  # B L C
        live.next_index = index + 1
        if is_outside or live.next_index == len(self.target_names):
            self._drop_state()
        return self._from_tokens(gated, y)

    def _check_turn(self, index: int, backward: int) -> None:
        live, name = self._live, self.target_names[index]
        if live.next_index != index or live.backward != backward:
            if backward != NO_BACKWARD:
                raise RuntimeError(
                    f"{name} was recomputed without the state before it: share_attention(..., checkpointing=True)"
                    " keeps it for gradient checkpointing"
                )
            raise RuntimeError(
                f"{name} ran when {self.target_names[live.next_index]} was to run: give the targets as a sequence of"
                " names in the order of the data, leaving out what does not always run, or make a stage of each part"
                " that is called by itself"
            )
        if torch.is_grad_enabled() and not live.has_grad:
            raise RuntimeError(
                f"gradients were off at {self.target_names[0]} and are on at {name}, which would cut the gradient"
                " through the state: use checkpointing with use_reentrant=False, or make two stages"
            )

    def _to_tokens(self, y: Tensor, index: int) -> tuple[Tensor, tuple[int, int] | None]:
        """Return y as tokens, (B, L, C), and the grid that they make."""
        name = self.target_names[index]
        if not isinstance(y, Tensor) or y.dim() not in (3, 4):
            found = f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(
                f"{name} must return one tensor (B, C, H, W) or (B, L, C), got {found}"
            )
        is_channels_last = y.dim() == 3 or self.channels_last
        width = y.shape[-1] if is_channels_last else y.shape[1]
        if width != self.channels:
            raise ValueError(
                f"{name} returned shape {tuple(y.shape)}, of {width} channels where {self.channels} were expected:"
                f" change channels= or channels_last={self.channels_last}"
            )
        if y.dim() == 3:
            return y, self.grid
        if self.num_extra_tokens:
            raise ValueError(
                f"{name} returned a feature map of shape {tuple(y.shape)}, which has no extra tokens:"
                f" leave out num_extra_tokens={self.num_extra_tokens}"
            )
        if is_channels_last:
            return y.flatten(1, 2), (y.shape[1], y.shape[2])
        return y.flatten(2).transpose(1, 2), (y.shape[2], y.shape[3])

    def _from_tokens(self, tokens: Tensor, y: Tensor) -> Tensor:
        """Return tokens in the shape of y."""
        if y.dim() == 3:
            return tokens
        if self.channels_last:
            return tokens.unflatten(1, y.shape[1:3])
        return tokens.transpose(1, 2).unflatten(2, y.shape[2:])

    def _record(self, tokens: Tensor, state: UnitState, index: int) -> None:
        if index == 0:
            self._recorded = {}
        # A recomputation must save what the pass saved, so that the copy asks for gradients where the state did.
        leaves = (
            None if x is None else x.detach().requires_grad_(x.requires_grad) for x in state
        )  # dropout seeds never ask
        pooled = tokens.detach().float().mean(dim=1)  # B C
        self._recorded[index] = _Recorded(UnitState(*leaves), pooled)

    def _recorded_state(self, tokens: Tensor, index: int) -> UnitState:
        recorded = self._recorded.get(index)
        pooled = tokens.detach().float().mean(dim=1)  # B C
        if (
            recorded is None
            or recorded.pooled.shape != pooled.shape
            or not torch.allclose(
                recorded.pooled, pooled, rtol=SAME_IMAGES_RTOL, atol=SAME_IMAGES_ATOL
            )
        ):
            raise RuntimeError(
                f"{self.target_names[index]} was recomputed for another forward pass than the latest: call backward"
                " before the next forward pass, and use checkpointing with use_reentrant=False"
            )
        return recorded.state


class Site:
    """The hook at one target, which a copy of the model copies together with the stage that it belongs to."""

    def __init__(self, stage: Stage, index: int) -> None:
        self.stage = stage
        self.index = index

    def __call__(self, module: nn.Module, arguments: object, output: Tensor) -> Tensor:
        """Replace the target's output with the gated one."""
        return self.stage.gate(output, self.index)


class PassBegin:
    """The hook before the call of a module that may be a pass of a stage; copied as `Site` is."""

    def __init__(self, stage: Stage, caller: str) -> None:
        self.stage = stage
        self.caller = caller

    def __call__(self, module: nn.Module, arguments: object) -> None:
        """Begin the pass."""
        self.stage.begin_pass(self.caller)


class PassEnd(PassBegin):
    """The hook after it."""

    def __call__(self, module: nn.Module, arguments: object, output: object = None) -> None:
        """End the pass."""
        self.stage.end_pass(self.caller)


class SharedAttention(nn.ModuleDict):
    """The stages of one model by name; registered on the model, so that its weights stand there once."""

    def __init__(self, stages: dict[str, Stage]) -> None:
        super().__init__(stages)

    def forward(self, x: Tensor) -> Tensor:
        """Return x: a container that runs its children in turn, such as nn.Sequential, loses nothing here."""
        return x

    def stages(self) -> Iterable[Stage]:
        """Return the stages in the order in which they were given."""
        return (stage for stage in self.values() if isinstance(stage, Stage))

    def num_weights(self) -> int:
        """Return how many weights the units have, biases left out; docs/experiments.md has the formulas."""
        return sum(p.numel() for name, p in self.named_parameters() if not name.endswith("bias"))

    def attach(self, model: nn.Module) -> None:
        """Hook the targets of a model, and the beginning and the end of the calls that are passes."""
        for stage in self.stages():
            for index, name in enumerate(stage.target_names):
                model.get_submodule(name).register_forward_hook(Site(stage, index))
            for caller in stage.callers():
                module = model.get_submodule(caller)
                module.register_forward_pre_hook(PassBegin(stage, caller))
                module.register_forward_hook(PassEnd(stage, caller), always_call=True)
