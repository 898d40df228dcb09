"""Gradients of the training loss at chosen modules of any model (Fig. 13, arXiv:2210.16101).

What is differentiated is each image's own loss, by what a module gives to what follows; where a
unit gates the module, by the gated output. In a residual block `x + f(x) ⊗ h` that is the gradient
by the sum, too. The model is in evaluation mode, so that images do not meet in a normalisation.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from uvit_dia.analysis.backbone_parts import (
    DEFAULT_NUM_IMAGES,
    Batch,
    Loader,
    Loss,
    check_num_images,
    class_loss,
    device_of,
    evaluation_mode,
    first_batches,
)
from uvit_dia.analysis.gradient_statistics import (
    BlockGradients,
    gradient_statistics,
    one_order_of_sums,
)
from uvit_dia.models.other_backbones.stage import NO_BACKWARD, running_backward
from uvit_dia.system.errors import InputError


def target_gradients(
    model: nn.Module,
    names: Sequence[str],
    loader: Loader,
    *,
    loss: Loss = class_loss,
    num_images: int = DEFAULT_NUM_IMAGES,
    seed: int = 0,
) -> BlockGradients:
    """Differentiate each image's loss by the outputs of modules, with or without units.

    Args:
        model: any model; its weights, their gradients and its modes stay as they are.
        names: of modules that run once a pass and return one tensor (B, ...), in any shapes.
        loader: yields what `loss` takes; the images come first.
        loss: maps (model, batch) to the mean loss of the images, (). An image's loss must not
            depend on the others.
        num_images: of the loader's first images, at most.
        seed: of the entries whose quantiles are taken.

    Returns:
        Numbers of each module, in the order of `names`.

    Raises:
        InputError: if a module did not run once, or the loss does not depend on it, or there are
            fewer than two images.
    """
    device = device_of(model)
    seen = 0

    def gradients() -> Iterator[Sequence[Tensor]]:
        nonlocal seen
        for batch in first_batches(loader, num_images, device):
            yield _of_batch(model, names, batch, loss)
            seen += len(batch[0])
        check_num_images(seen)

    with evaluation_mode(model), one_order_of_sums(device):
        return gradient_statistics(gradients(), seed)


def _of_batch(model: nn.Module, names: Sequence[str], batch: Batch, loss: Loss) -> Sequence[Tensor]:
    """Return the gradient of each image's loss by each module's output, each (b, ...)."""
    images, *others = batch
    images = images.detach()  # a tensor of our own: the graph starts at it where weights are frozen
    if images.is_floating_point():
        images.requires_grad_(True)
    with torch.enable_grad(), _outputs_of(model, names) as outputs:
        total = loss(model, (images, *others)) * len(images)  # the sum of the images' own losses
        for name in names:
            if name not in outputs:
                raise InputError(f"{name} did not run, or without gradients; leave it out")
        found = torch.autograd.grad(total, [outputs[name] for name in names], allow_unused=True)
    for name, gradient in zip(names, found, strict=True):
        if gradient is None:
            raise InputError(f"the loss does not depend on {name}; leave it out")
    return [gradient for gradient in found if gradient is not None]


@contextmanager
def _outputs_of(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of modules, with graph; what follows gets a copy to work in place on."""
    outputs: dict[str, Tensor] = {}

    def keeper(name: str) -> Callable[..., Tensor]:
        def keep(module: nn.Module, inputs: object, output: object) -> Tensor:
            if not isinstance(output, Tensor):
                raise InputError(f"{name} returns {type(output).__name__}, not one tensor")
            if running_backward() == NO_BACKWARD:  # and not recomputed by gradient checkpointing
                if name in outputs:
                    raise InputError(f"{name} ran twice in one pass; leave it out")
                if output.requires_grad:
                    outputs[name] = output
            return output.clone()

        return keep

    with ExitStack() as stack:
        for name in names:
            handle = model.get_submodule(name).register_forward_hook(keeper(name))
            stack.callback(handle.remove)
        yield outputs
