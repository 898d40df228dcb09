"""Previews and evaluations: what a run does every so many steps with its averaged model."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from uvit_dia.system.errors import NonFiniteImagesError
from uvit_dia.training.log import TrainLog


@dataclass(frozen=True)
class PeriodicTask:
    """Something done with the averaged model every so many steps, on all processes together.

    Attributes:
        every_steps: 0 for never.
        run: called with the step and the averaged model; what it returns is logged. It may raise a
            `NonFiniteImagesError`, on all processes, which is logged too and does not end the run.
    """

    every_steps: int
    run: Callable[[int, nn.Module], dict[str, object]]

    def is_due(self, step: int) -> bool:
        """Say whether the task runs after a step."""
        return bool(self.every_steps) and step % self.every_steps == 0


def run_task(task: PeriodicTask, step: int, model: nn.Module, log: TrainLog) -> None:
    """Run a task and log its values.

    Images that are not finite are recorded and do not end the run, since the weights are finite.
    """
    try:
        values = task.run(step, model)
    except NonFiniteImagesError as error:
        log.warn(f"step {step}: {error}")
        values = {"nonfinite_images": 1}
    if values:
        log.record(step, values)
