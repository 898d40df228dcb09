"""The recurrent attention units of arXiv:2210.16101 (DIA): LSTM, DIA-LSTM and DIA-LSTM (Light).

A *cell* maps the pooled features of one block to the next recurrent state (Eq. 4). A *unit* puts a cell to work on
tokens: it pools them, steps the cell and multiplies the tokens' channels with the cell's output, the attention map.

Every attention unit follows one protocol, whatever it computes::

    state = unit.initial_state(y, dropout_seeds)
    gated_y, attention_map, state = unit(y, state, block_index)

with y and gated_y of shape (B, L, D). State travels as a value from block to block and never lives on the module:
there it would leak between batches and break gradient checkpointing.

Parameters, state and gates are computed in float32 whatever the autocast or parameter dtype: thirteen blocks of
recurrence in bfloat16 would round the state at each of them, and the unit is a few (B, D) vectors a block.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uvit_dia.rng import hash_uniform

ACTIVATIONS = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}
GATE_INITS = ("paper", "identity")
POOLS = ("all", "patches")
UPPER_DROPOUT = 0.1  # between an h and the next stacked cell, in the authors' released CIFAR code

CellState = tuple[Tensor, Tensor]  # (h, c), each (num_cells, B, N) float32


def _linear_float32(layer: nn.Linear, x: Tensor) -> Tensor:
    """Apply a Linear layer in float32 even where its parameters are stored in a shorter type."""
    bias = None if layer.bias is None else layer.bias.float()
    return F.linear(x, layer.weight.float(), bias)


class RecurrentCell(nn.Module, ABC):
    """An LSTM cell of width N, with `num_cells - 1` plain cells stacked on it; siblings differ in the lowest cell.

    With gates i, f, g, o: `c_t = σ(f) c_{t-1} + σ(i) tanh(g)` and `h_t = σ(o) · out(c_t)` (Eq. 4; Sec. III-C).
    Upper cells are plain Linear layers `upper.{k}.input` and `upper.{k}.hidden` (N -> 4N), fed with the h of the
    cell below; the top h is the attention map (Table XIV).

    Args:
        channels: N.
        activation: out, one of "sigmoid", "tanh", "relu" (Table XIV); for upper cells too.
        num_cells: how many cells are stacked, at least 1.

    Raises:
        ValueError: if an argument is outside these ranges.
    """

    def __init__(self, channels: int, activation: str, num_cells: int) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}"
            )
        if num_cells < 1:
            raise ValueError(f"num_cells must be at least 1, got {num_cells}")
        self.channels = channels
        self.activation = activation
        self.num_cells = num_cells
        if num_cells > 1:  # an empty ModuleList would be harmless, but shows in every printed model
            self.upper = nn.ModuleList(
                nn.ModuleDict(
                    {
                        "input": nn.Linear(channels, 4 * channels),
                        "hidden": nn.Linear(channels, 4 * channels),
                    }
                )
                for _ in range(num_cells - 1)
            )

    @abstractmethod
    def lowest_gates(self, s: Tensor, h: Tensor) -> Tensor:
        """Return the gates i, f, g, o of the lowest cell before their nonlinearities, (B, 4N), from s and h, (B, N)."""

    @abstractmethod
    def zero_lowest_gates(self) -> None:
        """Zero the weights nearest to the gates of the lowest cell, so that `lowest_gates` is zero for any input."""

    def initial_state(self, batch_size: int, device: torch.device) -> CellState:
        """Return h_0 = c_0 = 0 (Eq. 4), each (num_cells, B, N) float32."""
        zeros = torch.zeros(self.num_cells, batch_size, self.channels, device=device)
        return zeros, zeros

    def initial_gate(self) -> float:
        """Return the gate that a cell gives whose gates i, f, g, o are all zero: σ(0) · out(0)."""
        return 0.5 * float(ACTIVATIONS[self.activation](torch.zeros(())))

    def forward(
        self, s: Tensor, state: CellState, dropout_masks: Tensor | None = None
    ) -> tuple[Tensor, CellState]:
        """Step the cell once.

        Args:
            s: (B, N) float32, the pooled features of one block.
            state: (h, c) of the block before, each (num_cells, B, N) float32.
            dropout_masks: (num_cells - 1, B, N) float32, what multiplies an h on its way to the cell above, that is
                0 or 1 / (1 - p); None draws them from torch's global generator while training.

        Returns:
            The top h, (B, N) float32, which is the attention map; and the new state.
        """
        h_before, c_before = state
        out = ACTIVATIONS[self.activation]
        hs, cs = [], []
        x = s
        for k in range(self.num_cells):
            if k == 0:
                gates = self.lowest_gates(x, h_before[0])  # B 4N
            else:
                x = self._drop(x, None if dropout_masks is None else dropout_masks[k - 1])
                layers: Any = self.upper[k - 1]  # a ModuleDict, which ModuleList's type hides
                gates = _linear_float32(layers["input"], x) + _linear_float32(
                    layers["hidden"], h_before[k]
                )
            i, f, g, o = gates.chunk(4, dim=-1)  # each B N
            c = torch.sigmoid(f) * c_before[k] + torch.sigmoid(i) * torch.tanh(g)
            x = torch.sigmoid(o) * out(c)
            hs.append(x)
            cs.append(c)
        return x, (torch.stack(hs), torch.stack(cs))

    def _drop(self, h: Tensor, mask: Tensor | None) -> Tensor:
        if not self.training:
            return h
        return F.dropout(h, UPPER_DROPOUT) if mask is None else h * mask

    def zero_top_gates(self) -> None:
        """Make the top cell's gates zero for any input, so that the attention map is `initial_gate()` everywhere."""
        if self.num_cells == 1:
            self.zero_lowest_gates()
            return
        for parameter in self.upper[-1].parameters():
            nn.init.zeros_(parameter)


class LSTMCell(RecurrentCell):
    """The standard LSTM cell: a Linear N -> 4N a path, 8N² weights and 8N biases (Fig. 6a)."""

    def __init__(self, channels: int, activation: str = "tanh", num_cells: int = 1) -> None:
        super().__init__(channels, activation, num_cells)
        self.input = nn.Linear(channels, 4 * channels)
        self.hidden = nn.Linear(channels, 4 * channels)

    def lowest_gates(self, s: Tensor, h: Tensor) -> Tensor:
        """Map s and h, (B, N), to the gates, (B, 4N)."""
        return _linear_float32(self.input, s) + _linear_float32(self.hidden, h)

    def zero_lowest_gates(self) -> None:
        """Zero both Linear layers."""
        for parameter in (*self.input.parameters(), *self.hidden.parameters()):
            nn.init.zeros_(parameter)


class _ReducedCell(RecurrentCell):
    """What DIA-LSTM and its Light sibling share: a Linear N -> N/r and a ReLU at the start of each path."""

    def __init__(self, channels: int, reduction: int, activation: str, num_cells: int) -> None:
        super().__init__(channels, activation, num_cells)
        if reduction < 1 or channels % reduction:
            raise ValueError(
                f"reduction must be at least 1 and divide the {channels} channels, got {reduction}"
            )
        self.reduction = reduction
        self.input_reduce = nn.Linear(channels, channels // reduction)
        self.hidden_reduce = nn.Linear(channels, channels // reduction)

    def reduced(self, s: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Map s and h, (B, N), to their reduced vectors, each (B, N/r)."""
        return (
            torch.relu(_linear_float32(self.input_reduce, s)),
            torch.relu(_linear_float32(self.hidden_reduce, h)),
        )


class DIALSTMCell(_ReducedCell):
    """The DIA-LSTM cell: Linear N -> N/r, ReLU, Linear N/r -> 4N a path (Fig. 6b).

    10N²/r weights, and 8N + 2N/r biases.
    """

    def __init__(
        self, channels: int, reduction: int = 4, activation: str = "sigmoid", num_cells: int = 1
    ) -> None:
        super().__init__(channels, reduction, activation, num_cells)
        self.input_expand = nn.Linear(channels // reduction, 4 * channels)
        self.hidden_expand = nn.Linear(channels // reduction, 4 * channels)

    def lowest_gates(self, s: Tensor, h: Tensor) -> Tensor:
        """Map s and h, (B, N), to the gates, (B, 4N)."""
        reduced_s, reduced_h = self.reduced(s, h)
        return _linear_float32(self.input_expand, reduced_s) + _linear_float32(
            self.hidden_expand, reduced_h
        )

    def zero_lowest_gates(self) -> None:
        """Zero both expanding layers; the reducing ones keep their weights and so pass gradients on."""
        for parameter in (*self.input_expand.parameters(), *self.hidden_expand.parameters()):
            nn.init.zeros_(parameter)


class DIALSTMLightCell(_ReducedCell):
    """The DIA-LSTM (Light) cell: Linear N -> N/r, ReLU, then four element-wise affine maps a path (Eq. 5).

    2N²/r + 16N weights (the 16N counts w and b of Eq. 5), and 2N/r biases of the reducing layers.

    Eq. 5 needs a vector of N entries where the reduced one has N/r. Our reading, which meets every count that the
    text gives: the reduced vector is repeated r times along the channels.
    """

    def __init__(
        self, channels: int, reduction: int = 4, activation: str = "sigmoid", num_cells: int = 1
    ) -> None:
        super().__init__(channels, reduction, activation, num_cells)
        self.input_scale = nn.Parameter(torch.empty(4, channels))
        self.input_shift = nn.Parameter(torch.zeros(4, channels))
        self.hidden_scale = nn.Parameter(torch.empty(4, channels))
        self.hidden_shift = nn.Parameter(torch.zeros(4, channels))
        for scale in (self.input_scale, self.hidden_scale):
            nn.init.trunc_normal_(scale, std=0.02)  # as the Linear weights whose place it takes

    def lowest_gates(self, s: Tensor, h: Tensor) -> Tensor:
        """Map s and h, (B, N), to the gates, (B, 4N)."""
        repeated_s, repeated_h = (
            x.repeat(1, self.reduction)[:, None] for x in self.reduced(s, h)
        )  # B 1 N
        gates = self.input_scale.float() * repeated_s + self.input_shift.float()  # B 4 N
        gates = gates + self.hidden_scale.float() * repeated_h + self.hidden_shift.float()
        return gates.flatten(1)

    def zero_lowest_gates(self) -> None:
        """Zero all four affine maps of both paths."""
        for p in (self.input_scale, self.input_shift, self.hidden_scale, self.hidden_shift):
            nn.init.zeros_(p)


class UnitState(NamedTuple):
    """What passes from block to block: h and c of the cell, and the seeds of its dropout.

    Attributes:
        h: (num_cells, B, D) float32.
        c: (num_cells, B, D) float32.
        dropout_seeds: (B,) int64, or None where nothing is dropped.
    """

    h: Tensor
    c: Tensor
    dropout_seeds: Tensor | None


class RecurrentUnit(nn.Module):
    """Pool the tokens, step the cell, gate the channels (Eq. 4; Fig. 7 for the place in a U-ViT).

    Args:
        cell: the recurrent cell, of width D.
        pool: "all" averages over all L tokens; "patches" leaves the time and label tokens out.
        num_extra_tokens: how many tokens stand before the patches.
        gate_init: "paper" multiplies with h itself, about 0.25 at the start. "identity", an extension of ours,
            multiplies with `1 + tanh(4 (h - h_start))`, where h_start is the cell's `initial_gate()`, and zeroes the
            layers nearest to the gates: the unit starts as the exact identity map and may later raise or lower a
            channel, between 0.24 and 2 for a sigmoid. It separates attention from the change of scale that a gate
            of 0.25 in front of every MLP also is.

    Raises:
        ValueError: for an unknown `pool` or `gate_init`, or for "identity" with ReLU, whose gradient would be zero.
    """

    def __init__(
        self, cell: RecurrentCell, *, pool: str, num_extra_tokens: int, gate_init: str
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"pool must be one of {', '.join(POOLS)}, got {pool!r}")
        if gate_init not in GATE_INITS:
            raise ValueError(f"gate_init must be one of {', '.join(GATE_INITS)}, got {gate_init!r}")
        if gate_init == "identity" and cell.activation == "relu":
            raise ValueError(
                "gate_init='identity' needs activation sigmoid or tanh: relu would start with a zero gradient"
            )
        self.cell = cell
        self.first_pooled_token = num_extra_tokens if pool == "patches" else 0
        self.gate_init = gate_init

    def reset_gate(self) -> None:
        """Apply `gate_init`; call it after the general initialisation of the weights."""
        if self.gate_init == "identity":
            self.cell.zero_top_gates()

    def initial_state(self, y: Tensor, dropout_seeds: Tensor | None = None) -> UnitState:
        """Return the state before the first block.

        Args:
            y: (B, L, D), any tensor of the right batch size and device.
            dropout_seeds: (B,) int64, one seed an image; None lets torch's global generator drop.
        """
        h, c = self.cell.initial_state(y.shape[0], y.device)
        return UnitState(h, c, dropout_seeds if self.training else None)

    def forward(
        self, y: Tensor, state: UnitState, block_index: int
    ) -> tuple[Tensor, Tensor, UnitState]:
        """Gate the channels of one block's normalised tokens.

        Args:
            y: (B, L, D).
            state: the state that the block before returned.
            block_index: the block's place in the order of the data, from 0.

        Returns:
            The gated y, (B, L, D) in y's dtype; the attention map, (B, D) float32; the new state.
        """
        with torch.autocast(y.device.type, enabled=False):
            s = y[:, self.first_pooled_token :].float().mean(dim=1)  # B D
            masks = self._dropout_masks(state, block_index)
            attention_map, (h, c) = self.cell(s, (state.h, state.c), masks)  # B D
            gate = attention_map
            if self.gate_init == "identity":
                gate = 1 + torch.tanh(4 * (attention_map - self.cell.initial_gate()))
        return y * gate[:, None].to(y.dtype), attention_map, UnitState(h, c, state.dropout_seeds)

    def _dropout_masks(self, state: UnitState, block_index: int) -> Tensor | None:
        """Return (num_cells - 1, B, D) masks from the images' seeds, or None where the cell needs none of ours."""
        if state.dropout_seeds is None or self.cell.num_cells == 1:
            return None
        uppers = self.cell.num_cells - 1
        uniform = [
            hash_uniform(state.dropout_seeds, block_index * uppers + k, self.cell.channels)
            for k in range(uppers)
        ]
        return (torch.stack(uniform) >= UPPER_DROPOUT).float() / (1 - UPPER_DROPOUT)


CELLS = {"lstm": LSTMCell, "dia_lstm": DIALSTMCell, "dia_lstm_light": DIALSTMLightCell}
ATTENTION_NAMES = ("none", *CELLS)
DEFAULT_OPTIONS = {
    "shared": True,
    "reduction": 4,
    "activation": "default",  # what the paper's cell has: tanh for lstm, sigmoid for the DIA cells
    "num_cells": 1,
    "pool": "all",
    "blocks": "all",
    "gate_init": "paper",
}


def make_attention_unit(
    name: str, channels: int, num_extra_tokens: int, options: dict[str, Any]
) -> RecurrentUnit:
    """Build one attention unit.

    Args:
        name: one of `ATTENTION_NAMES` but "none".
        channels: D, the width of the tokens.
        num_extra_tokens: how many tokens stand before the patches.
        options: complete set of options, the keys of `DEFAULT_OPTIONS`.

    Raises:
        ValueError: for an unknown name, or options that do not fit the channels.
    """
    if name not in CELLS:
        raise ValueError(f"attention must be one of {', '.join(ATTENTION_NAMES)}, got {name!r}")
    arguments: dict[str, Any] = {"num_cells": options["num_cells"]}
    if options["activation"] != "default":
        arguments["activation"] = options["activation"]
    if name != "lstm":  # the standard cell has no reduction
        arguments["reduction"] = options["reduction"]
    return RecurrentUnit(
        CELLS[name](channels, **arguments),
        pool=options["pool"],
        num_extra_tokens=num_extra_tokens,
        gate_init=options["gate_init"],
    )
