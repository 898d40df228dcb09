"""Which modules of a model `share_attention` gates: their names, their order and their widths."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from uvit_dia.models.other_backbones.hooks import SharedAttention, Site

Targets = str | Sequence[str]
WIDTH_ATTRIBUTES = ("num_features", "out_channels", "out_features", "num_channels")


def resolve_targets(
    model: nn.Module, targets: Targets | Mapping[str, Targets]
) -> dict[str, list[str]]:
    """Return the names of the targets of each stage, in the order of the data.

    Args:
        model: the model.
        targets: see `share_attention`.

    Raises:
        ValueError: if a pattern matches nothing, or a module is matched twice or has a unit.
    """
    given = targets if isinstance(targets, Mapping) else {"stage": targets}
    if not given:
        raise ValueError("targets is empty: name at least one module")
    modules = dict(model.named_modules(remove_duplicate=False))
    del modules[""]
    for stage in given:
        if not stage or "." in stage or hasattr(SharedAttention, stage):
            raise ValueError(
                f"a stage cannot be called {stage!r}: choose another name, without dots"
            )
    stages = {stage: list(_matches(modules, stage, chosen)) for stage, chosen in given.items()}
    counts = Counter(chain.from_iterable(stages.values()))
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise ValueError(
            f"{twice[0]} is matched {counts[twice[0]]} times: let one pattern of one stage match it"
        )
    owners: dict[int, str] = {}
    for name in counts:
        other = owners.setdefault(id(modules[name]), name)
        if other != name:
            raise ValueError(f"{other} and {name} are one module, which runs twice: leave both out")
        if any(isinstance(hook, Site) for hook in modules[name]._forward_hooks.values()):
            raise ValueError(f"{name} has a unit already: leave it out, or begin with a new model")
    return stages


def _matches(modules: Mapping[str, nn.Module], stage: str, chosen: Targets) -> Iterator[str]:
    patterns = [chosen] if isinstance(chosen, str) else list(chosen)
    if not patterns:
        raise ValueError(f"stage {stage!r} has no targets: name at least one module, or drop it")
    for pattern in patterns:
        parts = pattern.split(".")
        found = [
            name
            for name in modules
            if name == pattern
            or (
                len(name.split(".")) == len(parts) and all(map(fnmatchcase, name.split("."), parts))
            )
        ]
        if not found:
            close = get_close_matches(pattern, modules, n=3, cutoff=0.5) or list(modules)[:3]
            raise ValueError(
                f"{pattern!r} of stage {stage!r} matches no module; names are such as"
                f" {', '.join(close)}"
            )
        yield from found


def target_width(model: nn.Module, name: str, output: object, channels_last: bool) -> int | None:
    """Return how many channels a target gives out, or None where nothing tells it.

    Args:
        model: the model.
        name: of the target.
        output: what it returned for an example, or None to ask its attributes.
        channels_last: whether a four-dimensional output is (B, H, W, C).
    """
    if isinstance(output, Tensor) and output.dim() in (3, 4):
        return output.shape[-1] if output.dim() == 3 or channels_last else output.shape[1]
    module = model.get_submodule(name)
    for attribute in WIDTH_ATTRIBUTES:
        if type(getattr(module, attribute, None)) is int:
            return getattr(module, attribute)
    shape: Any = getattr(module, "normalized_shape", None)
    if isinstance(shape, list | tuple) and len(shape) == 1:
        return int(shape[0])
    means = getattr(module, "running_mean", None)  # torchvision's FrozenBatchNorm2d
    return len(means) if isinstance(means, Tensor) and means.ndim == 1 else None


def common_width(
    stage: str, found: Mapping[str, int | None], channels: int | None, *, has_example: bool
) -> int:
    """Return the width of a stage.

    Args:
        stage: its name.
        found: widths of its targets by name, None where they are not known.
        channels: the width that the user gave, or None. It goes before what attributes tell, which
            may mislead.
        has_example: whether the widths are those of outputs for an example, which must be the width
            given.

    Raises:
        ValueError: if a width is unknown, several are found, or an example has another one than
            was given.
    """
    if channels is not None:
        for name, width in found.items():
            if has_example and width not in (None, channels):
                raise ValueError(
                    f"{name} has {width} channels in example_input's pass, and channels={channels}"
                    " was given: change channels= or channels_last="
                )
        return channels
    first_of: dict[int | None, str] = {}
    for name, width in found.items():
        first_of.setdefault(width, name)
    if None in first_of:
        kind = f"{first_of[None]} of stage {stage!r}"
        raise ValueError(f"{kind} does not tell its width: give channels= or example_input=")
    if len(first_of) > 1:
        widths = ", ".join(f"{name} has {width} channels" for width, name in first_of.items())
        raise ValueError(
            f"stage {stage!r} mixes widths ({widths}): make one stage a width, as {{name: targets}}"
        )
    (width,) = first_of
    assert width is not None
    return width


def observe_targets(
    model: nn.Module, stages: Mapping[str, Sequence[str]], example_input: Tensor | tuple
) -> dict[str, object]:
    """Call the model once and return the outputs of all targets.

    It is called in evaluation mode and without gradients.

    Args:
        model: the model; its modes are put back.
        stages: names of the targets by stage.
        example_input: the model's argument, or a tuple of several.

    Raises:
        ValueError: if a target does not run exactly once, or those of a stage run in another order.
    """
    outputs = run_example(model, list(chain.from_iterable(stages.values())), example_input)
    for stage, expected in stages.items():
        order = [one for one in outputs if one in expected]
        if order != list(expected):
            raise ValueError(
                f"the targets of stage {stage!r} ran in another order: give the names as {order}"
            )
    return outputs


def run_example(
    model: nn.Module, names: Sequence[str], example_input: Tensor | tuple
) -> dict[str, object]:
    """Call the model once and return the outputs of some modules, in the order in which they ran.

    It is called in evaluation mode and without gradients.

    Args:
        model: the model; its modes are put back.
        names: of the modules.
        example_input: the model's argument, or a tuple of several.

    Raises:
        ValueError: if a module does not run exactly once.
    """
    outputs: dict[str, object] = {}
    counts: Counter[str] = Counter()

    def make_hook(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: object, output: object) -> None:
            counts[name] += 1
            outputs[name] = output

        return hook

    modes = {module: module.training for module in model.modules()}
    handles = [model.get_submodule(one).register_forward_hook(make_hook(one)) for one in names]
    try:
        model.eval()
        with torch.no_grad():
            model(*(example_input if isinstance(example_input, tuple) else (example_input,)))
    finally:
        for handle in handles:
            handle.remove()
        for module, is_training in modes.items():
            module.training = is_training
    for one in names:
        if counts[one] != 1:
            raise ValueError(
                f"{one} ran {counts[one]} times for example_input, not once: leave it out of"
                " targets"
            )
    return outputs
