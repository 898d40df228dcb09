"""What a test sees of a training run from within."""

from torch import Tensor

from uvit_dia.training.trainer import Trainer


def spy_on_inputs(trainer: Trainer) -> list[tuple[Tensor, Tensor]]:
    """Return a list that gets x_t and timesteps of each forward pass to come."""
    seen: list[tuple[Tensor, Tensor]] = []
    trainer.model.register_forward_pre_hook(lambda _, inputs: seen.append((inputs[0], inputs[1])))
    return seen
