"""`share_attention` puts DIA's shared units into a torch model that exists already.

The unit is chosen a place by the names of modules, its *targets*: what a target returns is gated.
The last layer of a ResNet's residual branches makes that `x + a ⊗ h` with `a = f(x)` (Eq. 4 of
arXiv:2210.16101), `norm2` of a ViT's blocks puts the unit between Norm and MLP (Table IX). The
model's own code, names and weights stay as they are.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from torch import Tensor, nn

from uvit_dia.config.own_units import import_own_unit
from uvit_dia.config.units import DEFAULT_OPTIONS, UNITS, is_own_unit, units_with
from uvit_dia.models.other_backbones.hooks import SharedAttention
from uvit_dia.models.other_backbones.stage import Stage
from uvit_dia.models.other_backbones.targets import (
    Targets,
    common_width,
    observe_targets,
    resolve_targets,
    target_width,
)
from uvit_dia.models.other_backbones.tokens import Layout
from uvit_dia.models.units.protocol import AttentionUnit
from uvit_dia.models.units.registry import (
    ATTENTION_NAMES,
    complete_options,
    make_attention_unit,
)

NOT_OPTIONS = ("shared", "blocks", "place", "time_first_state")  # of a U-ViT alone, or arguments
UNIT_OPTIONS = tuple(name for name in DEFAULT_OPTIONS if name not in NOT_OPTIONS)
# As the units' authors train classifiers; a U-ViT's defaults are those of older configs.
AS_AUTHORS = {"linear_init": "torch", "variance": "unbiased"}


def share_attention(
    model: nn.Module,
    targets: Targets | Mapping[str, Targets],
    unit: str | type[AttentionUnit] = "dia_lstm",
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
    """Gate the outputs of a model's modules with one shared attention unit a stage, in place.

    Long because of what its many options mean; the code is short.

    State passes within one call of the model, or of a module in it that holds several targets;
    parts that are called one by one, as an encoder and a decoder may be, need a stage each.

    Call it before the optimizer is made, and before `torch.compile` and DistributedDataParallel.
    Weights of the model from elsewhere are loaded before it, since it adds keys that start with
    `name`.

    Args:
        model: any torch model.
        targets: names of modules as `model.named_modules()` tells them, or patterns, in which `*`
            stands for one part of a name, or for a piece of it: "blocks.*.norm2". Several make one
            stage, in the order given; those that one pattern finds come in the order of
            `named_modules()`, which must be that of the data. A mapping {stage name: targets} makes
            several stages, with a unit each.
        unit: one of `registry.ATTENTION_NAMES` but "none", or a unit of your own: its class, a
            registered name, or "my_module:MyUnit", which is imported.
        shared: True gives a stage one unit (Eq. 2), False one a target (Eq. 1), which still hand on
            the state.
        channels: C; None asks `example_input`, where it is given, or else the targets themselves.
        example_input: what the model is called with (a tuple for several arguments), once, without
            gradients and in evaluation mode, to learn widths and to check that the targets run once
            each and in order.
        channels_last: whether four-dimensional outputs of targets are (B, H, W, C), not
            (B, C, H, W).
        num_extra_tokens: tokens (class, registers) before the patches in outputs (B, L, C), for
            pool="patches" and units that look at the grid.
        grid: rows and columns of the patches in outputs (B, L, C), for units that look at it; None
            for a square.
        checkpointing: whether states are kept until the next forward pass, as gradient
            checkpointing needs them.
        name: of the module that holds the units; weights stand under `name.stage.unit`.
        **options: of the unit, any of `UNIT_OPTIONS`, as in `UViT`'s attention_options, but for
            the defaults in `AS_AUTHORS`.

    Returns:
        The module that holds the units, which is registered on the model.

    Raises:
        ValueError: if targets, widths or options do not fit the model or each other; the model is
            unchanged then.
    """
    # A long function, since all its arguments are described here.
    _check_unit(unit, options)
    _check_model(model, name)
    stage_names = resolve_targets(model, targets)
    _check_uncompiled(model, chain.from_iterable(stage_names.values()))
    outputs = {} if example_input is None else observe_targets(model, stage_names, example_input)
    complete = complete_options({**_defaults(unit), **options})

    def make_unit(width: int, served: Sequence[int]) -> AttentionUnit:
        made = make_attention_unit(unit, width, num_extra_tokens, complete, served)
        made.initialise(str(complete["linear_init"]))
        return made

    stages = {}
    for stage, names in stage_names.items():
        found = {one: target_width(model, one, outputs.get(one), channels_last) for one in names}
        width = common_width(stage, found, channels, has_example=example_input is not None)
        indices = range(len(names))
        units: nn.Module
        if shared:
            units = make_unit(width, indices)
        else:
            units = nn.ModuleList(make_unit(width, [index]) for index in indices)
        layout = Layout(width, channels_last, num_extra_tokens, grid)
        stages[stage] = Stage(units, names, layout, checkpointing=checkpointing)
        _move_to(stages[stage], model.get_submodule(names[0]), model)
    attention = SharedAttention(stages).train(model.training)
    model.add_module(name, attention)
    attention.attach(model)
    return attention


def _check_unit(unit: str | type[AttentionUnit], options: Mapping[str, object]) -> None:
    if isinstance(unit, str):
        is_known = unit in UNITS or is_own_unit(unit)
        if not is_known:
            known = f"{', '.join(ATTENTION_NAMES[1:])} or one of your own"
            raise ValueError(f"unit must be one of {known}, got {unit!r}")
        import_own_unit(unit)
    unknown = sorted(set(options) - set(UNIT_OPTIONS))
    if unknown:
        raise ValueError(
            f"there is no option {unknown[0]!r}; a unit has {', '.join(UNIT_OPTIONS)}, and targets"
            " choose the blocks"
        )


def _defaults(unit: str | type[AttentionUnit]) -> dict[str, str]:
    """Return those of `AS_AUTHORS` that the unit takes."""
    owned = {key: units_with(key) for key in AS_AUTHORS}
    return {key: AS_AUTHORS[key] for key, units in owned.items() if not units or unit in units}


def _check_model(model: nn.Module, name: str) -> None:
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    if isinstance(model, wrappers) or hasattr(model, "_orig_mod"):
        raise ValueError(
            f"the model is wrapped in {type(model).__name__}: call share_attention on the model"
            " inside, before wrapping"
        )
    if not name or "." in name or hasattr(model, name):
        raise ValueError(
            f"name must be a new attribute of the model, without dots, got {name!r}: choose"
            " another name="
        )


def _check_uncompiled(model: nn.Module, names: Iterable[str]) -> None:
    """Refuse targets in modules that are compiled: their programs may run on without the hooks."""
    for name in names:
        parts = name.split(".")
        for end in range(len(parts) + 1):
            holder = ".".join(parts[:end])
            module = model.get_submodule(holder)
            if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
                raise ValueError(
                    f"{holder or 'the model'} is compiled: call share_attention before"
                    " torch.compile"
                )


def _move_to(stage: Stage, target: nn.Module, model: nn.Module) -> None:
    """Move a stage to where its first target is, and to its type."""
    for parameter in chain(target.parameters(), model.parameters()):
        if parameter.is_floating_point():
            stage.to(device=parameter.device, dtype=parameter.dtype)
            return
