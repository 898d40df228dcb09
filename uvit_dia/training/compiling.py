"""Compilation of the network, as a phase of its own that can be interrupted."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import nn

from uvit_dia.system.compilation import compile_errors_told
from uvit_dia.system.errors import InputError, StoppedEarly
from uvit_dia.system.signals import StoppedAtOnce, StopRequest
from uvit_dia.training.log import TrainLog
from uvit_dia.training.stability import buffers_kept


@contextmanager
def compiling(stop: StopRequest, log: TrainLog, model: nn.Module, step: int) -> Iterator[None]:
    """Run the passes that compile a network within this context; its buffers stay as they were.

    It takes minutes and belongs to no step, so one process alone can be stopped at once. Several
    processes finish it together; what a Ctrl-C did to the compiler of one of them counts as having
    been stopped.

    Raises:
        StoppedEarly: after a stop signal.
        InputError: if the network cannot be compiled.
    """
    try:
        with (
            log.told_compiling(),
            compile_errors_told(),
            buffers_kept(model),
            stop.at_once() if log.accelerator.num_processes == 1 else nullcontext(),
        ):
            yield
    except (StoppedAtOnce, InputError) as error:
        if not stop:
            raise
        raise StoppedEarly(
            f"stopped by {stop.signal_name} while the network was compiled, at step {step}; "
            "nothing is lost, resume with the same command"
        ) from error
