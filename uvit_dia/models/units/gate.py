"""How an attention map becomes the gate, which multiplies the features."""

import torch
from torch import Tensor, nn

from uvit_dia.config.units import GATE_FORMS, GATE_INITS

IDENTITY_SLOPE = 4


class Gate(nn.Module):
    """The gate of an attention map h, whose fresh value is h_0 for all channels.

    | gate_init | gate_form | gate |
    | --- | --- | --- |
    | "paper" | "h" | h, as in Eqs. 1 and 4 of arXiv:2210.16101 |
    | "identity" | "h" | 1 + tanh(4 (h - h_0)) |
    | "rescaled" | "h" | h / h_0 |
    | "paper" | "mean_one" | h / mean of h over the channels |
    | "paper" | "residual" | 1 + a ⊗ (h - h_0), with weights a, (D,), that start at 0 |

    All but the first row are extensions of ours. They separate attention from the change of scale
    that a gate of, say, h_0 = 0.25 in front of every MLP also is. "identity" comes with zeroed
    weights nearest to the map (`AttentionUnit.zero_map`), so that the unit starts as the exact
    identity; a sigmoid cell may later raise or lower a channel, between 0.24 and 2.

    Args:
        channels: D, the length of the map.
        map_start: h_0, or None where the unit does not tell it.
        gate_init: one of `GATE_INITS`.
        gate_form: one of `GATE_FORMS`.

    Raises:
        ValueError: for unknown values, or a pair that is not in the table, or if the gate would
            divide by an h_0 that is 0 or needs an h_0 that is None.
    """

    def __init__(
        self,
        channels: int,
        map_start: float | None,
        gate_init: str = "paper",
        gate_form: str = "h",
    ) -> None:
        super().__init__()
        if gate_init not in GATE_INITS:
            raise ValueError(f"gate_init must be one of {', '.join(GATE_INITS)}, got {gate_init!r}")
        if gate_form not in GATE_FORMS:
            raise ValueError(f"gate_form must be one of {', '.join(GATE_FORMS)}, got {gate_form!r}")
        if gate_form != "h" and gate_init != "paper":
            raise ValueError(
                f"gate_form={gate_form!r} goes with gate_init='paper' alone, got {gate_init!r}"
            )
        divides = "rescaled" if gate_init == "rescaled" else gate_form
        if divides in ("rescaled", "mean_one") and not map_start:
            raise ValueError(
                f"{divides!r} divides by the attention map's start, which is {map_start} here;"
                " a recurrent cell needs activation sigmoid"
            )
        if (gate_init == "identity" or gate_form == "residual") and map_start is None:
            raise ValueError(
                f"gate_init={gate_init!r} with gate_form={gate_form!r} needs a unit that tells"
                " the start of its attention map (map_start)"
            )
        self.gate_init = gate_init
        self.gate_form = gate_form
        self.map_start = 0.0 if map_start is None else map_start
        if gate_form == "residual":
            self.residual = nn.Parameter(torch.zeros(channels))

    def forward(self, attention_map: Tensor) -> Tensor:
        """Return what multiplies the features, in the shape of the map, (..., D) float32."""
        if self.gate_form == "mean_one":
            return attention_map / attention_map.mean(dim=-1, keepdim=True)
        if self.gate_form == "residual":
            return 1 + self.residual.float() * (attention_map - self.map_start)
        if self.gate_init == "rescaled":
            return attention_map / self.map_start
        if self.gate_init == "identity":
            return 1 + torch.tanh(IDENTITY_SLOPE * (attention_map - self.map_start))
        return attention_map
