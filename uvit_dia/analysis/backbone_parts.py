"""What the analyses of any model share: its stages, the images it is shown, its modes."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uvit_dia.models.other_backbones.hooks import SharedAttention
from uvit_dia.models.other_backbones.stage import Stage
from uvit_dia.system.errors import InputError, nearest

Loader = Iterable[Tensor | tuple | list]
Batch = tuple[Tensor, ...]  # images, and what comes with them
Loss = Callable[[nn.Module, Batch], Tensor]  # -> mean loss of the images, ()
DEFAULT_NUM_IMAGES = 256


def stages_of(model: nn.Module) -> dict[str, Stage]:
    """Return the stages of a model by name.

    Raises:
        InputError: if it has no unit.
    """
    found = {
        name: part
        for holder in model.modules()
        if isinstance(holder, SharedAttention)
        for name, part in holder.items()
        if isinstance(part, Stage)
    }
    if not found:
        raise InputError("the model has no attention unit; call share_attention(model, ...) first")
    return found


def find_stage(model: nn.Module, stage: str | None = None) -> tuple[str, Stage]:
    """Find a stage of a model with `share_attention`.

    Args:
        model: with units.
        stage: its name; None for the only one.

    Returns:
        The stage's name, and the stage.

    Raises:
        InputError: if the model has no unit, or no such stage, or several and none is named.
    """
    found = stages_of(model)
    if stage is None and len(found) > 1:
        raise InputError(f"the model has several stages; name one of {', '.join(found)}")
    name = next(iter(found)) if stage is None else stage
    if name not in found:
        hint = nearest(name, found)
        raise InputError(f"there is no stage {name!r}; allowed is {', '.join(found)}{hint}")
    return name, found[name]


def device_of(module: nn.Module) -> torch.device:
    """Return where a module computes; the CPU for one without weights and buffers."""
    tensors = [*module.parameters(), *module.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def check_num_images(seen: int, least: int = 2) -> None:
    """Refuse a loader that yielded too few images.

    Raises:
        InputError: saying how many are needed.
    """
    if seen < least:
        raise InputError(f"the loader yields {seen} images; an analysis needs {least} or more")


def first_batches(loader: Loader, num_images: int, device: torch.device) -> Iterator[Batch]:
    """Yield the first images of a loader and whatever tensors come with them, on the device.

    Args:
        loader: yields images (B, ...), or tuples whose first part they are, as a DataLoader does.
        num_images: how many, at most.
        device: where to.

    Raises:
        InputError: if `num_images` is below 2, or the loader yields something else.
    """
    if num_images < 2:
        raise InputError(f"num_images={num_images}: allowed is 2 or more")
    left = num_images
    for batch in loader:
        parts = tuple(batch) if isinstance(batch, tuple | list) and batch else (batch,)
        if not isinstance(parts[0], Tensor) or parts[0].dim() < 2:
            raise InputError(
                f"the loader yields {type(batch).__name__}; it must yield images (B, ...), or"
                " tuples whose first part they are"
            )
        yield tuple(part[:left].to(device) for part in parts if isinstance(part, Tensor))
        left -= len(parts[0])
        if left <= 0:
            return


def class_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of a classifier, ().

    Args:
        model: maps images to logits (B, K).
        batch: images and labels, (B,) int64.

    Raises:
        InputError: if there are no labels, or the model returns something else.
    """
    if len(batch) < 2 or batch[1].shape != batch[0].shape[:1] or batch[1].dtype != torch.int64:
        raise InputError(
            "the loader yields no labels (B,) int64 with its images; give (images, labels), or"
            " loss="
        )
    logits = model(batch[0])
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise InputError("the model does not return logits (B, K); give loss= of its own")
    return F.cross_entropy(logits.float(), batch[1])


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Return a context in which a model is in evaluation mode; its modes are put back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, is_training in modes.items():
            module.training = is_training
