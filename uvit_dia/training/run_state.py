"""What a checkpoint of a training run holds, saved and restored on all processes together."""

from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from uvit_dia.runs import state as training_state
from uvit_dia.runs.resume import RunCheckpoints, choose_together


class RunState:
    """The weights, their average and the optimizer of a run, and its checkpoints.

    Args:
        accelerator: the processes.
        model: the prepared network.
        averaged: the averaged network.
        optimizer: torch's optimizer.
        checkpoints: of this run.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        averaged: nn.Module,
        optimizer: Optimizer,
        checkpoints: RunCheckpoints,
    ) -> None:
        self.accelerator = accelerator
        self.parts = (model, averaged, optimizer)
        self.checkpoints = checkpoints

    def save(self, step: int, window: Tensor) -> None:
        """Commit a checkpoint of a step with the log's open window; call it on all processes."""
        files = training_state.collect(*self.parts, window)
        if self.accelerator.is_main_process:
            self.checkpoints.save(step, files)
        self.accelerator.wait_for_everyone()

    def restore(
        self, *, allow_other_world_size: bool, allow_other_data: bool
    ) -> tuple[int, Tensor] | None:
        """Load the newest undamaged checkpoint; return its step and log window, or None.

        Raises:
            InputError: if there are checkpoints that this run cannot go on from, see
                `RunCheckpoints.to_resume`, or if the processes see different ones.
        """
        expected = training_state.expected(*self.parts)
        checkpoint = choose_together(
            lambda: self.checkpoints.to_resume(
                expected,
                allow_other_world_size=allow_other_world_size,
                allow_other_data=allow_other_data,
            ),
            self.checkpoints.data,
        )
        if checkpoint is None:
            return None
        files = {name: checkpoint.tensors(name) for name in training_state.FILES}
        training_state.restore(*self.parts, files)
        return checkpoint.step, files["window"]["window"]
