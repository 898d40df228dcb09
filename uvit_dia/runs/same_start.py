"""The processes of a run begin at the same checkpoint, or none of them begins.

Each process looks for the newest checkpoint itself. Where the run's folder lies on each machine's own disk, or one
machine's view of a network folder is old, they find different ones, and would train on from different steps.
"""

from collections.abc import Callable
from dataclasses import dataclass

from accelerate.utils import gather_object

from uvit_dia.runs.checkpoint import Checkpoint
from uvit_dia.system.errors import InputError
from uvit_dia.system.processes import failing_together


@dataclass(frozen=True)
class _Start:
    """Where a process would begin.

    Attributes:
        step: of its checkpoint; 0 without one.
        sha256: of its checkpoint; None without one.
    """

    step: int
    sha256: str | None


def choose_together(choose: Callable[[], Checkpoint | None]) -> Checkpoint | None:
    """Choose the checkpoint to go on from, the same on all processes; call it on all of them.

    Args:
        choose: returns what this process would go on from, or None for a new run.

    Returns:
        What `choose` returned.

    Raises:
        InputError: on all processes, if `choose` raised one on any, or if they would begin at different checkpoints.
    """
    with failing_together(InputError):
        checkpoint = choose()
    mine = _Start(0, None) if checkpoint is None else _Start(checkpoint.step, checkpoint.sha256)
    starts: list[_Start] = gather_object([mine])
    for process, start in enumerate(starts):
        if start != starts[0]:
            raise InputError(
                f"process {process} sees {_describe(start)}, process 0 {_describe(starts[0])}; "
                "--workdir must be one folder that all machines share"
            )
    return checkpoint


def _describe(start: _Start) -> str:
    if start.sha256 is None:
        return "no checkpoint"
    return f"step {start.step} ({start.sha256[:8]})"
