# Made by uvit_dia 0.2.0 from its modules, in this order:
#     uvit_dia.models.layers
#     uvit_dia.config.units
#     uvit_dia.models.units.gate
#     uvit_dia.models.units.protocol
#     uvit_dia.models.block
#     uvit_dia.models.official_weights
#     uvit_dia.models.units.channel
#     uvit_dia.models.units.batch_norms
#     uvit_dia.models.units.channel_statistics
#     uvit_dia.models.units.own_units
#     uvit_dia.models.units.recurrent_cells
#     uvit_dia.rng
#     uvit_dia.models.units.recurrent
#     uvit_dia.models.units.spatial
#     uvit_dia.models.units.registry
#     uvit_dia.models.units.of_blocks
#     uvit_dia.models.uvit
# It imports none of them. Change them there, and export again.

import hashlib
import math
import sys
import torch
import torch.nn.functional as F
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from functools import partial
from inspect import signature
from pathlib import Path
from torch import Tensor, nn
from torch.func import functional_call
from typing import Any, ClassVar, NamedTuple, TypeGuard, TypedDict, Unpack


# ---------------------------------------------------------------- uvit_dia.models.layers
# Parts of a U-ViT that know nothing of DIA or of diffusion: patches, time, attention, MLP.
#
# Module and parameter names are those of the U-ViT authors' code, so that their checkpoints load.
# Legend of tensor names: B batch, C image channels, L tokens, D embedding channels, H heads,
# K channels a head.



INITIAL_STD = 0.02  # of Linear weights and positions, in the U-ViT authors' code


def timestep_embedding(timesteps: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Embed timesteps as `cat(cos, sin)` of geometrically spaced frequencies.

    The order is U-ViT's; the idea is in Sec. 3.5 of Vaswani et al. 2017, arXiv:1706.03762.

    Args:
        timesteps: (B,) int or float, on the scale 0 .. 999; fractions are allowed.
        dim: length of the embedding; an odd one is padded with a zero.
        max_period: period of the slowest component, in timesteps times 2 pi.

    Returns:
        (B, dim) float32.
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    frequencies = torch.exp(-math.log(max_period) * exponents)
    angles = timesteps[:, None].float() * frequencies  # (B, dim // 2)
    embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return F.pad(embedding, (0, dim % 2))


def unpatchify(patches: Tensor, patch_size: int, img_size: int) -> Tensor:
    """Put patches back into an image; the pixel order within a patch is (p1, p2, C), as in U-ViT.

    Args:
        patches: (B, (img_size / patch_size)**2, patch_size**2 * C).
        patch_size: side of a patch in pixels.
        img_size: side of the image in pixels.

    Returns:
        (B, C, img_size, img_size).
    """
    return rearrange(
        patches,
        "B (h w) (p1 p2 C) -> B C (h p1) (w p2)",
        h=img_size // patch_size,
        p1=patch_size,
        p2=patch_size,
    )


def check_class_labels(class_labels: Tensor, num_classes: int) -> None:
    """Check that labels, (B,) int64, have a row each of an embedding of `num_classes` rows.

    On the CPU alone: elsewhere the host would have to wait for the labels. And not while the
    network is compiled: how many labels are wrong would break its graph.

    Raises:
        ValueError: naming the first label that has none.
    """
    if class_labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    wrong = class_labels[(class_labels < 0) | (class_labels >= num_classes)]
    if wrong.numel():
        raise ValueError(f"class_labels must be in 0 .. {num_classes - 1}, got {int(wrong[0])}")


def initialise_linear(module: nn.Module) -> None:
    """Draw the weights of all Linear layers in a module as U-ViT does, and zero their biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=INITIAL_STD)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def linear_float32(layer: nn.Linear, x: Tensor) -> Tensor:
    """Apply a Linear layer in float32 even where its parameters are stored in a shorter type."""
    bias = None if layer.bias is None else layer.bias.float()
    return F.linear(x, layer.weight.float(), bias)


class PatchEmbed(nn.Module):
    """Cut an image into patches and project each to an embedding (ViT, Eq. 1)."""

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, L, D)."""
        return rearrange(self.proj(x), "B D h w -> B (h w) D")


class Attention(nn.Module):
    """Multi-head self-attention over tokens (Vaswani et al. 2017, Sec. 3.2.2)."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, D) to (B, L, D)."""
        q, k, v = rearrange(
            self.qkv(x), "B L (three H K) -> three B H L K", three=3, H=self.num_heads
        )
        x = F.scaled_dot_product_attention(q, k, v)  # B H L K
        return self.proj(rearrange(x, "B H L K -> B L (H K)"))


class MLP(nn.Module):
    """Two Linear layers with a GELU between them, token by token."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, D) to (B, L, D)."""
        return self.fc2(self.act(self.fc1(x)))


# ---------------------------------------------------------------- uvit_dia.config.units
# The table of attention units: what each of them says of itself, without importing it.
#
# Who needs to know something about a unit asks here, and never compares its name.



@dataclass(frozen=True)
class UnitFacts:
    """What is special about a unit.

    Attributes:
        options: which of `model.attention_options` it takes beside shared, pool, blocks, gate_init,
            gate_form, place and linear_init, which every unit takes.
        reduction: r where the option is 0: what the unit's authors have, lowered to what divides
            the channels.
        groups: G where the option is 0, likewise.
        activation: of a recurrent cell, what "default" means.
        is_recurrent: whether a state passes from block to block.
        starts_constant: whether a fresh unit gives the same attention map for any input.
        normalises_over_images: whether it normalises over the images of a batch while it trains. It
            needs two images or more at a time, and the gradient of an image depends on the others.
        has_running_averages: whether a forward pass in training moves buffers, which gradient
            checkpointing would move a second time.
    """

    options: tuple[str, ...] = ()
    reduction: int = 0
    groups: int = 0
    activation: str = ""
    is_recurrent: bool = False
    starts_constant: bool = False
    normalises_over_images: bool = False
    has_running_averages: bool = False


_CELL = ("activation", "num_cells", "time_first_state", "forget_bias")

UNITS: dict[str, UnitFacts] = {
    "lstm": UnitFacts(_CELL, activation="tanh", is_recurrent=True),
    "dia_lstm": UnitFacts(
        ("reduction", *_CELL), reduction=4, activation="sigmoid", is_recurrent=True
    ),
    "dia_lstm_light": UnitFacts(
        ("reduction", *_CELL), reduction=4, activation="sigmoid", is_recurrent=True
    ),
    "se": UnitFacts(("reduction",), reduction=16),
    "eca": UnitFacts(),
    "cbam": UnitFacts(("reduction", "normalisation"), reduction=16),
    "srm": UnitFacts(
        ("variance", "normalisation"),
        starts_constant=True,
        normalises_over_images=True,
        has_running_averages=True,
    ),
    "spa": UnitFacts(("reduction",), reduction=16),
    "sge": UnitFacts(("groups",), groups=64, starts_constant=True),
    "spem": UnitFacts(("mixture_penalty",), starts_constant=True),
    "sem": UnitFacts(("reduction",), reduction=16),
    "constant": UnitFacts(("constant",)),
}

# What the options of words may be.
ACTIVATIONS = ("sigmoid", "tanh", "relu")
POOLS = ("all", "patches")
GATE_INITS = ("paper", "identity", "rescaled")
GATE_FORMS = ("h", "mean_one", "residual")
PLACES = ("mlp_input", "mlp_output")
LINEAR_INITS = ("u_vit", "torch")
VARIANCES = ("biased", "unbiased")
NORMALISATIONS = ("default", "block", "shared")

# What `attention_options` means where it does not say: the unit that older configs describe.
DEFAULT_OPTIONS: dict[str, object] = {
    "shared": True,
    "reduction": 0,  # the unit's own
    "groups": 0,  # the unit's own
    "activation": "default",  # what the paper's cell has
    "num_cells": 1,
    "pool": "all",
    "blocks": "all",
    "gate_init": "paper",
    "gate_form": "h",
    "place": "mlp_input",
    "linear_init": "u_vit",
    "time_first_state": False,
    "forget_bias": 0.0,
    "variance": "biased",
    "normalisation": "default",
    "mixture_penalty": 0.0,
    "constant": 0.25,
}


def facts_of(attention: str) -> UnitFacts | None:
    """Return the facts of a `model.attention`; None for "none" and for unknown units."""
    return UNITS.get(attention)


def normalises_over_images(attention: str) -> bool:
    """Say whether a `model.attention` normalises over the images of a batch."""
    facts = facts_of(attention)
    return facts is not None and facts.normalises_over_images


def moves_averages(attention: str, normalisation: str) -> bool:
    """Say whether a forward pass in training moves buffers of a unit with this option."""
    facts = facts_of(attention)
    return facts is not None and (facts.has_running_averages or normalisation != "default")


def units_with(option: str) -> tuple[str, ...]:
    """Return the names of the units that take an option."""
    return tuple(name for name, facts in UNITS.items() if option in facts.options)


def set_without_effect(facts: UnitFacts, options: Mapping[str, object]) -> str | None:
    """Return an option that is set and that the unit does not take, or None.

    `reduction` and `groups` are let through: older configs set them whatever the unit is.
    """
    for name, default in DEFAULT_OPTIONS.items():
        is_limited = units_with(name) and name not in ("reduction", "groups")
        if is_limited and name not in facts.options and options[name] != default:
            return name
    return None


def own_number(authors: int, channels: int) -> int:
    """Return the authors' r or G, lowered to its greatest common divisor with the channels."""
    return math.gcd(authors, channels)


def is_own_unit(attention: object) -> bool:
    """Say whether a text names a unit of a user's own, such as "my_module:MyUnit"."""
    if not isinstance(attention, str) or attention.count(":") != 1 or len(attention) > 256:
        return False
    return all(part.isidentifier() for part in attention.replace(":", ".").split("."))


# ---------------------------------------------------------------- uvit_dia.models.units.gate
# How an attention map becomes the gate, which multiplies the features.



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


# ---------------------------------------------------------------- uvit_dia.models.units.protocol
# What every attention unit is: a module that multiplies the channels of tokens with a gate.
#
# All units follow one protocol, whatever they compute::
#
#     state = unit.initial_state(y, dropout_seeds)
#     gated_y, attention_map, state = unit(y, state, block_index)
#
# with y and gated_y of shape (B, L, D). State travels as a value from block to block and never lives
# on the module: there it would leak between batches and break gradient checkpointing.
#
# Parameters, state and gates are computed in float32 whatever the autocast or parameter dtype:
# thirteen blocks of recurrence in bfloat16 would round the state at each of them, and the unit is a
# few (B, D) vectors a block. `recurrent.py` puts a recurrent cell to work (Eq. 4 of
# arXiv:2210.16101); `channel.py` and `spatial.py` hold the units without state.





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


# ---------------------------------------------------------------- uvit_dia.models.block
# A transformer block of the U-ViT, and where its attention unit stands.




class Block(nn.Module):
    """`x + Attn(Norm1(x))`, then `x + MLP(unit(Norm2(x)))`; a skip comes in first, if any.

    Args:
        dim: D, the width of the tokens.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLP over D.
        qkv_bias: whether the q, k, v projections have biases.
        skip: whether the output of the mirror block joins the tokens.
        residual: whether attention and MLP add to the tokens, or take their place.
        layer_norm: whether there are LayerNorms.
        place: of the unit: "mlp_input" as above (Fig. 7 of arXiv:2210.16101), or "mlp_output":
            `x + unit(MLP(Norm2(x)))`, which is Eq. 4 as it is written, with MLP(Norm2(x)) for a_t.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        qkv_bias: bool,
        skip: bool,
        *,
        residual: bool = True,
        layer_norm: bool = True,
        place: str = "mlp_input",
    ) -> None:
        super().__init__()
        self.residual = residual
        self.place = place
        self.skip_linear = nn.Linear(2 * dim, dim) if skip else None
        self.norm1 = nn.LayerNorm(dim) if layer_norm else nn.Identity()
        self.attn = Attention(dim, num_heads, qkv_bias)
        self.norm2 = nn.LayerNorm(dim) if layer_norm else nn.Identity()
        self.mlp = MLP(dim, int(dim * mlp_ratio))

    def forward(
        self,
        x: Tensor,
        skip: Tensor | None,
        unit: nn.Module | None,
        state: UnitState | None,
        block_index: int,
    ) -> tuple[Tensor, UnitState | None]:
        """Run the block.

        Args:
            x: (B, L, D).
            skip: (B, L, D), output of the mirror block in the first half; None for blocks without a
                long skip.
            unit: the attention unit of this block, or None.
            state: the unit's state after the block before.
            block_index: place of this block in the order of the data, from 0.

        Returns:
            The new tokens, (B, L, D), and the unit's new state.
        """
        if self.skip_linear is not None:
            assert skip is not None  # such blocks stand in the second half
            x = self.skip_linear(torch.cat([x, skip], dim=-1))  # B L D
        x = self._add(x, self.attn(self.norm1(x)))  # B L D
        y = self.norm2(x)  # B L D
        if unit is not None and self.place == "mlp_input":
            y, _, state = unit(y, state, block_index)  # B L D
        y = self.mlp(y)  # B L D
        if unit is not None and self.place == "mlp_output":
            y, _, state = unit(y, state, block_index)  # B L D
        return self._add(x, y), state

    def _add(self, x: Tensor, change: Tensor) -> Tensor:
        return x + change if self.residual else change


# ---------------------------------------------------------------- uvit_dia.models.official_weights
# Weights in the format of the U-ViT authors' code, and what others have put around them.
#
# Read besides a plain `state_dict`: names with parts that wrappers put in ("module." of
# DistributedDataParallel and AveragedModel, "_orig_mod." of torch.compile, those of FSDP and of
# activation checkpointing), and a training state with one dictionary of tensors among its entries,
# or the entry of it that the caller names.



MAX_WEIGHT_FILE_BYTES = 4 * 2**30  # a larger foreign weight file is not a U-ViT
WRAPPER_PARTS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
COUNT_OF_AVERAGES = "n_averaged"  # which torch's AveragedModel saves beside the weights
MAX_NAMED = 3  # how many wrong keys of a kind a message names


def load_official(
    model: nn.Module, source: Mapping[str, Any] | str | Path, entry: str | None = None
) -> None:
    """Load weights into a model, strictly: every tensor must be there, in its shape, and no other.

    Args:
        model: the model.
        source: a `state_dict`, or a file that holds one, with what this module reads around it.
        entry: which entry of a training state to read; None if one alone holds tensors.

    Raises:
        ValueError: if nothing can be read, or keys or shapes differ; the model is as it was then.
    """
    if isinstance(source, Mapping):
        name, content = "the dictionary", source
    else:
        name, content = str(source), _read_file(Path(source))
    weights = _without_wrappers(_tensors_of(content, name, entry))
    problems = differences(weights, model.state_dict())
    if problems:
        raise ValueError(f"not the weights of this U-ViT: {'; '.join(problems)}")
    model.load_state_dict(dict(weights), strict=True)


def _read_file(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise ValueError(f"no weight file at {path}")
    size = path.stat().st_size
    if size > MAX_WEIGHT_FILE_BYTES:
        raise ValueError(f"{path} has {size} bytes; at most {MAX_WEIGHT_FILE_BYTES} are read")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"cannot read weights from {path}: {error}") from error
    try:
        # Uncompressed records only are mapped; a compressed one, which could inflate, fails to map.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises a dozen types for a file it cannot or will not read
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"cannot read weights from {path}: {reason}") from error


def _tensors_of(content: object, name: str, entry: str | None) -> Mapping[str, Tensor]:
    """Return the dictionary of tensors that a file or a dictionary is or holds."""
    entries: dict[str, Mapping[str, Tensor]] = {}
    if isinstance(content, Mapping):
        entries = {str(key): value for key, value in content.items() if _is_state_dict(value)}
    if entry is not None:
        if entry not in entries:
            held = f"it holds {', '.join(entries)}" if entries else "it holds none"
            raise ValueError(f"{name} has no dictionary of tensors under {entry!r}; {held}")
        return entries[entry]
    if isinstance(content, Mapping) and _is_state_dict(content):
        return content
    if len(entries) == 1:
        return next(iter(entries.values()))
    if entries:
        raise ValueError(
            f"{name} holds several dictionaries of tensors: choose one with entry=, of"
            f" {', '.join(repr(key) for key in entries)}"
        )
    raise ValueError(f"{name} does not hold a plain dictionary of tensors")


def _is_state_dict(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def _without_wrappers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the parts of names that wrappers put in, and what AveragedModel adds.

    Raises:
        ValueError: if two names would become one.
    """
    plain: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        name = ".".join(part for part in key.split(".") if part not in WRAPPER_PARTS)
        if name in plain:
            raise ValueError(f"{key} and another key are both {name} without the prefixes")
        plain[name] = tensor
    if len(plain) > 1 and any(key.startswith("module.") for key in weights):
        plain.pop(COUNT_OF_AVERAGES, None)
    return plain


def differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Say in a few words how tensors differ from those that a model has."""
    first = next(iter(found), "").partition(".")[0] + "."
    if all(key.startswith(first) for key in found) and first.rstrip(".") not in {
        key.partition(".")[0] for key in expected
    }:
        return [f"all its keys have the prefix {first!r}, which must be taken off"]
    shapes = [
        f"{key} ({tuple(found[key].shape)} where the model has {tuple(tensor.shape)})"
        for key, tensor in expected.items()
        if key in found and found[key].shape != tensor.shape
    ]
    kinds = {
        "it lacks": [key for key in expected if key not in found],
        "it has besides": [key for key in found if key not in expected],
        "size mismatch for": shapes,
    }
    return [f"{kind} {', '.join(k[:MAX_NAMED])}{_and_more(k)}" for kind, k in kinds.items() if k]


def _and_more(keys: list[str]) -> str:
    return f" and {len(keys) - MAX_NAMED} more" if len(keys) > MAX_NAMED else ""


# ---------------------------------------------------------------- uvit_dia.models.units.channel
# Units without a state that gate the channels by their mean over the tokens.
#
# arXiv:2210.16101 calls such modules SAMs (Eq. 1, Table III). Written for feature maps (B, C, H, W),
# they read tokens (B, L, D) here: D takes the place of C, and the L tokens that of the positions.
# Shared by all blocks (Eq. 2) or one a block (Eq. 1), the module is the same.
#
# Legend of tensor names: B batch, L tokens, L' pooled tokens, D channels, r reduction.





class ChannelUnit(AttentionUnit):
    """A unit whose map comes from the pooled tokens of its own block, and is the same for all.

    Derive a unit of your own from this class: `channel_map` is all that it needs. Its Linear layers
    start as `AttentionUnit.initialise` says, all else as its constructor made it.
    """

    @abstractmethod
    def channel_map(self, tokens: Tensor, block_index: int) -> Tensor:
        """Return the attention map, (B, D) float32.

        Args:
            tokens: (B, L', D) float32, those that are pooled.
            block_index: the block that asks.
        """

    def full_gate(
        self, y: Tensor, state: UnitState, block_index: int, grid: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, UnitState]:
        """Gate the channels; see `AttentionUnit.full_gate`."""
        attention_map = self.channel_map(self.pooled(y).float(), block_index)  # B D
        return self.gate(attention_map)[:, None], attention_map, state


class BottleneckUnit(AttentionUnit):
    """A unit with SE's two layers: `reduce`, to D/r, a ReLU, and `expand`, to D."""

    reduce: nn.Linear
    expand: nn.Linear

    def add_bottleneck(
        self, reduction: int, *, in_channels: int | None = None, bias: bool = True
    ) -> None:
        """Make the layers.

        Args:
            reduction: r.
            in_channels: what `reduce` reads; None for D.
            bias: whether the layers have biases.

        Raises:
            ValueError: if r does not divide D.
        """
        check_divides("reduction", reduction, self.channels)
        width = self.channels // reduction
        self.reduce = nn.Linear(in_channels or self.channels, width, bias=bias)
        self.expand = nn.Linear(width, self.channels, bias=bias)

    def excite(self, s: Tensor) -> Tensor:
        """Map s, (B, in_channels), to (B, D)."""
        return linear_float32(self.expand, torch.relu(linear_float32(self.reduce, s)))

    def zero_map(self) -> None:
        """Zero the expanding layer."""
        for parameter in self.expand.parameters():
            nn.init.zeros_(parameter)


class SE(BottleneckUnit, ChannelUnit):
    """Squeeze-and-Excitation (Hu et al., CVPR 2018, arXiv:1709.01507, Eqs. 2-4).

    Mean over the tokens, Linear D -> D/r, ReLU, Linear D/r -> D, sigmoid: 2D²/r weights.

    Args:
        channels: D.
        reduction: r; divides D.
        **options: see `AttentionUnit`.

    Raises:
        ValueError: if r does not divide D.
    """

    def __init__(self, channels: int, reduction: int = 16, **options: Unpack[UnitOptions]) -> None:
        super().__init__(channels, map_start=0.5, **options)
        self.add_bottleneck(reduction)

    def channel_map(self, tokens: Tensor, block_index: int) -> Tensor:
        """Return the map of the channels, (B, D)."""
        return torch.sigmoid(self.excite(tokens.mean(dim=1)))


class ECA(ChannelUnit):
    """Efficient Channel Attention (Wang et al., CVPR 2020, arXiv:1910.03151, Eqs. 9 and 12).

    Mean over the tokens, a convolution of k neighbouring channels, sigmoid: k weights, where k is
    the odd number at `log2(D) / 2 + 1 / 2`, rounded down to a whole number and then up to an odd
    one, as in the authors' code.

    Args:
        channels: D.
        **options: see `AttentionUnit`.
    """

    def __init__(self, channels: int, **options: Unpack[UnitOptions]) -> None:
        super().__init__(channels, map_start=0.5, **options)
        self.conv = _make_eca_conv(channels)

    def zero_map(self) -> None:
        """Zero the convolution."""
        nn.init.zeros_(self.conv.weight)

    def channel_map(self, tokens: Tensor, block_index: int) -> Tensor:
        """Return the map of the channels, (B, D)."""
        return torch.sigmoid(_across_channels(self.conv, tokens.mean(dim=1)))


def eca_kernel_size(channels: int) -> int:
    """Return k of ECA for a number of channels (Eq. 12 with gamma = 2 and b = 1)."""
    k = int(abs((math.log2(channels) + 1) / 2))
    return k if k % 2 else k + 1


def _make_eca_conv(channels: int) -> nn.Conv1d:
    kernel = eca_kernel_size(channels)
    return nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)


def _across_channels(conv: nn.Conv1d, s: Tensor) -> Tensor:
    """Convolve neighbouring channels of s, (B, D), in float32."""
    padding = conv.kernel_size[0] // 2
    return F.conv1d(s[:, None], conv.weight.float(), padding=padding)[:, 0]


class SEM(BottleneckUnit, ChannelUnit):
    """Switchable self-attention Module (Zhong et al., 2022, arXiv:2209.05680).

    As in the authors' released code: of the tokens' mean s, three excitations, that of SE, that of
    ECA, and an affine map w ⊗ s + b; a Linear D -> 3 with a sigmoid weighs each; the map is the
    product of their sigmoids. 2D²/r + 5D + k weights, k as in `ECA`; w starts at 0 and b at -1.

    Args:
        channels: D.
        reduction: r of the SE part; divides D.
        **options: see `AttentionUnit`.

    Raises:
        ValueError: if r does not divide D.
    """

    def __init__(self, channels: int, reduction: int = 16, **options: Unpack[UnitOptions]) -> None:
        super().__init__(channels, map_start=0.125, **options)
        self.switch = nn.Linear(channels, 3)
        self.add_bottleneck(reduction)
        self.conv = _make_eca_conv(channels)
        self.scale = nn.Parameter(torch.zeros(channels))
        self.shift = nn.Parameter(torch.full((channels,), -1.0))

    def zero_map(self) -> None:
        """Zero the last step of each excitation, so that the map is σ(0)³."""
        super().zero_map()
        for parameter in (self.conv.weight, self.scale, self.shift):
            nn.init.zeros_(parameter)

    def channel_map(self, tokens: Tensor, block_index: int) -> Tensor:
        """Return the map of the channels, (B, D)."""
        s = tokens.mean(dim=1)  # B D
        weights = torch.sigmoid(linear_float32(self.switch, s))  # B 3
        affine = s * self.scale.float() + self.shift.float()
        excitations = torch.stack(
            [self.excite(s), _across_channels(self.conv, s), affine], dim=1
        )  # B 3 D
        return torch.sigmoid(excitations * weights[:, :, None]).prod(dim=1)


class Constant(ChannelUnit):
    """A fixed gate, the same for all images and channels: a control without any attention.

    Beside a unit that starts with a gate of 0.25, it shows what that change of scale does alone.

    Args:
        channels: D.
        constant: the gate, above 0.
        **options: see `AttentionUnit`; with a `gate_init` other than "paper" the gate is 1.

    Raises:
        ValueError: if `constant` is not above 0.
    """

    def __init__(
        self, channels: int, constant: float = 0.25, **options: Unpack[UnitOptions]
    ) -> None:
        if not constant > 0:
            raise ValueError(f"constant must be above 0, got {constant}")
        super().__init__(channels, map_start=constant, **options)
        self.constant = constant

    def zero_map(self) -> None:
        """Do nothing: there are no weights."""

    def channel_map(self, tokens: Tensor, block_index: int) -> Tensor:
        """Return the constant, (B, D)."""
        return tokens.new_full((tokens.shape[0], self.channels), self.constant)


# ---------------------------------------------------------------- uvit_dia.models.units.batch_norms
# Batch normalisations within attention units: one a block, or one for all blocks.





class BatchNorms(nn.ModuleDict):
    """The batch normalisations of one unit.

    They make an image's map depend, while training, on the other images of its device's batch; and
    gradient checkpointing would move their running averages twice a step.

    Args:
        make: makes one normalisation.
        block_indices: the blocks that the unit serves.
        normalisation: "default" or "block": one a block. "shared": one for all blocks; in SRM,
            training collapses with it (Fig. 15 and Sec. VI-B2 of arXiv:2210.16101).

    Raises:
        ValueError: for an unknown `normalisation`.
    """

    def __init__(
        self, make: Callable[[], nn.Module], block_indices: Iterable[int], normalisation: str
    ) -> None:
        if normalisation not in NORMALISATIONS:
            known = ", ".join(NORMALISATIONS)
            raise ValueError(f"normalisation must be one of {known}, got {normalisation!r}")
        is_shared = normalisation == "shared"
        names = ["shared"] if is_shared else [str(index) for index in block_indices]
        super().__init__({name: make() for name in names})

    def forward(self, x: Tensor, block_index: int) -> Tensor:
        """Normalise x, (B, C, ...), in float32 with the normalisation of a block.

        Raises:
            ValueError: in training mode if there is one number a channel to normalise over.
        """
        if self.training and x.numel() == x.shape[1]:
            raise ValueError(
                "the unit normalises over the batch: training needs at least 2 images a process and"
                " accumulation step"
            )
        return batch_norm_float32(self["shared" if "shared" in self else str(block_index)], x)


def batch_norm_float32(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply a batch normalisation in float32 even where it is stored in a shorter type.

    Its running averages are rounded to the type in which they are stored.
    """
    if all(tensor.dtype == torch.float32 for tensor in norm.parameters()):
        return norm(x)
    stored = {**dict(norm.named_parameters()), **dict(norm.named_buffers())}
    whole = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in stored.items()
    }
    normalised = functional_call(norm, whole, (x,))
    for name, buffer in norm.named_buffers():
        buffer.copy_(whole[name])
    return normalised


# ---------------------------------------------------------------- uvit_dia.models.units.channel_statistics
# Units without a state that gate the channels by more than their mean over the tokens.
#
# Legend of tensor names: B batch, L' pooled tokens, D channels.




STD_EPS = 1e-5


class SRM(ChannelUnit):
    """Style-based Recalibration Module (Lee et al., ICCV 2019, arXiv:1903.10829, Eqs. 1-6).

    Style pooling: mean and standard deviation over the tokens. Style integration: a weighted sum of
    the two a channel, batch normalisation, sigmoid. 2D weights; D more, and D biases, in each
    normalisation. The style's weights start at 0 as in the authors' code, so that every gate
    starts at exactly 0.5. `BatchNorms` says what the normalisation means for training.

    Args:
        channels: D.
        block_indices: the blocks that it serves.
        variance: "unbiased" divides by L' - 1, as the authors' code does; "biased" by L'.
        normalisation: "default" and "block" give each block a normalisation of its own; "shared"
            has one, with which training collapses (Fig. 15 of arXiv:2210.16101).
        **options: see `AttentionUnit`.

    Raises:
        ValueError: for an unknown `variance` or `normalisation`.
    """

    starts_constant = True
    normalises_over_images = True
    has_running_averages = True

    def __init__(
        self,
        channels: int,
        block_indices: Sequence[int],
        *,
        variance: str = "unbiased",
        normalisation: str = "default",
        **options: Unpack[UnitOptions],
    ) -> None:
        super().__init__(channels, map_start=0.5, **options)
        if variance not in VARIANCES:
            raise ValueError(f"variance must be one of {', '.join(VARIANCES)}, got {variance!r}")
        self.is_unbiased = variance == "unbiased"
        self.style = nn.Parameter(torch.zeros(channels, 2))
        self.norms = BatchNorms(lambda: nn.BatchNorm1d(channels), block_indices, normalisation)

    def zero_map(self) -> None:
        """Zero the scales of the normalisations, and draw the style's weights.

        Were both 0, no gradient would reach either.
        """
        nn.init.trunc_normal_(self.style, std=INITIAL_STD)
        for norm in self.norms.children():
            assert isinstance(norm, nn.BatchNorm1d)  # which ModuleDict's type hides
            nn.init.zeros_(norm.weight)

    def channel_map(self, tokens: Tensor, block_index: int) -> Tensor:
        """Return the map of the channels, (B, D).

        Raises:
            ValueError: in training mode with a single image.
        """
        # The variance of a single token is 0, also where it would be divided by 0 tokens.
        is_unbiased = self.is_unbiased and tokens.shape[1] > 1
        variance = tokens.var(dim=1, unbiased=is_unbiased)
        style = torch.stack([tokens.mean(dim=1), (variance + STD_EPS).sqrt()], dim=-1)  # B D 2
        styled = (style * self.style.float()).sum(dim=-1)  # B D
        return torch.sigmoid(self.norms(styled, block_index))


class SPEM(ChannelUnit):
    """Self-adaptive Pooling Enhanced attention Module (Zhong et al., 2022, arXiv:2208.10322).

    As in the authors' released code: the maximum and the minimum over the tokens, each times w2
    plus b2 a channel; their mixture, with weights p that are learned and shared by all channels,
    times w1 plus b1; the map is `σ(maximum + minimum) · σ(mixture)`. 4D + 2 weights (b1 and b2
    counted, as in Eq. 5 of arXiv:2210.16101). They start at w = 0 and b = -1, where the map is
    0.032 everywhere.

    Args:
        channels: D.
        mixture_penalty: what `p_1² + p_2²` of each block is multiplied with in the training loss:
            0.1 in the authors' code. 0 leaves the loss that variants are compared by alone.
        **options: see `AttentionUnit`.

    Raises:
        ValueError: if `mixture_penalty` is negative.
    """

    starts_constant = True

    def __init__(
        self, channels: int, *, mixture_penalty: float = 0.0, **options: Unpack[UnitOptions]
    ) -> None:
        start = 1 / ((1 + math.exp(2)) * (1 + math.exp(1)))  # σ(-2) · σ(-1)
        super().__init__(channels, map_start=start, **options)
        if not mixture_penalty >= 0:
            raise ValueError(f"mixture_penalty must be 0 or more, got {mixture_penalty}")
        self.mixture_penalty = mixture_penalty
        self.mixture = nn.Parameter(torch.full((2,), 0.5))
        self.pooled_scale = nn.Parameter(torch.zeros(channels))
        self.pooled_shift = nn.Parameter(torch.full((channels,), -1.0))
        self.mixed_scale = nn.Parameter(torch.zeros(channels))
        self.mixed_shift = nn.Parameter(torch.full((channels,), -1.0))

    def zero_map(self) -> None:
        """Do nothing: the unit starts so."""

    def channel_map(self, tokens: Tensor, block_index: int) -> Tensor:
        """Return the map of the channels, (B, D)."""
        scale, shift = self.pooled_scale.float(), self.pooled_shift.float()
        highest, lowest = (s * scale + shift for s in (tokens.amax(dim=1), tokens.amin(dim=1)))
        shares = self.mixture.float().square()
        shares = shares / shares.sum()
        mixed = shares[0] * highest + shares[1] * lowest
        mixed = mixed * self.mixed_scale.float() + self.mixed_shift.float()
        return torch.sigmoid(highest + lowest) * torch.sigmoid(mixed)

    def penalty(self) -> Tensor | None:
        """Return `mixture_penalty * (p_1² + p_2²)`, (), or None where it is 0."""
        if self.mixture_penalty == 0:
            return None
        return self.mixture_penalty * self.mixture.float().square().sum()


# ---------------------------------------------------------------- uvit_dia.models.units.own_units
# Units of a user's own: registered by a name, or named as "my_module:MyUnit".
#
# Nothing is imported here. A name comes from a run's `config.json`, too, which others may have
# written; only `config.own_units`, which commands call for what their user typed, imports.



_registered: dict[str, type[AttentionUnit]] = {}


def register_unit(name: str, unit: type[AttentionUnit]) -> None:
    """Give a unit a name under which `model.attention` and `share_attention` find it.

    A process that reads a run with this unit must register it, too.

    Args:
        name: an identifier that no other unit has.
        unit: the class, derived from `AttentionUnit`, most easily from `ChannelUnit`. Its
            constructor takes `channels`, the options that it wants of `attention_options`, and
            passes on `**options`.

    Raises:
        ValueError: if the name is taken or no identifier.
        TypeError: if the class is no unit.
    """
    if not name.isidentifier() or name == "none":
        raise ValueError(f"a unit's name must be an identifier other than 'none', got {name!r}")
    known = _registered.get(name)
    is_same = known is not None and _origin(known) == _origin(unit)  # a module that is reloaded
    if name in UNITS and not is_same:
        raise ValueError(f"there is a unit {name!r} already: choose another name")
    if not _is_unit(unit):
        raise TypeError(f"{unit!r} must be a class that derives from uvit_dia.AttentionUnit")
    _registered[name] = unit
    UNITS[name] = facts_of_class(unit)


def find_own_unit(unit: str | type[AttentionUnit]) -> type[AttentionUnit]:
    """Return the class of a unit of the user's own.

    Args:
        unit: the class itself, a registered name, or "my_module:MyUnit" of a module that is
            imported already.

    Raises:
        ValueError: if there is none, or its module is not imported.
    """
    if not isinstance(unit, str):
        if not _is_unit(unit):
            raise ValueError(f"{unit!r} must be a class that derives from uvit_dia.AttentionUnit")
        return unit
    if unit in _registered:
        return _registered[unit]
    if not is_own_unit(unit):
        known = ", ".join(("none", *UNITS))
        raise ValueError(f"attention must be one of {known}, or module:Class; got {unit!r}")
    module_name, _, class_name = unit.partition(":")
    if module_name not in sys.modules:
        raise ValueError(
            f"attention {unit!r} is code that is not imported; if you trust it, import"
            f" {module_name} first, or give --import {module_name}"
        )
    found: object = sys.modules[module_name]
    for part in class_name.split("."):
        # getattr could run the code of a module that makes its attributes when they are asked for
        found = getattr(found, "__dict__", {}).get(part)
    if not _is_unit(found):
        raise ValueError(
            f"attention {unit!r}: {module_name} has no class {class_name} that derives from"
            " uvit_dia.AttentionUnit"
        )
    return found


def facts_of_class(unit: type[AttentionUnit]) -> UnitFacts:
    """Return what the config has to know of a class: the options that its constructor names."""
    parameters = signature(unit).parameters
    return UnitFacts(
        options=tuple(key for key in DEFAULT_OPTIONS if units_with(key) and key in parameters),
        normalises_over_images=unit.normalises_over_images,
        has_running_averages=unit.has_running_averages,
    )


def _is_unit(value: object) -> TypeGuard[type[AttentionUnit]]:
    return isinstance(value, type) and issubclass(value, AttentionUnit)


def _origin(unit: type) -> tuple[str, str]:
    return unit.__module__, unit.__qualname__


# ---------------------------------------------------------------- uvit_dia.models.units.recurrent_cells
# The recurrent cells of arXiv:2210.16101 (DIA): LSTM, DIA-LSTM and DIA-LSTM (Light).
#
# A cell maps the pooled features of one block and the state of the block before to a new state
# (Eq. 4); its output h is the attention map. `RecurrentUnit` puts it to work on tokens.
# Legend of tensor names: B batch, N channels, r reduction.




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


# ---------------------------------------------------------------- uvit_dia.rng
# Randomness addressed by position, so that nothing random ever has to be saved.
#
# Every random number is a function of `(seed, purpose, index)`. During training the index counts
# chunks of `CHUNK_IMAGES` images of the *global* batch; while sampling it is the index of the image.
# A resumed run, and a run on another number of processes, therefore draws the very same numbers, and
# a rank draws only the chunks that overlap its share.
#
# A seed for each step is NVlabs/edm2's idea (`training/training_loop.py`); ours is for chunks of
# images.



CHUNK_IMAGES = 8  # images drawn by one generator; part of what a seed means, so never change it
_GOLDEN_32 = 0x9E3779B1  # odd, hence index -> index * _GOLDEN_32 mod 2**32 is a bijection
_MASK_32 = 0xFFFFFFFF


def position_seed(seed: int, purpose: str, index: int = 0) -> int:
    """Return the 63-bit seed that belongs to a position.

    torch's CPU generator (mt19937) uses only the low 32 bits of a seed. They are a bijection of
    `index`, so that they never repeat within one purpose. The higher bits, which CUDA's Philox also
    uses, are a hash of seed and purpose.

    Args:
        seed: the run's seed, any int.
        purpose: what is drawn, such as `"eps"`.
        index: position in [0, 2**32).

    Raises:
        ValueError: if `index` is outside [0, 2**32).
    """
    if not 0 <= index <= _MASK_32:
        raise ValueError(f"index must be in [0, 2**32), got {index}")
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    base = int.from_bytes(digest, "little")
    low = (base + index * _GOLDEN_32) & _MASK_32
    return ((base >> 33) << 32) | low


def position_generator(
    seed: int, purpose: str, index: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a new generator on `device`, seeded with `position_seed(seed, purpose, index)`."""
    return torch.Generator(device).manual_seed(position_seed(seed, purpose, index))


def _draw(
    seed: int,
    purpose: str,
    step: int,
    rows: range,
    batch_size: int,
    *,
    into: Callable[[int], Tensor],
    fill: Callable[[Tensor, torch.Generator], object],
) -> Tensor:
    """Draw some rows of the global batch of a step.

    Each chunk of rows has a seed of its own; one generator takes them in turn, and fills its part
    of one tensor, which costs less than a generator and a tensor a chunk.

    Args:
        seed: the run's seed.
        purpose: what is drawn.
        step: optimizer step, from 0.
        rows: the rows that are wanted.
        batch_size: global batch size B.
        into: makes an empty tensor of so many rows.
        fill: draws a chunk in place.
    """
    if not (0 <= rows.start <= rows.stop <= batch_size and rows.step == 1):
        raise ValueError(f"rows must be a contiguous part of range({batch_size}), got {rows}")
    chunks_per_batch = -(-batch_size // CHUNK_IMAGES)
    first = rows.start // CHUNK_IMAGES
    last = max(first + 1, -(-rows.stop // CHUNK_IMAGES))  # one at least, for the shape of no rows
    drawn = into((last - first) * CHUNK_IMAGES)
    generator = torch.Generator(drawn.device)
    for index, chunk in enumerate(drawn.split(CHUNK_IMAGES), start=first):
        generator.manual_seed(position_seed(seed, purpose, step * chunks_per_batch + index))
        fill(chunk, generator)
    offset = rows.start - first * CHUNK_IMAGES
    return drawn[offset : offset + len(rows)]


def normal_rows(
    seed: int,
    purpose: str,
    step: int,
    rows: range,
    batch_size: int,
    shape: tuple[int, ...],
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw standard normal numbers for part of a global batch.

    Args:
        seed: the run's seed.
        purpose: what is drawn.
        step: optimizer step, from 0.
        rows: the contiguous positions in the global batch that are wanted.
        batch_size: global batch size B.
        shape: shape of one row.
        device: where to draw; CPU and CUDA generators give different numbers.

    Returns:
        (len(rows), *shape) float32 on `device`.
    """
    return _draw(
        seed,
        purpose,
        step,
        rows,
        batch_size,
        into=lambda count: torch.empty(count, *shape, device=device),
        fill=lambda chunk, generator: chunk.normal_(generator=generator),
    )


def integer_rows(
    seed: int, purpose: str, step: int, rows: range, batch_size: int, high: int
) -> Tensor:
    """Draw integers uniform on [0, high) for part of a global batch, as `normal_rows` does.

    Returns:
        (len(rows),) int64 on the CPU, the same on every kind of device.
    """
    return _draw(
        seed,
        purpose,
        step,
        rows,
        batch_size,
        into=lambda count: torch.empty(count, dtype=torch.int64),
        fill=lambda chunk, generator: chunk.random_(0, high, generator=generator),
    )


def permutation(seed: int, purpose: str, index: int, length: int) -> Tensor:
    """Return the permutation of range(length) of a position, (length,) int64 on the CPU."""
    return torch.randperm(length, generator=position_generator(seed, purpose, index))


def hash_uniform(seeds: Tensor, site: int, num_values: int) -> Tensor:
    """Hash per-row seeds to uniform numbers, elementwise on their device, without a generator.

    Dropout uses it: the mask is a function of the row's seed and the place in the network, whatever
    the micro-batch, the number of processes, or a recomputation under gradient checkpointing. The
    mixer is the 32-bit finaliser `lowbias32` of C. Wellons' hash-prospector (public domain).

    Args:
        seeds: (B,) int64.
        site: which place in the network draws, in [0, 2**16).
        num_values: how many numbers a row gets, at most 2**16.

    Returns:
        (B, num_values) float32, uniform on [0, 1) in steps of 2**-24.
    """
    columns = torch.arange(num_values, device=seeds.device) + (site << 16)  # (V,)
    mixed = _mix32(_mix32(seeds & _MASK_32)[:, None] ^ columns)  # (B, V)
    mixed = _mix32(mixed ^ (seeds >> 32)[:, None])
    return (mixed >> 8).float() * 2.0**-24  # float32 holds 24 bits exactly


def _mix32(x: Tensor) -> Tensor:
    """Mix int64 tensors that hold 32-bit values; the result holds 32-bit values again."""
    x = x & _MASK_32
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK_32
    # This product may exceed int64: it wraps, which leaves the low 32 bits exact.
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK_32
    return x ^ (x >> 16)


# ---------------------------------------------------------------- uvit_dia.models.units.recurrent
# The recurrent unit: a cell that steps from block to block (Eq. 4 of arXiv:2210.16101).





class RecurrentUnit(AttentionUnit):
    """Pool the tokens, step the cell, gate the channels (Eq. 4; Fig. 7 for the place in a U-ViT).

    Args:
        cell: the recurrent cell, of width D.
        time_first_state: an extension of ours: (h_0, c_0) are not 0 as in Eq. 4 but a Linear
            D -> 2D (2 D num_cells, if cells are stacked) of the time token, the last of the extra
            tokens, that starts at 0. It adds 2D² weights a cell.
        forget_bias: what is added to the biases of the forget gates when the unit starts; with 0
            they start as all others do.
        **options: see `AttentionUnit`; gate_init="paper" starts at about 0.25 with a sigmoid.

    Raises:
        ValueError: for options that `AttentionUnit` refuses; for gate_init="identity" with ReLU,
            whose gradient would be zero; for `time_first_state` without extra tokens.
    """

    def __init__(
        self,
        cell: RecurrentCell,
        *,
        time_first_state: bool = False,
        forget_bias: float = 0.0,
        **options: Unpack[UnitOptions],
    ) -> None:
        super().__init__(cell.channels, map_start=cell.initial_gate(), **options)
        if self.gate.gate_init == "identity" and cell.activation == "relu":
            raise ValueError(
                "gate_init='identity' needs activation sigmoid or tanh: relu would start with a"
                " zero gradient"
            )
        self.cell = cell
        self.forget_bias = forget_bias
        self.first_state: nn.Linear | None = None
        if time_first_state:
            if self.num_extra_tokens < 1:
                raise ValueError("time_first_state needs a time token before the patches")
            self.first_state = nn.Linear(cell.channels, 2 * cell.num_cells * cell.channels)

    def zero_map(self) -> None:
        """Zero the layers nearest to the gates of the top cell."""
        self.cell.zero_top_gates()

    def reset_gate(self) -> None:
        """Apply `gate_init`, `forget_bias`, and the zero start of the first state."""
        super().reset_gate()
        self.cell.add_to_forget_biases(self.forget_bias)
        if self.first_state is not None:
            nn.init.zeros_(self.first_state.weight)
            nn.init.zeros_(self.first_state.bias)

    def initial_state(self, y: Tensor, dropout_seeds: Tensor | None = None) -> UnitState:
        """Return h_0, c_0 and the seeds; see `AttentionUnit.initial_state`."""
        seeds = dropout_seeds if self.training else None
        if self.first_state is None:
            h, c = self.cell.initial_state(y.shape[0], y.device)
            return UnitState(h, c, seeds)
        with without_autocast(y.device.type):
            time = y[:, self.num_extra_tokens - 1].float()  # B D
            both = linear_float32(self.first_state, time)  # B 2*cells*D
        h, c = both.unflatten(1, (2, self.cell.num_cells, -1)).permute(1, 2, 0, 3)
        return UnitState(h, c, seeds)

    def full_gate(
        self, y: Tensor, state: UnitState, block_index: int, grid: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, UnitState]:
        """Step the cell once; its h gates the channels; see `AttentionUnit.full_gate`."""
        assert state.h is not None  # such a state comes from this class' initial_state
        assert state.c is not None
        s = self.pooled(y).float().mean(dim=1)  # B D
        masks = self._dropout_masks(state, block_index)
        attention_map, (h, c) = self.cell(s, (state.h, state.c), masks)  # B D
        gate = self.gate(attention_map)[:, None]  # B 1 D
        return gate, attention_map, UnitState(h, c, state.dropout_seeds)

    def _dropout_masks(self, state: UnitState, block_index: int) -> Tensor | None:
        """Return (num_cells - 1, B, D) masks from the images' seeds, or None if none are needed."""
        if state.dropout_seeds is None or self.cell.num_cells == 1:
            return None
        uppers = self.cell.num_cells - 1
        uniform = [
            hash_uniform(state.dropout_seeds, block_index * uppers + k, self.cell.channels)
            for k in range(uppers)
        ]
        return (torch.stack(uniform) >= UPPER_DROPOUT).float() / (1 - UPPER_DROPOUT)


# ---------------------------------------------------------------- uvit_dia.models.units.spatial
# Units without a state that see where tokens lie, or gate each token by itself.
#
# CBAM's spatial part and SPA's pyramid see the patches as the grid that they are; the time and label
# tokens stand outside it. SGE needs no grid.
#
# Legend of tensor names: B batch, L tokens, L' pooled tokens, P patches, D channels, G groups.




SPATIAL_KERNEL = 7  # of CBAM's spatial part
NORM_MOMENTUM = 0.01  # of CBAM's normalisation, in the authors' code
PYRAMID = (1, 2, 4)  # sides of SPA's pooled grids
SPREAD_EPS = 1e-5


class GridUnit(BottleneckUnit):
    """A bottleneck unit that looks at the grid of patches."""

    def patches(self, tokens: Tensor, grid: tuple[int, int] | None) -> Tensor:
        """Return the patches as a feature map, (B, D, rows, columns).

        Raises:
            ValueError: if the tokens do not fill the grid, or no square where none is given.
        """
        patches = tokens[:, self.num_extra_tokens :]
        side = math.isqrt(patches.shape[1])
        rows, columns = (side, side) if grid is None else grid
        if rows * columns != patches.shape[1]:
            shape = "a square grid" if grid is None else f"a grid of {rows} x {columns}"
            raise ValueError(
                f"{type(self).__name__} needs {shape} of patches, got {patches.shape[1]} after "
                f"{self.num_extra_tokens} extra tokens; give grid=(rows, columns)"
            )
        return patches.transpose(1, 2).unflatten(2, (rows, columns))


class CBAM(GridUnit):
    """Convolutional Block Attention Module (Woo et al., ECCV 2018, arXiv:1807.06521, Eqs. 2 and 3).

    Channels: one MLP (Linear D -> D/r, ReLU, Linear D/r -> D) of the tokens' mean and of their
    maximum, summed, sigmoid. Patches, after the channels' gate: mean and maximum over the channels,
    a 7 x 7 convolution on the grid, sigmoid. 2D²/r + 98 weights. The time and label tokens have no
    place in the grid and are gated by the channels' map alone.

    Args:
        channels: D.
        reduction: r; divides D.
        block_indices: the blocks that it serves.
        normalisation: "default" has none, as Eq. 3. The authors' code normalises what the
            convolution gives, with a scale that starts at 0, so that every patch starts with a gate
            of exactly 0.5: "block" does so with a normalisation a block, "shared" with one.
        **options: see `AttentionUnit`.

    Raises:
        ValueError: if r does not divide D.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        *,
        block_indices: Sequence[int] = (0,),
        normalisation: str = "default",
        **options: Unpack[UnitOptions],
    ) -> None:
        super().__init__(channels, map_start=0.5, **options)
        self.add_bottleneck(reduction)
        self.spatial = nn.Conv2d(2, 1, SPATIAL_KERNEL, padding=SPATIAL_KERNEL // 2, bias=False)
        self.patch_gate = Gate(1, 0.5, self.gate.gate_init, self.gate.gate_form)
        self.norms: BatchNorms | None = None
        if normalisation != "default":
            if self.gate.gate_form == "residual":
                raise ValueError("gate_form='residual' needs normalisation='default' in CBAM")
            self.norms = BatchNorms(_make_spatial_norm, block_indices, normalisation)

    def zero_map(self) -> None:
        """Zero the expanding layer and the last step of the spatial part."""
        super().zero_map()
        if self.norms is None:  # else the scales of the normalisations, which start at 0
            nn.init.zeros_(self.spatial.weight)

    def full_gate(
        self, y: Tensor, state: UnitState, block_index: int, grid: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, UnitState]:
        """Gate the channels of all tokens, and the patches; see `AttentionUnit.full_gate`."""
        tokens = y.float()
        seen = self.pooled(tokens)
        channel_map = torch.sigmoid(self.excite(seen.mean(dim=1)) + self.excite(seen.amax(dim=1)))
        gate = self.gate(channel_map)[:, None]  # B 1 D
        x = self.patches(tokens * gate, grid)  # B D rows columns
        described = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        weight, padding = self.spatial.weight.float(), SPATIAL_KERNEL // 2
        z = F.conv2d(described, weight, padding=padding)  # B 1 rows columns
        if self.norms is not None:
            z = self.norms(z, block_index)
        patch_gate = self.patch_gate(torch.sigmoid(z).flatten(1))  # B P
        # tokens outside the grid keep the channels' gate
        patch_gate = F.pad(patch_gate, (self.num_extra_tokens, 0), value=1.0)  # B L
        return gate * patch_gate[:, :, None], channel_map, state


def _make_spatial_norm() -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(1, momentum=NORM_MOMENTUM)
    nn.init.zeros_(norm.weight)
    return norm


class SPA(GridUnit):
    """Spatial Pyramid Attention (Guo et al., ICME 2020, "SPANet").

    The grid of patches is averaged to 1 x 1, 2 x 2 and 4 x 4; the 21D numbers pass
    Linear 21D -> D/r, ReLU, Linear D/r -> D, sigmoid: 22D²/r weights, no biases, as in the authors'
    first design, which concatenates.

    Args:
        channels: D.
        reduction: r; divides D.
        **options: see `AttentionUnit`; `pool` makes no difference, since only patches have a place
            in the grid.

    Raises:
        ValueError: if r does not divide D.
    """

    def __init__(self, channels: int, reduction: int = 16, **options: Unpack[UnitOptions]) -> None:
        super().__init__(channels, map_start=0.5, **options)
        cells = sum(side * side for side in PYRAMID)
        self.add_bottleneck(reduction, in_channels=channels * cells, bias=False)

    def full_gate(
        self, y: Tensor, state: UnitState, block_index: int, grid: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, UnitState]:
        """Gate the channels; see `AttentionUnit.full_gate`."""
        x = self.patches(y.float(), grid)  # B D rows columns
        pyramid = torch.cat([F.adaptive_avg_pool2d(x, side).flatten(1) for side in PYRAMID], dim=1)
        attention_map = torch.sigmoid(self.excite(pyramid))  # B D
        return self.gate(attention_map)[:, None], attention_map, state


class SGE(AttentionUnit):
    """Spatial Group-wise Enhance (Li et al., 2019, arXiv:1905.09646, Eqs. 1-6).

    The channels are cut into G groups. In each, a token's likeness to the mean token (their inner
    product) is normalised over the tokens, scaled, shifted and passed through a sigmoid: 2G
    weights, starting at 0 and 1, so that every token is first gated by σ(1) = 0.73. No grid is
    needed, so all tokens are gated. A single pooled token has nothing to be compared with: its
    normalised likeness, and that of all others, is 0.

    Args:
        channels: D.
        groups: G; divides D.
        **options: see `AttentionUnit`.

    Raises:
        ValueError: if G does not divide D.
    """

    starts_constant = True

    def __init__(self, channels: int, groups: int = 64, **options: Unpack[UnitOptions]) -> None:
        super().__init__(channels, map_start=1 / (1 + math.exp(-1)), **options)  # σ(1)
        check_divides("groups", groups, channels)
        self.groups = groups
        self.scale = nn.Parameter(torch.zeros(groups))
        self.shift = nn.Parameter(torch.ones(groups))

    def zero_map(self) -> None:
        """Do nothing: the unit starts so."""

    def full_gate(
        self, y: Tensor, state: UnitState, block_index: int, grid: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, UnitState]:
        """Gate the channels of each token; the map that is returned is the mean over the tokens."""
        tokens = y.float()
        x = tokens.unflatten(2, (self.groups, -1))  # B L G D/G
        mean = self.pooled(tokens).mean(dim=1).unflatten(1, (self.groups, -1))  # B G D/G
        likeness = (x * mean[:, None]).sum(dim=-1)  # B L G
        seen = self.pooled(likeness)  # B L' G
        if seen.shape[1] == 1:  # whose standard deviation is not defined
            normalised = torch.zeros_like(likeness)
        else:
            spread = seen.std(dim=1, keepdim=True) + SPREAD_EPS
            normalised = (likeness - seen.mean(dim=1, keepdim=True)) / spread
        by_group = torch.sigmoid(normalised * self.scale.float() + self.shift.float())  # B L G
        by_channel = by_group.repeat_interleave(self.channels // self.groups, dim=2)  # B L D
        return self.gate(by_channel), by_channel.mean(dim=1), state


# ---------------------------------------------------------------- uvit_dia.models.units.registry
# Attention units by name: which there are, and how one is built.
#
# What the units say of themselves stands in `config.units`, where it can be read without torch.



CELLS = {"lstm": LSTMCell, "dia_lstm": DIALSTMCell, "dia_lstm_light": DIALSTMLightCell}
CELL_OPTIONS = ("reduction", "activation", "num_cells")  # of a cell; others are the unit's
CLASSES: dict[str, type[AttentionUnit]] = {
    "se": SE,
    "eca": ECA,
    "cbam": CBAM,
    "srm": SRM,
    "spa": SPA,
    "sge": SGE,
    "spem": SPEM,
    "sem": SEM,
    "constant": Constant,
}
ATTENTION_NAMES = ("none", *CELLS, *CLASSES)  # those of this project


def complete_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all `attention_options`, those that are not given as `DEFAULT_OPTIONS` has them.

    Raises:
        ValueError: for an option that no unit has, or an unknown `place`.
    """
    unknown = sorted(set(options) - set(DEFAULT_OPTIONS))
    if unknown:
        known = ", ".join(DEFAULT_OPTIONS)
        raise ValueError(f"attention_options has no key {unknown[0]!r}; it has {known}")
    complete = {**DEFAULT_OPTIONS, **options}
    if complete["place"] not in PLACES:
        raise ValueError(f"place must be one of {', '.join(PLACES)}, got {complete['place']!r}")
    return complete


def chosen_blocks(blocks: object, num_blocks: int) -> list[int]:
    """Return the indices that the option `blocks` means, ascending.

    Raises:
        ValueError: if it is neither "all" nor indices of blocks.
    """
    chosen = list(range(num_blocks)) if blocks == "all" else blocks
    if (
        not isinstance(chosen, list | tuple)
        or not chosen
        or not all(type(i) is int and 0 <= i < num_blocks for i in chosen)
    ):
        raise ValueError(
            f"attention_options.blocks must be 'all' or indices in 0 .. {num_blocks - 1},"
            f" got {blocks!r}"
        )
    return sorted(set(chosen))


def make_attention_unit(
    unit: str | type[AttentionUnit],
    channels: int,
    num_extra_tokens: int,
    options: Mapping[str, Any],
    block_indices: Sequence[int] = (0,),
) -> AttentionUnit:
    """Build one attention unit; its initial weights come from `AttentionUnit.initialise`.

    Args:
        unit: one of `ATTENTION_NAMES` but "none", or a unit of your own: its class or its name.
        channels: D, the width of the tokens.
        num_extra_tokens: how many tokens stand before the patches.
        options: complete set of options, see `complete_options`; `shared`, `blocks`, `place` and
            `linear_init` are the caller's.
        block_indices: the blocks that the unit will serve.

    Raises:
        ValueError: for an unknown name, or options that do not fit the channels or the unit.
    """
    make: Callable[..., AttentionUnit]
    if isinstance(unit, str) and unit in CELLS:
        facts = UNITS[unit]
        make = partial(_make_recurrent, CELLS[unit], facts.activation)
    elif isinstance(unit, str) and unit in CLASSES:
        make, facts = CLASSES[unit], UNITS[unit]
    else:
        make = find_own_unit(unit)
        facts = facts_of_class(make)
    _refuse_options_without_effect(str(unit), facts, options)
    arguments = {key: options[key] for key in facts.options}
    for key, own in (("reduction", facts.reduction), ("groups", facts.groups)):
        if arguments.get(key) == 0:
            if own:
                arguments[key] = own_number(own, channels)
            else:  # a unit of the user's own, whose constructor knows
                del arguments[key]
    if "block_indices" in signature(make).parameters:
        arguments["block_indices"] = block_indices
    return make(
        channels,
        **arguments,
        pool=options["pool"],
        num_extra_tokens=num_extra_tokens,
        gate_init=options["gate_init"],
        gate_form=options["gate_form"],
    )


def _make_recurrent(
    cell_class: Callable[..., RecurrentCell],
    own_activation: str,
    channels: int,
    **options: Any,  # noqa: ANN401  # each checks its own
) -> RecurrentUnit:
    of_cell = {key: options.pop(key) for key in CELL_OPTIONS if key in options}
    if of_cell["activation"] == "default":
        of_cell["activation"] = own_activation
    return RecurrentUnit(cell_class(channels, **of_cell), **options)


def _refuse_options_without_effect(name: str, facts: UnitFacts, options: Mapping[str, Any]) -> None:
    option = set_without_effect(facts, options)
    if option is None:
        return
    owners = units_with(option)
    like = [other for other in DEFAULT_OPTIONS if units_with(other) == owners]
    are, has = ("are options", "neither") if len(like) > 1 else ("is an option", "none")
    raise ValueError(f"{' and '.join(like)} {are} of {', '.join(owners)}; {name} has {has}")


# ---------------------------------------------------------------- uvit_dia.models.units.of_blocks
# The attention units of a network of blocks: one for all, or one a block (Eqs. 2 and 1).





class UnitsOfBlocks(nn.Module):
    """A network whose blocks carry attention units.

    The unit is registered once, on the network: held by each block it would stand in `state_dict`
    once a block.

    Attributes:
        num_blocks: how many blocks there are.
        attention_blocks: the blocks that carry a unit, ascending.
        attention_is_shared: whether they share one.
        attention_unit: the unit of all blocks, or a ModuleDict of one a block; missing without.
    """

    num_blocks: int
    attention_blocks: list[int]
    attention_is_shared: bool
    attention_unit: Any

    def _add_attention_units(
        self, name: str, options: dict[str, Any], *, channels: int, num_extra_tokens: int
    ) -> None:
        """Make the units, without their initial weights.

        Args:
            name: of the unit, or "none".
            options: complete set of `registry.DEFAULT_OPTIONS`.
            channels: D.
            num_extra_tokens: tokens before the patches.

        Raises:
            ValueError: for an unknown name, or options that do not fit.
        """
        indices = chosen_blocks(options["blocks"], self.num_blocks)
        self.attention_blocks = [] if name == "none" else indices
        self.attention_is_shared = bool(options["shared"])
        if name == "none":
            return

        def make_unit(served: list[int]) -> AttentionUnit:
            # only the unit that comes first makes a state
            makes_state = options["time_first_state"] and served[0] == indices[0]
            own = {**options, "time_first_state": makes_state}
            return make_attention_unit(name, channels, num_extra_tokens, own, served)

        if self.attention_is_shared:
            self.attention_unit = make_unit(indices)
        else:
            self.attention_unit = nn.ModuleDict({str(i): make_unit([i]) for i in indices})

    def unit_of_block(self, block_index: int) -> AttentionUnit | None:
        """Return the attention unit that serves a block, or None."""
        if block_index not in self.attention_blocks:
            return None
        if self.attention_is_shared:
            return self.attention_unit
        return self.attention_unit[str(block_index)]

    def attention_penalty(self) -> Tensor | None:
        """Return what the units add to the training loss, (), a term for each block; or None."""
        units = (self.unit_of_block(index) for index in self.attention_blocks)
        return total_penalty(unit for unit in units if unit is not None)

    def _initial_state(self, x: Tensor, dropout_seeds: Tensor | None) -> UnitState | None:
        """Return the state before the first block; see `AttentionUnit.initial_state`."""
        unit = self.unit_of_block(self.attention_blocks[0]) if self.attention_blocks else None
        return None if unit is None else unit.initial_state(x, dropout_seeds)


# ---------------------------------------------------------------- uvit_dia.models.uvit
# U-ViT (Bao et al., CVPR 2023, arXiv:2209.12152) with an attention unit in its blocks.
#
# With `attention="none"` this is the authors' U-ViT: the same function, the same initialisation law
# and the same `state_dict` keys. With a unit, data walks through a block as in Fig. 7 of
# arXiv:2210.16101.
# Legend of tensor names: B batch, C image channels, L tokens, D embedding channels.





# diffusers' two bases disagree on a type
class UViT(UnitsOfBlocks, ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A U-ViT noise predictor whose blocks may share one attention unit.

    `depth` keeps U-ViT's meaning: depth / 2 blocks, one in the middle, depth / 2 blocks, so
    `num_blocks = depth + 1`.

    Args:
        img_size: side of the square images in pixels.
        patch_size: side of a patch in pixels; divides img_size.
        in_chans: image channels C.
        embed_dim: token width D; divisible by num_heads.
        depth: blocks without the middle one; even.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLPs over D.
        qkv_bias: whether the q, k, v projections have biases.
        mlp_time_embed: whether the time token passes Linear (4x), SiLU, Linear first.
        num_classes: number of classes of a class-conditional model; -1 for none.
        conv: whether a 3x3 convolution ends the network.
        skip: whether long skips join mirror blocks.
        residual: whether attention and MLP add to the tokens; False, an ablation, puts their output
            in the tokens' place (after Figs. 13 and 14 of arXiv:2210.16101).
        layer_norm: whether the network has LayerNorms; False, an ablation, leaves all of them out
            (after Table XVI).
        attention: "none", or the name of a unit; `units.registry` has the table. A unit of your own
            is "module:Class" of a module that is imported already, or a registered name.
        attention_options: any of the options in `units.registry.DEFAULT_OPTIONS`.

    Raises:
        ValueError: if an argument is out of range or does not fit another.
    """

    _supports_gradient_checkpointing = True
    # diffusers declares these as attributes of an instance
    _no_split_modules: ClassVar[list[str]] = ["Block"]  # type: ignore[misc,assignment]
    _repeated_blocks: ClassVar[list[str]] = ["Block"]  # type: ignore[misc]

    @register_to_config
    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        mlp_time_embed: bool = False,
        num_classes: int = -1,
        conv: bool = True,
        skip: bool = True,
        residual: bool = True,
        layer_norm: bool = True,
        attention: str = "none",
        attention_options: dict | None = None,
    ) -> None:
        super().__init__()
        _check_shape(self.config)
        options = complete_options(attention_options or {})
        self.gradient_checkpointing = False
        self.num_blocks = depth + 1
        self.num_extra_tokens = 2 if num_classes > 0 else 1
        num_tokens = self.num_extra_tokens + (img_size // patch_size) ** 2
        kind: dict[str, Any] = {"residual": residual, "layer_norm": layer_norm}

        def make_block(has_skip: bool) -> Block:
            shape = (embed_dim, num_heads, mlp_ratio, qkv_bias, has_skip)
            return Block(*shape, **kind, place=options["place"])

        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim)
        self.time_embed: nn.Module = nn.Identity()
        if mlp_time_embed:
            self.time_embed = nn.Sequential(
                nn.Linear(embed_dim, 4 * embed_dim), nn.SiLU(), nn.Linear(4 * embed_dim, embed_dim)
            )
        if num_classes > 0:
            self.label_emb = nn.Embedding(num_classes, embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, num_tokens, embed_dim))
        self.in_blocks = nn.ModuleList(make_block(False) for _ in range(depth // 2))
        self.mid_block = make_block(False)
        self.out_blocks = nn.ModuleList(make_block(skip) for _ in range(depth // 2))
        self.norm = nn.LayerNorm(embed_dim) if layer_norm else nn.Identity()
        self.decoder_pred = nn.Linear(embed_dim, patch_size**2 * in_chans)
        self.final_layer = nn.Conv2d(in_chans, in_chans, 3, padding=1) if conv else nn.Identity()

        # The unit draws its weights last: one seed gives one backbone, whatever the unit.
        self._initialise_backbone()
        self._add_attention_units(
            attention, options, channels=embed_dim, num_extra_tokens=self.num_extra_tokens
        )
        for unit in self.modules():
            if isinstance(unit, AttentionUnit):
                unit.initialise(options["linear_init"])

    def _initialise_backbone(self) -> None:
        """Initialise as U-ViT: truncated normal of 0.02 on Linear weights and positions."""
        nn.init.trunc_normal_(self.pos_embed, std=INITIAL_STD)
        for child in self.children():
            initialise_linear(child)

    def forward(
        self,
        x_t: Tensor,
        timesteps: Tensor,
        class_labels: Tensor | None = None,
        dropout_seeds: Tensor | None = None,
    ) -> Tensor:
        """Predict the noise, or what the model was trained to predict.

        Args:
            x_t: (B, C, H, W) noised images.
            timesteps: (B,) int or float on the scale 0 .. 999.
            class_labels: (B,) int64 in [0, num_classes), for a class-conditional model.
            dropout_seeds: (B,) int64, one seed an image, which alone decide what dropout drops;
                None leaves that to torch's global generator. Only stacked cells (`num_cells` > 1)
                drop anything.

        Returns:
            (B, C, H, W).

        Raises:
            ValueError: if class_labels are given to an unconditional model, or missing for a
                conditional one; or if the images are not of the model's size and channels; or if
                labels on the CPU are out of range.
        """
        self._check_inputs(x_t, class_labels)
        x = self._embed(x_t, timesteps, class_labels)  # B L D
        state = self._initial_state(x, dropout_seeds)
        skips: list[Tensor] = []
        for index, block in enumerate(self.in_blocks):
            x, state = self._run_block(block, x, None, state, index)  # B L D
            skips.append(x)
        middle = len(skips)
        x, state = self._run_block(self.mid_block, x, None, state, middle)  # B L D
        for index, block in enumerate(self.out_blocks, start=middle + 1):
            x, state = self._run_block(block, x, skips.pop(), state, index)  # B L D
        x = self.decoder_pred(self.norm(x))[:, self.num_extra_tokens :]  # B patches pixels
        image = unpatchify(x, self.config["patch_size"], self.config["img_size"])  # B C H W
        return self.final_layer(image)

    def _check_inputs(self, x_t: Tensor, class_labels: Tensor | None) -> None:
        config = self.config
        expected = (config["in_chans"], config["img_size"], config["img_size"])
        if x_t.dim() != 4 or x_t.shape[1:] != expected:
            raise ValueError(
                f"x_t must have the shape (B, {str(expected)[1:-1]}), got {tuple(x_t.shape)}"
            )
        if (class_labels is None) != (self.num_extra_tokens == 1):
            raise ValueError("class_labels belong to a model with num_classes > 0, and only to one")
        if class_labels is not None:
            check_class_labels(class_labels, config["num_classes"])

    def _embed(self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor | None) -> Tensor:
        """Make the tokens: [label], time, patches; plus the position embedding; (B, L, D)."""
        patches = self.patch_embed(x_t)  # B patches D
        time = timestep_embedding(timesteps, self.config["embed_dim"]).to(patches.dtype)  # B D
        tokens = [self.time_embed(time)[:, None], patches]
        if class_labels is not None:
            tokens.insert(0, self.label_emb(class_labels)[:, None])
        return torch.cat(tokens, dim=1) + self.pos_embed  # B L D

    def _run_block(
        self, block: nn.Module, x: Tensor, skip: Tensor | None, state: UnitState | None, index: int
    ) -> tuple[Tensor, UnitState | None]:
        arguments = (x, skip, self.unit_of_block(index), state, index)
        if self.gradient_checkpointing and torch.is_grad_enabled():
            assert self._gradient_checkpointing_func is not None  # set together with the flag
            return self._gradient_checkpointing_func(block, *arguments)
        return block(*arguments)

    @classmethod
    def from_official(
        cls,
        state_dict_or_path: dict[str, Any] | str | Path,
        *,
        entry: str | None = None,
        **uvit_arguments: object,
    ) -> "UViT":
        """Load weights in the format of the U-ViT authors' code, strictly.

        Args:
            state_dict_or_path: their `state_dict`, or a `.pth` file (read with `weights_only=True`)
                or a `.safetensors` file that holds it. `official_weights` says what may stand
                around it.
            entry: which entry of a training state to read, such as "ema".
            **uvit_arguments: arguments of this class.

        Returns:
            The model, in evaluation mode.

        Raises:
            ValueError: if the file is missing, too large or unreadable, or keys or shapes differ.
        """
        model = cls(**uvit_arguments)
        load_official(model, state_dict_or_path, entry)
        return model.eval()


def _check_shape(config: Mapping[str, Any]) -> None:
    size, patch, depth = config["img_size"], config["patch_size"], config["depth"]
    width, heads = config["embed_dim"], config["num_heads"]
    channels, ratio = config["in_chans"], config["mlp_ratio"]
    if patch < 1 or size < 1 or size % patch:
        raise ValueError(f"img_size must be a multiple of patch_size {patch}, got {size}")
    if depth < 0 or depth % 2:
        raise ValueError(f"depth must be even and not negative, got {depth}")
    if heads < 1 or width < 1 or width % heads:
        raise ValueError(f"embed_dim must be a multiple of num_heads {heads}, got {width}")
    if channels < 1 or width * ratio < 1:
        raise ValueError(
            f"in_chans and the MLP's width must be at least 1, got {channels} and {width} * {ratio}"
        )
