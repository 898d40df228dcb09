"""The Accelerator: devices, processes, precision and compilation of a command."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import (
    DistributedType,
    DynamoBackend,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    TorchDynamoPlugin,
    gather_object,
    parse_flag_from_env,
)

from uvit_dia.system import launch
from uvit_dia.system.errors import InputError, LostContactError
from uvit_dia.system.execution import Execution, choose_execution, contradictions
from uvit_dia.system.messages import clip
from uvit_dia.system.notices import told_if_slow, warn
from uvit_dia.system.processes import failing_together, is_lost_contact

KNOWN_LAUNCHES = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
PROCESS_TIMEOUT_MINUTES = 30.0  # the main process may compute metrics while others wait
PORT_IN_USE = ("EADDRINUSE", "address already in use", "Address already in use")
# Accelerate allows TF32, a shorter float32, wherever it compiles float32 networks. What is asked
# for as float32 is computed so, unless the user allows it before.
_TF32_OF_USER = torch.backends.cuda.matmul.allow_tf32


def make_accelerator(
    *,
    mixed_precision: str = "no",
    compile: bool | str = False,
    begun: Execution | None = None,
    accumulation_steps: int | None = None,
    max_grad_norm: float = 0.0,
    workdir: Path | None = None,
    tracker: str = "none",
    process_timeout_minutes: float = PROCESS_TIMEOUT_MINUTES,
) -> Accelerator:
    """Make the Accelerator of a command; that of an earlier one of this process is forgotten.

    Long because every setting of a launch is met here once.

    What the config says holds over what the launcher says, and a warning of one line names what
    does not hold. Where the config says "auto", see `choose_execution`.

    Args:
        mixed_precision: "no", "bf16" or "auto".
        compile: whether the network is compiled, or "auto".
        begun: how the run that is resumed was computed so far, if one is.
        accumulation_steps: the config's, for the warning; None for a command that does not train.
        max_grad_norm: the config's, for the warning.
        workdir: the run's folder, for trackers.
        tracker: its name, or "none".
        process_timeout_minutes: how long processes wait for one another before they give up.

    Raises:
        InputError: if the launch is not one that works, such as several processes that each believe
            to be alone; or if precision or compilation cannot be as asked.
        LostContactError: if the processes do not find one another.
    """
    launch.check_launch()
    _refuse_foreign_launchers()
    settings = launch.launcher_settings()
    timeout = InitProcessGroupKwargs(timeout=timedelta(minutes=process_timeout_minutes))
    device = _meet(timeout).type
    asked = Execution(mixed_precision, compile)
    has_bf16 = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    with failing_together():
        execution = choose_execution(asked, begun, settings, device=device, has_bf16=has_bf16)
    execution = gather_object([execution])[0]  # the first process decides for all
    project = None
    if workdir is not None:
        project = ProjectConfiguration(
            project_dir=str(workdir), logging_dir=str(workdir / "tensorboard")
        )
    with _launch_errors():
        accelerator = Accelerator(
            mixed_precision=execution.mixed_precision,
            log_with=None if tracker == "none" else tracker,
            project_config=project,
            # the trainer counts parts itself
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            dynamo_plugin=TorchDynamoPlugin(backend="inductor" if execution.compile else "no"),
            kwargs_handlers=[timeout],
        )
    torch.backends.cuda.matmul.allow_tf32 = _TF32_OF_USER
    _check_processes(accelerator)
    for line in contradictions(
        asked,
        execution,
        begun,
        settings,
        accumulation_steps=accumulation_steps,
        max_grad_norm=max_grad_norm,
    ):
        warn(line)
    return accelerator


def execution_of(accelerator: Accelerator) -> Execution:
    """Return how an Accelerator has networks computed."""
    backend = accelerator.state.dynamo_plugin.backend
    return Execution(accelerator.mixed_precision, compile=backend != DynamoBackend.NO)


def _meet(timeout: InitProcessGroupKwargs) -> torch.device:
    """Bring the processes of the launch together; return the device of this one.

    What an earlier Accelerator of this Python process left behind is forgotten first, but for the
    processes' contact: Accelerate keeps one precision a process, and torch a limited number of
    compiled networks.
    """
    AcceleratorState._reset_state()
    GradientState._reset_state()
    torch.compiler.reset()
    with _launch_errors(), told_if_slow("waiting for the other processes of the launch"):
        is_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
        gpus = 0 if is_cpu or "LOCAL_RANK" not in os.environ else torch.cuda.device_count()
        if 0 < gpus <= launch.local_rank():
            raise InputError(
                f"LOCAL_RANK = {launch.local_rank()}: this machine has {gpus} GPU(s), and each "
                "process needs one of its own"
            )
        _wait_for_first_process(timeout)
        return PartialState(cpu=is_cpu, **timeout.to_kwargs()).device


@contextmanager
def _launch_errors() -> Iterator[None]:
    """Tell in one line what Accelerate and torch find wrong with the launch.

    All it depends on is the environment.
    """
    try:
        yield
    except (InputError, LostContactError):
        raise
    except (RuntimeError, ValueError, ImportError) as error:
        PartialState._reset_state()  # which may be there by half
        if is_lost_contact(error) and any(words in str(error) for words in PORT_IN_USE):
            raise InputError(
                f"MASTER_PORT = {os.environ.get('MASTER_PORT')} is in use on this machine; "
                "choose another"
            ) from error
        if is_lost_contact(error):
            raise _did_not_meet(error) from error
        if isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError):
            raise
        raise InputError(f"Accelerate cannot start: {clip(error)}") from error


def _wait_for_first_process(timeout: InitProcessGroupKwargs) -> None:
    assert timeout.timeout is not None  # set by who made it
    try:
        launch.wait_for_first_process(timeout.timeout.total_seconds())
    except OSError as error:
        raise _did_not_meet(error) from error


def _did_not_meet(error: Exception) -> LostContactError:
    address = ":".join(os.environ.get(f"MASTER_{part}", "?") for part in ("ADDR", "PORT"))
    return LostContactError(
        f"the processes of the launch did not all meet at {address}: {clip(error, 90)}"
    )


def _refuse_foreign_launchers() -> None:
    """Refuse kinds of training that the trainer does not know; their packages may be missing."""
    for kind in ("DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"):
        if os.environ.get(f"ACCELERATE_USE_{kind}", "false").lower() in ("1", "true"):
            raise InputError(_launch_message(kind))


def _check_processes(accelerator: Accelerator) -> None:
    """Refuse launches the trainer does not know, and processes that do not know each other."""
    kind = accelerator.distributed_type
    if kind not in KNOWN_LAUNCHES and not accelerator.is_fsdp2:
        name = "FSDP of version 1" if kind == DistributedType.FSDP else kind.value
        raise InputError(_launch_message(name))
    launched = launch.num_launched()
    if launched != accelerator.num_processes:
        raise InputError(
            f"{launched} processes were launched, but each believes to be one of "
            f"{accelerator.num_processes}; on CPU launch with ACCELERATE_USE_CPU=true torchrun "
            "--nproc_per_node N train.py ..."
        )


def _launch_message(name: str) -> str:
    return (
        f"the launcher asks for {name}; supported are one process, DDP (accelerate launch "
        "--multi_gpu) and FSDP2 (accelerate launch --use_fsdp --fsdp_version 2)"
    )
