"""The Accelerator: devices, processes and precision of a command."""

import os
from datetime import timedelta
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import (
    DistributedType,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    TorchDynamoPlugin,
)

from uvit_dia.system.errors import InputError

KNOWN_LAUNCHES = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


PROCESS_TIMEOUT_MINUTES = 30.0  # the main process may compute metrics while others wait


def make_accelerator(
    *,
    mixed_precision: str = "no",
    compile: bool = False,
    workdir: Path | None = None,
    tracker: str = "none",
    process_timeout_minutes: float = PROCESS_TIMEOUT_MINUTES,
) -> Accelerator:
    """Make the Accelerator; what the config says wins over what a launcher's defaults say.

    Args:
        mixed_precision: "no" or "bf16".
        compile: whether the network is compiled.
        workdir: the run's folder, for trackers.
        tracker: its name, or "none".
        process_timeout_minutes: how long processes wait for one another before they give up.

    Raises:
        InputError: if several processes were launched that each believe to be alone, or in a way that the trainer
            does not know.
    """
    for kind in ("DEEPSPEED", "MEGATRON_LM"):  # before Accelerate looks for their packages
        if os.environ.get(f"ACCELERATE_USE_{kind}", "false").lower() in ("1", "true"):
            raise InputError(_launch_message(kind))
    project = None
    if workdir is not None:
        project = ProjectConfiguration(
            project_dir=str(workdir), logging_dir=str(workdir / "tensorboard")
        )
    accelerator = Accelerator(
        mixed_precision=mixed_precision,
        log_with=None if tracker == "none" else tracker,
        project_config=project,
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=1
        ),  # the trainer counts parts itself
        dynamo_plugin=TorchDynamoPlugin(backend="inductor" if compile else "no"),
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=timedelta(minutes=process_timeout_minutes))
        ],
    )
    kind = accelerator.distributed_type
    if kind not in KNOWN_LAUNCHES and not accelerator.is_fsdp2:
        name = "FSDP of version 1" if kind == DistributedType.FSDP else kind.value
        raise InputError(_launch_message(name))
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise InputError(
            f"{launched} processes were launched, but each believes to be one of {accelerator.num_processes}; "
            "on CPU launch with ACCELERATE_USE_CPU=true torchrun --nproc_per_node N train.py ..."
        )
    return accelerator


def _launch_message(name: str) -> str:
    return (
        f"the launcher asks for {name}; supported are one process, DDP (accelerate launch --multi_gpu) and FSDP2 "
        "(accelerate launch --use_fsdp --fsdp_version 2)"
    )
