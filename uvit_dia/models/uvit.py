"""U-ViT (Bao et al., CVPR 2023, arXiv:2209.12152) with an attention unit between Norm2 and MLP of its blocks.

With `attention="none"` this is the authors' U-ViT: the same function, the same initialisation law and the same
`state_dict` keys. With a unit, data walks through a block as in Fig. 7 of arXiv:2210.16101.
Legend of tensor names: B batch, C image channels, L tokens, D embedding channels.
"""

from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from uvit_dia.models.layers import MLP, Attention, PatchEmbed, timestep_embedding, unpatchify
from uvit_dia.models.official_weights import _read_official_file
from uvit_dia.models.units.protocol import AttentionUnit, UnitState
from uvit_dia.models.units.registry import ATTENTION_NAMES, DEFAULT_OPTIONS, make_attention_unit


class Block(nn.Module):
    """A transformer block; `x + Attn(Norm1(x))`, then `x + MLP(unit(Norm2(x)))`; a skip comes in first, if any."""

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
    ) -> None:
        super().__init__()
        self.residual = residual
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
            skip: (B, L, D), output of the mirror block in the first half; None for blocks without a long skip.
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
        if unit is not None:
            y, _, state = unit(y, state, block_index)  # B L D
        return self._add(x, self.mlp(y)), state

    def _add(self, x: Tensor, change: Tensor) -> Tensor:
        return x + change if self.residual else change


class UViT(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' two bases disagree on a type
    """A U-ViT noise predictor whose blocks may share one attention unit.

    `depth` keeps U-ViT's meaning: depth / 2 blocks, one in the middle, depth / 2 blocks, so `num_blocks = depth + 1`.

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
        residual: whether attention and MLP add to the tokens; False, an ablation, puts their output in the tokens'
            place (after Figs. 13 and 14 of arXiv:2210.16101).
        layer_norm: whether the network has LayerNorms; False, an ablation, leaves all of them out (after Table XVI).
        attention: "none", or a unit: "lstm", "dia_lstm", "dia_lstm_light", "se", "eca", "cbam", "srm", "spa", "sge",
            "spem" or "sem".
        attention_options: any of `shared` (True: one unit for all blocks, False: one a block), `reduction` (4),
            `groups` (8, of sge), `activation` ("default", "sigmoid", "tanh", "relu", of the recurrent cells),
            `num_cells` (1, likewise), `pool` ("all" tokens or "patches"), `blocks` ("all" or a list of block
            indices) and `gate_init` ("paper" or "identity").

    Raises:
        ValueError: if an argument is out of range or does not fit another.
    """

    _supports_gradient_checkpointing = True
    # diffusers declares these as attributes of an instance
    _no_split_modules: ClassVar[list[str]] = ["Block"]  # type: ignore[misc,assignment]
    _repeated_blocks: ClassVar[list[str]] = ["Block"]  # type: ignore[misc]
    attention_unit: Any  # an AttentionUnit for all blocks, or a ModuleDict of one a block

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
        if patch_size < 1 or img_size < 1 or img_size % patch_size:
            raise ValueError(
                f"img_size must be a multiple of patch_size {patch_size}, got {img_size}"
            )
        if depth < 0 or depth % 2:
            raise ValueError(f"depth must be even and not negative, got {depth}")
        if num_heads < 1 or embed_dim < 1 or embed_dim % num_heads:
            raise ValueError(
                f"embed_dim must be a multiple of num_heads {num_heads}, got {embed_dim}"
            )
        if in_chans < 1 or embed_dim * mlp_ratio < 1:
            raise ValueError(
                f"in_chans and the MLP's width must be at least 1, got {in_chans} and {embed_dim} * {mlp_ratio}"
            )
        self.gradient_checkpointing = False
        self.num_blocks = depth + 1
        self.num_extra_tokens = 2 if num_classes > 0 else 1
        num_tokens = self.num_extra_tokens + (img_size // patch_size) ** 2

        def make_block(has_skip: bool) -> Block:
            return Block(
                embed_dim,
                num_heads,
                mlp_ratio,
                qkv_bias,
                has_skip,
                residual=residual,
                layer_norm=layer_norm,
            )

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

        self._add_attention_unit(attention, attention_options or {}, embed_dim)
        self._initialise()

    def _add_attention_unit(self, name: str, options: dict, embed_dim: int) -> None:
        """Register the unit once, on the model: held by each block it would stand in `state_dict` once a block."""
        unknown = sorted(set(options) - set(DEFAULT_OPTIONS))
        if unknown:
            raise ValueError(
                f"attention_options has no key {unknown[0]!r}; it has {', '.join(DEFAULT_OPTIONS)}"
            )
        if name not in ATTENTION_NAMES:
            raise ValueError(f"attention must be one of {', '.join(ATTENTION_NAMES)}, got {name!r}")
        options = {**DEFAULT_OPTIONS, **options}
        blocks = options["blocks"]
        chosen = list(range(self.num_blocks)) if blocks == "all" else blocks
        if (
            not isinstance(chosen, list | tuple)
            or not chosen
            or not all(type(i) is int and 0 <= i < self.num_blocks for i in chosen)
        ):
            raise ValueError(
                f"attention_options.blocks must be 'all' or indices in 0 .. {self.num_blocks - 1}, got {blocks!r}"
            )
        indices = sorted(set(chosen))
        self.attention_blocks = [] if name == "none" else indices
        self.attention_is_shared = bool(options["shared"])
        if name == "none":
            return

        def make_unit(served: list[int]) -> AttentionUnit:
            return make_attention_unit(name, embed_dim, self.num_extra_tokens, options, served)

        if self.attention_is_shared:
            self.attention_unit = make_unit(indices)
        else:
            self.attention_unit = nn.ModuleDict({str(i): make_unit([i]) for i in indices})

    def _initialise(self) -> None:
        """Initialise as U-ViT: truncated normal of 0.02 on Linear weights and positions, zeros on biases."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for (
            module
        ) in self.modules():  # after the Linear layers, some of which an identity start zeroes
            if isinstance(module, AttentionUnit):
                module.reset_gate()

    def unit_of_block(self, block_index: int) -> AttentionUnit | None:
        """Return the attention unit that serves a block, or None."""
        if block_index not in self.attention_blocks:
            return None
        return (
            self.attention_unit
            if self.attention_is_shared
            else self.attention_unit[str(block_index)]
        )

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
            dropout_seeds: (B,) int64, one seed an image, which alone decide what dropout drops; None leaves that to
                torch's global generator. Only stacked cells (`num_cells` > 1) drop anything.

        Returns:
            (B, C, H, W).

        Raises:
            ValueError: if class_labels are given to an unconditional model, or missing for a conditional one; or if
                the images are not of the model's size and channels; or if labels on the CPU are out of range.
        """
        config = self.config
        expected = (config["in_chans"], config["img_size"], config["img_size"])
        if x_t.dim() != 4 or x_t.shape[1:] != expected:
            raise ValueError(
                f"x_t must have the shape (B, {str(expected)[1:-1]}), got {tuple(x_t.shape)}"
            )
        if (class_labels is None) != (self.num_extra_tokens == 1):
            raise ValueError("class_labels belong to a model with num_classes > 0, and only to one")
        if (
            class_labels is not None and class_labels.device.type == "cpu"
        ):  # elsewhere looking would wait
            wrong = class_labels[(class_labels < 0) | (class_labels >= config["num_classes"])]
            if wrong.numel():
                raise ValueError(
                    f"class_labels must be in 0 .. {config['num_classes'] - 1}, got {int(wrong[0])}"
                )
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
        return self.final_layer(
            unpatchify(x, self.config["patch_size"], self.config["img_size"])
        )  # B C H W

    def _embed(self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor | None) -> Tensor:
        """Make the tokens: [label], time, patches; plus the position embedding; (B, L, D)."""
        patches = self.patch_embed(x_t)  # B patches D
        time = timestep_embedding(timesteps, self.config["embed_dim"]).to(patches.dtype)  # B D
        tokens = [self.time_embed(time)[:, None], patches]
        if class_labels is not None:
            tokens.insert(0, self.label_emb(class_labels)[:, None])
        return torch.cat(tokens, dim=1) + self.pos_embed  # B L D

    def _initial_state(self, x: Tensor, dropout_seeds: Tensor | None) -> UnitState | None:
        unit = self.unit_of_block(self.attention_blocks[0]) if self.attention_blocks else None
        return None if unit is None else unit.initial_state(x, dropout_seeds)

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
        cls, state_dict_or_path: dict[str, Tensor] | str | Path, **uvit_arguments: object
    ) -> "UViT":
        """Load weights in the format of the U-ViT authors' code, strictly.

        Args:
            state_dict_or_path: their `state_dict`, or a `.pth` file (read with `weights_only=True`) or a
                `.safetensors` file that holds it.
            **uvit_arguments: arguments of this class.

        Returns:
            The model, in evaluation mode.

        Raises:
            ValueError: if the file is missing, too large or unreadable, or keys or shapes differ.
        """
        model = cls(**uvit_arguments)
        if isinstance(state_dict_or_path, dict):
            state_dict = state_dict_or_path
        else:
            state_dict = _read_official_file(Path(state_dict_or_path))
        try:
            model.load_state_dict(state_dict, strict=True)
        except RuntimeError as error:
            raise ValueError(
                f"not the weights of this U-ViT: {' '.join(str(error).split())}"
            ) from error
        return model.eval()
