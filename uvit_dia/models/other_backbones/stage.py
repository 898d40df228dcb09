"""An attention unit inside a model that was not written for one: how its state passes on.

A foreign model hands no state from block to block, so a `Stage` keeps it from the first target of a
pass to the last, and no longer. A pass is one call: of the model, or of a module in it that holds
several targets, if that is called by itself. Its beginning and its end, an exception included, drop
the state; so do the first target and the last. State of one thread is not seen by another.

Legend of tensor names: B batch, C channels, H rows, W columns, L tokens.
"""

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from uvit_dia.models.other_backbones.recorded import RecordedStates
from uvit_dia.models.other_backbones.tokens import Layout
from uvit_dia.models.units.protocol import UnitState

MODEL = ""  # the model's own name among its modules
NO_BACKWARD = -1  # what torch answers when no backward pass is running


def is_traced() -> bool:
    """Say whether this is traced for compiled code.

    That is one pass, and does not see what a thread stored before.
    """
    return torch.compiler.is_compiling()


def running_backward() -> int:
    """Return the number of the backward pass that runs in this thread, or `NO_BACKWARD`."""
    if is_traced():  # outside of backward passes
        return NO_BACKWARD
    return torch._C._current_graph_task_id()


class _Live(threading.local):
    """The state between two targets of one forward pass; it is never copied nor saved."""

    caller: str | None = None  # name of the module whose call the pass is
    state: UnitState | None = None
    next_index: int = 0
    backward: int = NO_BACKWARD  # the pass was a recomputation of this backward pass
    has_grad: bool = False

    def __reduce__(self) -> tuple:
        return _Live, ()


class Stage(nn.Module):
    """The targets that share one unit, in the order of the data.

    Args:
        unit: the unit of all targets, or a ModuleList with one a target.
        target_names: full names of the targets.
        layout: of their outputs.
        checkpointing: whether the states of the latest pass are kept for gradient checkpointing.
    """

    def __init__(
        self,
        unit: nn.Module,
        target_names: Sequence[str],
        layout: Layout,
        *,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.unit = unit
        self.target_names = tuple(target_names)
        self.layout = layout
        self.checkpointing = checkpointing
        self._live = _Live()
        self._recorded = RecordedStates()

    @property
    def channels(self) -> int:
        """The width C of the targets' outputs."""
        return self.layout.channels

    def extra_repr(self) -> str:
        """Name the targets in a printed model."""
        return f"channels={self.channels}, targets={', '.join(self.target_names)}"

    def callers(self) -> list[str]:
        """Return the names of the modules whose call can be a pass.

        They are the model, and what holds several targets.
        """
        parts = (name.split(".") for name in self.target_names)
        counts = Counter(".".join(p[:end]) for p in parts for end in range(1, len(p)))
        return [MODEL, *(name for name, count in counts.items() if count > 1)]

    def begin_pass(self, caller: str) -> None:
        """Begin a pass with the call of a module, unless that is part of a pass."""
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

    def unit_of(self, index: int) -> Any:  # noqa: ANN401  # an AttentionUnit
        """Return the unit of a target."""
        return self.unit[index] if isinstance(self.unit, nn.ModuleList) else self.unit

    def gate(self, y: Tensor, index: int) -> Tensor:
        """Gate the channels of one target's output.

        Args:
            y: (B, C, H, W), (B, H, W, C) or (B, L, C).
            index: the target's place in the stage.

        Returns:
            The gated y, in its shape and dtype.

        Raises:
            ValueError: if y has another shape or width than the stage was made for.
            RuntimeError: if the targets run in another order or outside of a pass, or state that
                gradient checkpointing needs is not there.
        """
        name = self.target_names[index]
        tokens, grid = self.layout.to_tokens(y, name)  # B L C
        unit = self.unit_of(index)
        backward = running_backward()
        if self.checkpointing and backward != NO_BACKWARD:
            gated, _, _ = unit(tokens, self._recorded.find(tokens, index, name), index, grid)
            return self.layout.from_tokens(gated, y)
        live = self._live
        is_outside = live.caller is None and backward == NO_BACKWARD and not is_traced()
        if index == 0:
            live.state = unit.initial_state(tokens)
            live.backward, live.has_grad = backward, torch.is_grad_enabled()
        else:
            self._check_turn(index, backward, is_outside=is_outside)
        state = live.state
        assert state is not None  # it is set at the first target and checked at the others
        if self.checkpointing and torch.is_grad_enabled():
            self._recorded.keep(tokens, state, index)
        gated, _, live.state = unit(tokens, state, index, grid)  # B L C
        live.next_index = index + 1
        if is_outside or live.next_index == len(self.target_names):
            self._drop_state()
        return self.layout.from_tokens(gated, y)

    def _check_turn(self, index: int, backward: int, *, is_outside: bool) -> None:
        live, name = self._live, self.target_names[index]
        if is_outside:
            raise RuntimeError(
                f"{name} ran outside of a call of the model, or of a module in it that holds"
                " several targets, within which state passes: call that (not its forward), or make"
                " a stage of each part that is called by itself"
            )
        if live.next_index != index or live.backward != backward:
            if backward != NO_BACKWARD:
                raise RuntimeError(
                    f"{name} was recomputed without the state before it:"
                    " share_attention(..., checkpointing=True) keeps it for gradient checkpointing"
                )
            raise RuntimeError(
                f"{name} ran when {self.target_names[live.next_index]} was to run: give the targets"
                " as a sequence of names in the order of the data, leaving out what does not always"
                " run, or make a stage of each part that is called by itself"
            )
        if torch.is_grad_enabled() and not live.has_grad:
            raise RuntimeError(
                f"gradients were off at {self.target_names[0]} and are on at {name}, which would"
                " cut the gradient through the state: use checkpointing with use_reentrant=False,"
                " or make two stages"
            )
