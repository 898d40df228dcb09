"""What a launcher of several processes says in the environment.

Ranks, and settings of its own. Needs no torch.
"""

import os
import socket
import time
from dataclasses import dataclass
from pathlib import PurePath

from uvit_dia.system.errors import InputError

# As Accelerate looks for them: torchrun's names, then those of the kinds of MPI.
RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
LOCAL_RANK = (
    "LOCAL_RANK",
    "MPI_LOCALRANKID",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MV2_COMM_WORLD_LOCAL_RANK",
)
WORLD_SIZE = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
NUMBERS = dict.fromkeys((*RANK, *LOCAL_RANK, *WORLD_SIZE), 2**31) | {"MASTER_PORT": 65536}

LAUNCHERS = (
    "accelerate",
    "accelerate-launch",
    "accelerate.commands.accelerate_cli",
    "accelerate.commands.launch",
    "torch.distributed.launch",
    "torch.distributed.run",
    "torchrun",
)
RETRY_SECONDS = 0.2
COMPILE_SWITCHES = ("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE")


def rank() -> int:
    """Return the number of this process among all of its launch; 0 where it was started alone."""
    return _number(RANK, 0)


def local_rank() -> int:
    """Return the number of this process among those of its launch on this machine."""
    return _number(LOCAL_RANK, rank())


def num_launched() -> int:
    """Return how many processes were launched together."""
    return _number(WORLD_SIZE, 1)


def _number(names: tuple[str, ...], default: int) -> int:
    for name in names:
        value = os.environ.get(name, "")
        if value.isdecimal():
            return int(value)
    return default


def check_launch() -> None:
    """Check what the environment says of the launch, before any process looks for the others.

    Raises:
        InputError: naming the variable, what was found and what is allowed.
    """
    for name, limit in NUMBERS.items():
        value = os.environ.get(name)
        if value is not None and not (value.isdecimal() and int(value) < limit):
            raise InputError(
                f"{name} = {value!r:.40} in the environment: allowed is 0 to {limit - 1}"
            )
    launched = num_launched()
    if launched == 1:
        return
    if not any(name in os.environ for name in RANK):
        raise InputError(
            f"WORLD_SIZE = {launched} in the environment, but RANK is missing; start the processes "
            "with torchrun or accelerate launch, or set RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR "
            "and MASTER_PORT for each"
        )
    if rank() >= launched:
        raise InputError(
            f"RANK = {rank()} in the environment: allowed is 0 to {launched - 1} "
            f"(WORLD_SIZE = {launched})"
        )
    if not os.environ.get("MASTER_ADDR"):
        raise InputError(
            f"WORLD_SIZE = {launched} in the environment, but MASTER_ADDR is missing; it is the "
            "address of the machine of RANK 0"
        )


def wait_for_first_process(timeout_seconds: float) -> None:
    """Wait until the process of rank 0 can be reached; no others wait, and it does not itself.

    Torch waits too, but tells stderr of every try and, at the end, where in its code it was.

    Raises:
        OSError: the reason of the last try, once the time is over.
    """
    if num_launched() == 1 or rank() == 0:
        return
    end = time.monotonic() + timeout_seconds
    address = (os.environ["MASTER_ADDR"], int(os.environ.get("MASTER_PORT", "0")))
    while True:
        left = end - time.monotonic()
        try:
            socket.create_connection(address, timeout=max(left, 0.1)).close()
        except OSError:
            if left < RETRY_SECONDS:
                raise
            time.sleep(RETRY_SECONDS)
        else:
            return


# ---------------------------------------------------------------- the launcher


def launcher_words() -> list[str]:
    """Return the command line of the launcher that started this process.

    Empty where none of the known ones did.
    """
    import psutil

    try:
        words = psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        return []
    is_launcher = any(PurePath(word).name in LAUNCHERS for word in words[:4])
    return words if is_launcher else []


@dataclass(frozen=True)
class LauncherSettings:
    """What `accelerate launch`, `accelerate config` or the environment ask for beside the config.

    None for nothing.

    Attributes:
        mixed_precision: such as "bf16".
        dynamo_backend: of torch.compile, such as "inductor", or "no".
        accumulation_steps: parts of a batch.
        max_grad_norm: to which gradients are clipped.
        compile_disabled_by: the variable that turns torch.compile off.
    """

    mixed_precision: str | None = None
    dynamo_backend: str | None = None
    accumulation_steps: int | None = None
    max_grad_norm: float | None = None
    compile_disabled_by: str | None = None


def launcher_settings() -> LauncherSettings:
    """Read the settings of the launcher.

    From its flags, of which Accelerate passes on some only, or the environment.

    Raises:
        InputError: naming a flag or variable that holds no number.
    """
    flags = _flags(launcher_words())
    off = (name for name in COMPILE_SWITCHES if os.environ.get(name) == "1")
    steps = _setting(flags, "gradient_accumulation_steps", "GRADIENT_ACCUMULATION_STEPS", "auto")
    norm = _setting(flags, "gradient_clipping", "GRADIENT_CLIPPING", "auto")
    return LauncherSettings(
        mixed_precision=_setting(flags, "mixed_precision", "MIXED_PRECISION", "no"),
        dynamo_backend=_setting(flags, "dynamo_backend", "DYNAMO_BACKEND", "no"),
        accumulation_steps=None if steps is None else int(_as_number(steps)),
        max_grad_norm=None if norm is None else _as_number(norm),
        compile_disabled_by=next(off, None),
    )


def _flags(words: list[str]) -> dict[str, str]:
    """Return the flags of a launcher's command line, without those of the script that it starts."""
    flags = {}
    start = next((i for i, word in enumerate(words) if PurePath(word).name in LAUNCHERS), 0)
    for index, word in enumerate(words[start + 1 :], start=start + 1):
        if word.endswith(".py"):
            break
        name, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--"):
            following = words[index + 1 : index + 2]
            flags[name.replace("-", "_")] = value if equals else "".join(following)
    return flags


def _setting(flags: dict[str, str], flag: str, variable: str, default: str) -> str | None:
    """Return what a flag says, or else a variable that is not at the launcher's default."""
    if flag in flags:
        return flags[flag].lower()
    value = os.environ.get(f"ACCELERATE_{variable}", default).lower()
    return None if value in (default, "") else value


def _as_number(value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise InputError(f"the launcher asks for {value!r:.40} where a number is due") from error
