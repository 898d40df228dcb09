"""The recurrent cells of arXiv:2210.16101 (DIA): LSTM, DIA-LSTM and DIA-LSTM (Light).

A cell maps the pooled features of one block and the state of the block before to a new state
(Eq. 4); its output h is the attention map. `RecurrentUnit` puts it to work on tokens.
Legend of tensor names: B batch, N channels, r reduction.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uvit_dia.models.layers import INITIAL_STD, linear_float32
from uvit_dia.models.units.protocol import check_divides

ACTIVATION_FUNCTIONS = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}
AT_ZERO = {"sigmoid": 0.5, "tanh": 0.0, "relu": 0.0}  # what each gives there
FORGET_GATE = 1  # place of f among the gates i, f, g, o
# Between an h and the next stacked cell, in the authors' released CIFAR code.
UPPER_DROPOUT = 0.1

CellState = tuple[Tensor, Tensor]  # (h, c), each (num_cells, B, N) float32


class RecurrentCell(nn.Module, ABC):
    """An LSTM cell of width N, with `num_cells - 1` plain cells stacked on it.

    With gates i, f, g, o: `c_t = σ(f) c_{t-1} + σ(i) tanh(g)` and `h_t = σ(o) · out(c_t)` (Eq. 4;
    Sec. III-C). Siblings differ in the lowest cell. Upper cells are plain Linear layers
    `upper.{k}.input` and `upper.{k}.hidden` (N -> 4N), fed with the h of the cell below; the top h
    is the attention map (Table XIV).

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
        if activation not in ACTIVATION_FUNCTIONS:
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATION_FUNCTIONS)}, got {activation!r}"
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
        """Return the gates i, f, g, o of the lowest cell before their nonlinearities.

        Args:
            s: (B, N) float32, the pooled features.
            h: (B, N) float32, that of the block before.

        Returns:
            (B, 4N) float32.
        """

    @abstractmethod
    def lowest_gate_parameters(self) -> list[nn.Parameter]:
        """Return the parameters nearest to the gates of the lowest cell.

        With all of them zero, `lowest_gates` is zero for any input. The second is the bias of the
        input path, (4N,) or (4, N).
        """

    def initial_state(self, batch_size: int, device: torch.device) -> CellState:
        """Return h_0 = c_0 = 0 (Eq. 4), each (num_cells, B, N) float32."""
        zeros = torch.zeros(self.num_cells, batch_size, self.channels, device=device)
        return zeros, zeros

    def initial_gate(self) -> float:
        """Return the h of a cell whose gates i, f, g, o are all zero: σ(0) · out(0).

        No tensor is asked for it: in a forward pass that would break the graph of `torch.compile`.
        """
        return 0.5 * AT_ZERO[self.activation]

    def forward(
        self, s: Tensor, state: CellState, dropout_masks: Tensor | None = None
    ) -> tuple[Tensor, CellState]:
        """Step the cell once.

        Args:
            s: (B, N) float32, the pooled features of one block.
            state: (h, c) of the block before, each (num_cells, B, N) float32.
            dropout_masks: (num_cells - 1, B, N) float32, what multiplies an h on its way to the
                cell above, that is 0 or 1 / (1 - p); None draws them from torch's global generator
                while training.

        Returns:
            The top h, (B, N) float32, which is the attention map; and the new state.
        """
        is_single = self.num_cells == 1  # then h and c are views, whose gradients are no copies
        h_before, c_before = ((p.squeeze(0),) if is_single else p.unbind(0) for p in state)
        out = ACTIVATION_FUNCTIONS[self.activation]
        hs, cs = [], []
        x = s
        for k in range(self.num_cells):
            if k == 0:
                gates = self.lowest_gates(x, h_before[0])  # B 4N
            else:
                x = self._drop(x, None if dropout_masks is None else dropout_masks[k - 1])
                layers: Any = self.upper[k - 1]  # a ModuleDict, which ModuleList's type hides
                gates = linear_float32(layers["input"], x)
                gates = gates + linear_float32(layers["hidden"], h_before[k])  # B 4N
            i, f, g, o = gates.chunk(4, dim=-1)  # each B N
            c = torch.sigmoid(f) * c_before[k] + torch.sigmoid(i) * torch.tanh(g)
            x = torch.sigmoid(o) * out(c)
            hs.append(x)
            cs.append(c)
        return x, (x[None], c[None]) if is_single else (torch.stack(hs), torch.stack(cs))

    def _drop(self, h: Tensor, mask: Tensor | None) -> Tensor:
        if not self.training:
            return h
        return F.dropout(h, UPPER_DROPOUT) if mask is None else h * mask

    def zero_top_gates(self) -> None:
        """Make the top cell's gates zero for any input: the map is `initial_gate()` everywhere."""
        nearest = self.lowest_gate_parameters() if self.num_cells == 1 else self._upper(-1)
        for parameter in nearest:
            nn.init.zeros_(parameter)

    def add_to_forget_biases(self, value: float) -> None:
        """Add a number to the bias of every cell's forget gate."""
        biases = [self.lowest_gate_parameters()[1]]
        biases += [self._upper(k)[1] for k in range(self.num_cells - 1)]
        with torch.no_grad():
            for bias in biases:
                bias.view(4, -1)[FORGET_GATE] += value

    def _upper(self, k: int) -> list[nn.Parameter]:
        """Return the parameters of an upper cell; the second is the bias of its input path."""
        return list(self.upper[k].parameters())


class LSTMCell(RecurrentCell):
    """The standard LSTM cell: a Linear N -> 4N a path, 8N² weights and 8N biases (Fig. 6a)."""

    def __init__(self, channels: int, activation: str = "tanh", num_cells: int = 1) -> None:
        super().__init__(channels, activation, num_cells)
        self.input = nn.Linear(channels, 4 * channels)
        self.hidden = nn.Linear(channels, 4 * channels)

    def lowest_gates(self, s: Tensor, h: Tensor) -> Tensor:
        """Map s and h, (B, N), to the gates, (B, 4N)."""
        return linear_float32(self.input, s) + linear_float32(self.hidden, h)

    def lowest_gate_parameters(self) -> list[nn.Parameter]:
        """Return those of both Linear layers."""
        return [*self.input.parameters(), *self.hidden.parameters()]


class _ReducedCell(RecurrentCell):
    """What DIA-LSTM and its Light sibling share: a Linear N -> N/r and a ReLU start each path."""

    def __init__(self, channels: int, reduction: int, activation: str, num_cells: int) -> None:
        super().__init__(channels, activation, num_cells)
        check_divides("reduction", reduction, channels)
        self.reduction = reduction
        self.input_reduce = nn.Linear(channels, channels // reduction)
        self.hidden_reduce = nn.Linear(channels, channels // reduction)

    def reduced(self, s: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Map s and h, (B, N), to their reduced vectors, each (B, N/r)."""
        return (
            torch.relu(linear_float32(self.input_reduce, s)),
            torch.relu(linear_float32(self.hidden_reduce, h)),
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
        gates = linear_float32(self.input_expand, reduced_s)
        return gates + linear_float32(self.hidden_expand, reduced_h)

    def lowest_gate_parameters(self) -> list[nn.Parameter]:
        """Return those of the expanding layers; the reducing ones pass the gradient on."""
        return [*self.input_expand.parameters(), *self.hidden_expand.parameters()]


class DIALSTMLightCell(_ReducedCell):
    """The DIA-LSTM (Light) cell: Linear N -> N/r, ReLU, four element-wise affine maps (Eq. 5).

    2N²/r + 16N weights (the 16N counts w and b of Eq. 5), and 2N/r biases of the reducing layers.

    Eq. 5 needs a vector of N entries where the reduced one has N/r. Our reading, which meets every
    count that the text gives: the reduced vector is repeated r times along the channels.
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
            nn.init.trunc_normal_(scale, std=INITIAL_STD)  # as U-ViT's Linear weights

    def lowest_gates(self, s: Tensor, h: Tensor) -> Tensor:
        """Map s and h, (B, N), to the gates, (B, 4N)."""
        repeated_s, repeated_h = (
            x.repeat(1, self.reduction)[:, None] for x in self.reduced(s, h)
        )  # B 1 N
        gates = self.input_scale.float() * repeated_s + self.input_shift.float()  # B 4 N
        gates = gates + self.hidden_scale.float() * repeated_h + self.hidden_shift.float()
        return gates.flatten(1)

    def lowest_gate_parameters(self) -> list[nn.Parameter]:
        """Return all four affine maps of both paths."""
        return [self.input_scale, self.input_shift, self.hidden_scale, self.hidden_shift]
