"""Grad-CAM (arXiv:1610.02391) of a classifier, with or without `share_attention`, and its pictures.

The maps are those of the package grad-cam: `pip install -e '.[examples]'`. Here are the choice of
the layer, the checks, how much of the heat lies in a mask, and pictures side by side (Fig. 9 of
arXiv:2210.16101).

    layer: the module whose output is weighed, such as "layer4" of a ResNet or "blocks.11.norm1" of
        a ViT; of a module that `share_attention` gates, what is weighed has been gated
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from uvit_dia.plots.style import figure, png_bytes
from uvit_dia.system.errors import InputError, nearest
from uvit_dia.system.files import write_atomically

BATCH_SIZE = 32
COLOURS = "inferno"  # grows in lightness, so that it reads without colour
MAX_OPACITY = 0.65  # of the hottest place over the image
INCHES = 1.5  # of a picture


def heat_maps(
    model: nn.Module,
    images: Tensor,
    classes: Sequence[int],
    layer: str,
    *,
    num_extra_tokens: int = 0,
    grid: tuple[int, int] | None = None,
) -> np.ndarray:
    """Return where in its image a model finds each class.

    The model may be frozen: gradients are asked of the images. Modes are put back; gradients that
    were stored on the weights are dropped.

    Args:
        model: maps images to logits (N, K).
        images: (N, C, H, W) as the model takes them.
        classes: one for each image.
        layer: name of a module whose output is (N, D, h, w) or (N, L, D).
        num_extra_tokens: class and register tokens before the patches, of outputs (N, L, D).
        grid: rows and columns of the patches, of outputs (N, L, D); None for a square.

    Returns:
        (N, H, W) float32 in [0, 1]; 0 everywhere where nothing speaks for the class.

    Raises:
        InputError: if the package is not there, the layer does not exist, does not run once in a
            pass, gives out something else, or no gradient reaches it.
    """
    make_cam = _package()
    if len(classes) != len(images):
        raise InputError(f"{len(images)} images need as many classes, got {len(classes)}")
    module = dict(model.named_modules()).get(layer)
    if module is None or not layer:
        names = [name for name, _ in model.named_modules()]
        raise InputError(f"there is no layer {layer!r}{nearest(layer, names)}")
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        with torch.enable_grad():
            output = _look_at(model, images[:1], module, layer)
            reshape = None
            if output.dim() == 3:
                reshape = partial(_to_map, grid=_grid(output, num_extra_tokens, grid, layer))
            cam = make_cam(model=model, target_layers=[module], reshape_transform=reshape)
            cam.compute_input_gradient = True  # so that frozen weights do no harm
            try:
                return _in_batches(cam, images, classes, int(model(images[:1]).shape[1]))
            finally:
                cam.activations_and_grads.release()
    finally:
        model.zero_grad(set_to_none=True)
        for part, is_training in modes.items():
            part.training = is_training


def _package() -> Callable[..., Any]:
    try:
        from pytorch_grad_cam import GradCAM
    except ImportError as error:
        raise InputError(
            f"Grad-CAM needs the package grad-cam ({error}): pip install -e '.[examples]'"
        ) from error
    return GradCAM


def _look_at(model: nn.Module, image: Tensor, module: nn.Module, layer: str) -> Tensor:
    """Return what a layer gives out for an image, once it is known that Grad-CAM can use it."""
    outputs: list[object] = []
    hook = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        model(image.detach().clone().requires_grad_())
    finally:
        hook.remove()
    if len(outputs) != 1:
        raise InputError(
            f"layer {layer!r} runs {len(outputs)} times in a pass, not once: choose a module that "
            "the model calls once (what its forward computes by functions has no hooks)"
        )
    (output,) = outputs
    if not isinstance(output, Tensor) or output.dim() not in (3, 4):
        found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(
            f"layer {layer!r} gives out {found}; Grad-CAM needs (N, D, h, w) or (N, L, D): choose a"
            " layer before the mean over positions"
        )
    if not output.requires_grad:
        raise InputError(
            f"no gradient reaches layer {layer!r}: the model computes it under torch.no_grad or "
            "detaches it; choose a later layer"
        )
    return output


def _grid(
    output: Tensor, num_extra_tokens: int, grid: tuple[int, int] | None, layer: str
) -> tuple[int, int]:
    patches = output.shape[1] - num_extra_tokens
    side = int(max(patches, 0) ** 0.5)
    rows, columns = grid or (side, side)
    if patches < 1 or rows * columns != patches:
        raise InputError(
            f"layer {layer!r} gives out {output.shape[1]} tokens, {num_extra_tokens} of them extra;"
            f" the others are no grid of {rows} x {columns}: change num_extra_tokens or grid"
        )
    return rows, columns


def _to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Map (N, L, D) to (N, D, rows, columns)."""
    rows, columns = grid
    patches = tokens[:, tokens.shape[1] - rows * columns :]
    return patches.transpose(1, 2).unflatten(2, (rows, columns))


def _in_batches(cam: Any, images: Tensor, classes: Sequence[int], known: int) -> np.ndarray:  # noqa: ANN401
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    wrong = [each for each in classes if not 0 <= each < known]
    if wrong:
        raise InputError(f"class {wrong[0]}: the model has classes 0 to {known - 1}")
    maps = []
    for start in range(0, len(images), BATCH_SIZE):
        part = slice(start, start + BATCH_SIZE)
        targets = [ClassifierOutputTarget(int(each)) for each in classes[part]]
        maps.append(cam(input_tensor=images[part], targets=targets))
    return np.concatenate(maps).astype(np.float32)


def share_inside(heat: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return which part of the heat lies inside of the masks.

    Args:
        heat: (N, H, W), as `heat_maps` returns it.
        masks: (N, H, W), true inside.

    Returns:
        (N,) in [0, 1]; NaN where an image has no heat or an empty mask.

    Raises:
        InputError: if the sizes differ.
    """
    if heat.shape != masks.shape:
        raise InputError(
            f"masks of shape {list(masks.shape)} do not fit heat maps of {list(heat.shape)}: give "
            "one mask an image, in the size of the images"
        )
    inside = (heat * masks.astype(bool)).sum(axis=(1, 2), dtype=np.float64)
    total = heat.sum(axis=(1, 2), dtype=np.float64)
    is_known = (total > 0) & masks.any(axis=(1, 2))
    return np.where(is_known, inside / np.where(total > 0, total, 1), np.nan)


def draw_side_by_side(
    path: Path,
    images: np.ndarray,
    maps: Mapping[str, np.ndarray],
    titles: Sequence[str],
    masks: np.ndarray | None = None,
) -> None:
    """Write a PNG: a row an image, and in it the image and one column for each model's map.

    Args:
        path: of the picture.
        images: (N, H, W) or (N, H, W, 3), uint8.
        maps: heat, (N, H, W) each, by the name of its column.
        titles: one an image, written at its left.
        masks: (N, H, W), whose outline is drawn; None for none.
    """
    rows, columns = len(images), 1 + len(maps)
    with figure(INCHES * rows + 0.4, width=INCHES * columns + 0.6) as drawn:
        axes = drawn.subplots(rows, columns, squeeze=False)
        for row, image in enumerate(images):
            for column, name in enumerate(["image", *maps]):
                place = axes[row, column]
                place.imshow(image, cmap="gray", vmin=0, vmax=255)
                if name in maps and column:
                    heat = maps[name][row]
                    opacity = MAX_OPACITY * heat
                    place.imshow(heat, cmap=COLOURS, vmin=0, vmax=1, alpha=opacity)
                if masks is not None and masks[row].any():
                    place.contour(masks[row], levels=[0.5], colors="#56B4E9", linewidths=1)
                place.grid(visible=False)
                place.set_xticks([])
                place.set_yticks([])
                if not row:
                    place.set_title(name)
            axes[row, 0].set_ylabel(titles[row])
        write_atomically(path, png_bytes(drawn))
