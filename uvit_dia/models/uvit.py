"""U-ViT (Bao et al., CVPR 2023, arXiv:2209.12152) with an attention unit in its blocks.

With `attention="none"` this is the authors' U-ViT: the same function, the same initialisation law
and the same `state_dict` keys. With a unit, data walks through a block as in Fig. 7 of
arXiv:2210.16101.
Legend of tensor names: B batch, C image channels, L tokens, D embedding channels.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from uvit_dia.models.block import Block
from uvit_dia.models.layers import (
    INITIAL_STD,
    PatchEmbed,
    check_class_labels,
    initialise_linear,
    timestep_embedding,
    unpatchify,
)
from uvit_dia.models.official_weights import load_official
from uvit_dia.models.units.of_blocks import UnitsOfBlocks
from uvit_dia.models.units.protocol import AttentionUnit, UnitState
from uvit_dia.models.units.registry import complete_options


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
