"""Targets in the order of the data, a stage for each run of equal widths.

`named_modules()` lists modules in the order in which they were registered, which need not be that
of the data: diffusers' UNets register their middle block last.
"""

from itertools import groupby

from torch import Tensor, nn

from uvit_dia.models.other_backbones.targets import (
    Targets,
    resolve_targets,
    run_example,
    target_width,
)


def stages_by_width(
    model: nn.Module,
    targets: Targets,
    example_input: Tensor | tuple,
    *,
    channels_last: bool = False,
) -> dict[str, list[str]]:
    """Divide targets into the stages that `share_attention` takes.

    The model is called once. Targets that follow each other in that call and have the same width
    become one stage, as the stages of a ResNet in DIANet. A UNet gets a stage for each width on the
    way down, one around the middle, and one for each width on the way up.

    Args:
        model: any torch model; it is not changed.
        targets: names of modules, or patterns, as for `share_attention`; their order is not used.
        example_input: what the model is called with (a tuple for several arguments), in evaluation
            mode and without gradients.
        channels_last: whether four-dimensional outputs of targets are (B, H, W, C).

    Returns:
        {"stage1": names, "stage2": names, ...}, all in the order of the data.

    Raises:
        ValueError: if a pattern matches nothing, or a target does not run exactly once, or has no
            width.
    """
    names = resolve_targets(model, targets)["stage"]
    widths: dict[str, int] = {}
    for name, output in run_example(model, names, example_input).items():
        width = target_width(model, name, output, channels_last)
        if width is None:
            raise ValueError(
                f"{name} returns no tensor (B, C, H, W) or (B, L, C): leave it out of targets"
            )
        widths[name] = width
    runs = [list(run) for _, run in groupby(widths, key=widths.__getitem__)]
    return {f"stage{number}": run for number, run in enumerate(runs, start=1)}
