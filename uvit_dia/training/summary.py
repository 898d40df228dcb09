"""What a training says on stdout when it begins and when it ends."""

import shlex
from pathlib import Path

from uvit_dia.config.places import shown_command
from uvit_dia.system.execution import Execution


def beginning(
    workdir: Path,
    step: int,
    *,
    num_processes: int,
    device: str,
    execution: Execution,
    asked: Execution,
    is_resumed: bool,
) -> str:
    """Return the line that says where a training begins, and how the network is computed.

    Args:
        workdir: the run's folder.
        step: optimizer steps done.
        num_processes: that train together.
        device: type of their devices, such as "cuda".
        execution: how the network is computed.
        asked: how the config asks for it, which may be "auto".
        is_resumed: whether a checkpoint was found.
    """
    verb = f"going on at step {step}" if is_resumed else "starting"
    chosen = [f"train.{name}" for name, value in vars(asked).items() if value == "auto"]
    why = f" ({' and '.join(chosen)} = auto)" if chosen else ""
    return f"{verb}: {workdir}, {num_processes} process(es) on {device}, {execution}{why}"


def ending(workdir: Path, step: int, weights: Path, loss: float | None) -> str:
    """Return what was trained, where it lies, and what to do with it next.

    Args:
        workdir: the run's folder.
        step: optimizer steps done.
        weights: folder of the last checkpoint.
        loss: mean over the last log window, if one was written.
    """
    measured = "" if loss is None else f", loss {loss:.4f}"
    return f"done: {step} steps{measured}; weights in {weights}\n{_next_commands(workdir)}"


def already_finished(workdir: Path, step: int, weights: Path, lr_schedule: str) -> str:
    """Return what is said where a finished run is started again, and what would make it longer."""
    longer = (
        f"to train it further, give --config.train.num_steps above {step}"
        if lr_schedule == "constant"
        else "its learning rate ends there: a longer training needs another --workdir"
    )
    return (
        f"finished: {workdir} has all its {step} steps; weights in {weights}; {longer}\n"
        f"{_next_commands(workdir)}"
    )


def _next_commands(workdir: Path) -> str:
    folder = shlex.quote(str(workdir))
    grid = shlex.quote(str(workdir / "grid.png"))
    return (
        "next:\n"
        f"  {shown_command('sample')} --checkpoint {folder} --output {grid}\n"
        f"  {shown_command('eval')} --checkpoint {folder}"
    )
