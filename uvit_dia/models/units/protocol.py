"""What every attention unit is: a module that multiplies the channels of tokens with a gate.

All units follow one protocol, whatever they compute::

    state = unit.initial_state(y, dropout_seeds)
    gated_y, attention_map, state = unit(y, state, block_index)

with y and gated_y of shape (B, L, D). State travels as a value from block to block and never lives
on the module: there it would leak between batches and break gradient checkpointing.

Parameters, state and gates are computed in float32 whatever the autocast or parameter dtype:
thirteen blocks of recurrence in bfloat16 would round the state at each of them, and the unit is a
few (B, D) vectors a block. `recurrent.py` puts a recurrent cell to work (Eq. 4 of
arXiv:2210.16101); `channel.py` and `spatial.py` hold the units without state.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from uvit_dia.config.units import LINEAR_INITS, POOLS
from uvit_dia.models.layers import initialise_linear
from uvit_dia.models.units.gate import Gate


class UnitState(NamedTuple):
    """What passes from block to block: h and c of the cell, and the seeds of its dropout.

    Attributes:
        h: (num_cells, B, D) float32, or None without recurrence.
        c: (num_cells, B, D) float32, or None without recurrence.
        dropout_seeds: (B,) int64, or None where nothing is dropped.
    """

    h: Tensor | None
    c: Tensor | None
    dropout_seeds: Tensor | None


class UnitOptions(TypedDict, total=False):
    """Keyword arguments that every unit takes; `AttentionUnit` describes them."""

    pool: str
    num_extra_tokens: int
    gate_init: str
    gate_form: str


class AttentionUnit(nn.Module, ABC):
    """The protocol of all units, and what they share: which tokens are pooled, and the gate.

    Args:
        channels: D, the width of the tokens.
        map_start: h_0, the attention map that the unit gives after `zero_map`, one number for all
            channels; None makes only the gates possible that do not need it.
        pool: "all" extracts features from all L tokens; "patches" leaves the time and label tokens
            out.
        num_extra_tokens: how many tokens stand before the patches.
        gate_init: see `Gate`.
        gate_form: see `Gate`.

    Raises:
        ValueError: for an unknown `pool`, a gate that `Gate` refuses, gate_init="identity" for a
            unit without `zero_map`, or gate_form="residual" for one with `starts_constant`.

    Attributes:
        starts_constant: whether a fresh unit gives `map_start` for any input.
        normalises_over_images: see `config.units.UnitFacts`, as the next one.
        has_running_averages: whether a forward pass in training moves buffers.
    """

    starts_constant: ClassVar[bool] = False
    normalises_over_images: ClassVar[bool] = False
    has_running_averages: ClassVar[bool] = False

    def __init__(
        self,
        channels: int,
        *,
        map_start: float | None = None,
        pool: str = "all",
        num_extra_tokens: int = 0,
        gate_init: str = "paper",
        gate_form: str = "h",
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"pool must be one of {', '.join(POOLS)}, got {pool!r}")
        name = type(self).__name__
        self.gate = Gate(channels, map_start, gate_init, gate_form)
        if gate_init == "identity" and type(self).zero_map is AttentionUnit.zero_map:
            raise ValueError(f"gate_init='identity' needs a zero_map(), which {name} lacks")
        if gate_form == "residual" and self.starts_constant:
            raise ValueError(
                f"gate_form='residual' would stay at its start with {name}, whose attention map"
                " starts as a constant: neither would pass a gradient to the other"
            )
        self.channels = channels
        self.num_extra_tokens = num_extra_tokens
        self.first_pooled_token = num_extra_tokens if pool == "patches" else 0

    def pooled(self, tokens: Tensor) -> Tensor:
        """Return those of the tokens, (B, L, ...), that the unit pools, (B, L', ...)."""
        return tokens[:, self.first_pooled_token :]

    @abstractmethod
    def full_gate(
        self, y: Tensor, state: UnitState, block_index: int, grid: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, UnitState]:
        """Compute all that multiplies one block's tokens; arguments as those of `forward`.

        Returns:
            What y is multiplied with, (B, 1, D) or, where it differs from token to token,
            (B, L, D), float32; the attention map, (B, D) float32; the new state.
        """

    def zero_map(self) -> None:
        """Zero the weights nearest to the map: it is `map_start` then for any input.

        Gradients must still reach them, or the unit would stay as it is.
        """
        raise NotImplementedError

    def forward(
        self, y: Tensor, state: UnitState, block_index: int, grid: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, UnitState]:
        """Gate the channels of one block's tokens.

        Args:
            y: (B, L, D).
            state: the state that the block before returned.
            block_index: the block's place in the order of the data, from 0.
            grid: rows and columns of the patches, for the units that look at it; None for a square.

        Returns:
            The gated y, (B, L, D) in y's dtype; the attention map, (B, D) float32; the new state.
        """
        with without_autocast(y.device.type):
            gate, attention_map, state = self.full_gate(y, state, block_index, grid)
            return y * gate.to(y.dtype), attention_map, state

    def initial_state(self, y: Tensor, dropout_seeds: Tensor | None = None) -> UnitState:
        """Return the state before the first block.

        Args:
            y: (B, L, D), the tokens that enter the first block.
            dropout_seeds: (B,) int64, one seed an image; None lets torch's global generator drop.
        """
        return UnitState(None, None, None)

    def penalty(self) -> Tensor | None:
        """Return what the unit adds to the training loss at each block, (), or None."""
        return None

    def initialise(self, linear_init: str = "u_vit") -> None:
        """Give a unit that was just made the weights that it starts with.

        Args:
            linear_init: "u_vit" draws Linear weights from a truncated normal of 0.02 and zeroes
                their biases, as U-ViT does; "torch" leaves them as torch draws them, as the
                authors of the units do.

        Raises:
            ValueError: for an unknown `linear_init`.
        """
        if linear_init not in LINEAR_INITS:
            found = f"{', '.join(LINEAR_INITS)}, got {linear_init!r}"
            raise ValueError(f"linear_init must be one of {found}")
        if linear_init == "u_vit":
            initialise_linear(self)
        self.reset_gate()

    def reset_gate(self) -> None:
        """Apply `gate_init`, after the general initialisation of the weights."""
        if self.gate.gate_init == "identity":
            self.zero_map()


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """Return a context without autocast; where there is none, entering it costs nothing."""
    if not torch.is_autocast_enabled(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


def check_divides(option: str, number: int, channels: int) -> None:
    """Raise a ValueError unless an option's number divides the channels."""
    if number < 1 or channels % number:
        raise ValueError(
            f"{option} must be at least 1 and divide the {channels} channels, got {number}"
        )


def total_penalty(units: Iterable[AttentionUnit]) -> Tensor | None:
    """Return the sum of the units' penalties, (), or None if none of them has one."""
    terms = [term for unit in units if (term := unit.penalty()) is not None]
    return torch.stack(terms).sum() if terms else None
