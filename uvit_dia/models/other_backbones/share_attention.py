"""`share_attention` puts DIA's shared units into a torch model that exists already (Eqs. 1, 2 and 4, arXiv:2210.16101).

The unit is chosen a place by the names of modules, its *targets*: what a target returns is gated. The last layer of a
ResNet's residual branches makes that `x + a ⊗ h` with `a = f(x)` (Eq. 4), `norm2` of a ViT's blocks puts the unit
between Norm and MLP (Table IX). The model's own code, names and weights stay as they are.
"""

from collections.abc import Mapping, Sequence
from itertools import chain

from torch import Tensor, nn

from uvit_dia.models.other_backbones.stage import SharedAttention, Stage
from uvit_dia.models.other_backbones.targets import (
    Targets,
    common_width,
    observe_targets,
    resolve_targets,
    target_width,
)
from uvit_dia.models.units.protocol import AttentionUnit
from uvit_dia.models.units.registry import ATTENTION_NAMES, DEFAULT_OPTIONS, make_attention_unit

UNIT_OPTIONS = tuple(name for name in DEFAULT_OPTIONS if name not in ("shared", "blocks"))


def share_attention(
    model: nn.Module,
    targets: Targets | Mapping[str, Targets],
    unit: str = "dia_lstm",
    *,
    shared: bool = True,
    channels: int | None = None,
    example_input: Tensor | tuple | None = None,
    channels_last: bool = False,
    num_extra_tokens: int = 0,
    grid: tuple[int, int] | None = None,
    checkpointing: bool = False,
    name: str = "shared_attention",
    **options: object,
) -> SharedAttention:
    """Gate the outputs of a model's modules with one shared attention unit a stage; the model is changed in place.

    State passes within one call of the model, or of a module in it that holds several targets; parts that are called
    one by one, as an encoder and a decoder may be, need a stage each.

    Call it before the optimizer is made, and before `torch.compile` and DistributedDataParallel. Weights of the
    model from elsewhere are loaded before it, since it adds keys that start with `name`.

    Args:
        model: any torch model.
        targets: names of modules as `model.named_modules()` tells them, or patterns, in which `*` stands for one part
            of a name, or for a piece of it: "blocks.*.norm2". Several make one stage, in the order given; those that
            one pattern finds come in the order of `named_modules()`, which must be that of the data. A mapping
            {stage name: targets} makes several stages, with a unit each.
        unit: one of `unit_factory.ATTENTION_NAMES` but "none".
        shared: True gives a stage one unit (Eq. 2), False one a target (Eq. 1), which still hand on the state.
        channels: C; None asks `example_input`, where it is given, or else the targets themselves.
        example_input: what the model is called with (a tuple for several arguments), once, without gradients and in
            evaluation mode, to learn widths and to check that the targets run once each and in order.
        channels_last: whether four-dimensional outputs of targets are (B, H, W, C), not (B, C, H, W).
        num_extra_tokens: tokens (class, registers) before the patches in outputs (B, L, C), for pool="patches" and
            units that look at the grid.
        grid: rows and columns of the patches in outputs (B, L, C), for units that look at it; None for a square.
        checkpointing: whether states are kept until the next forward pass, as gradient checkpointing needs them.
        name: of the module that holds the units; weights stand under `name.stage.unit`.
        **options: of the unit, any of `UNIT_OPTIONS`, as in `UViT`'s attention_options.

    Returns:
        The module that holds the units, which is registered on the model.

    Raises:
        ValueError: if targets, widths or options do not fit the model or each other; the model is unchanged then.
    """
    if unit == "none" or unit not in ATTENTION_NAMES:
        raise ValueError(f"unit must be one of {', '.join(ATTENTION_NAMES[1:])}, got {unit!r}")
    unknown = sorted(set(options) - set(UNIT_OPTIONS))
    if unknown:
        raise ValueError(
            f"there is no option {unknown[0]!r}; a unit has {', '.join(UNIT_OPTIONS)}, and targets choose the blocks"
        )
    _check_model(model, name)
    stage_names = resolve_targets(model, targets)
    outputs = {} if example_input is None else observe_targets(model, stage_names, example_input)

    def make_unit(width: int, served: Sequence[int]) -> AttentionUnit:
        made = make_attention_unit(
            unit, width, num_extra_tokens, {**DEFAULT_OPTIONS, **options}, served
        )
        _initialise(made)
        return made

    stages = {}
    for stage, names in stage_names.items():
        found = {one: target_width(model, one, outputs.get(one), channels_last) for one in names}
        width = common_width(stage, found, channels, has_example=example_input is not None)
        indices = range(len(names))
        stages[stage] = Stage(
            make_unit(width, indices)
            if shared
            else nn.ModuleList(make_unit(width, [i]) for i in indices),
            names,
            channels=width,
            channels_last=channels_last,
            num_extra_tokens=num_extra_tokens,
            grid=grid,
            checkpointing=checkpointing,
        )
        _move_to(stages[stage], model.get_submodule(names[0]), model)
    attention = SharedAttention(stages).train(model.training)
    model.add_module(name, attention)
    attention.attach(model)
    return attention


def _check_model(model: nn.Module, name: str) -> None:
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    if isinstance(model, wrappers) or hasattr(model, "_orig_mod"):
        raise ValueError(
            f"the model is wrapped in {type(model).__name__}: call share_attention on the model inside, before wrapping"
        )
    if not name or "." in name or hasattr(model, name):
        raise ValueError(
            f"name must be a new attribute of the model, without dots, got {name!r}: choose another name="
        )


def _initialise(unit: nn.Module) -> None:
    """Initialise as U-ViT does: truncated normal of 0.02 on Linear weights, zeros on biases; then the gate."""
    for module in unit.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    assert isinstance(unit, AttentionUnit)
    unit.reset_gate()


def _move_to(stage: Stage, target: nn.Module, model: nn.Module) -> None:
    """Move a stage to where its first target is, and to its type."""
    for parameter in chain(target.parameters(), model.parameters()):
        if parameter.is_floating_point():
            stage.to(device=parameter.device, dtype=parameter.dtype)
            return
