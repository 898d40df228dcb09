"""What a launcher of several processes says in the environment: ranks, and settings of its own. Needs no torch."""

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

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
COMPILE_SWITCHES = ("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE")

# What tells launches apart that one shell started one after the other.
LAUNCH_MARKS = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
WAIT_SECONDS = 5.0  # for the same refusal of another process of this machine
LINGER_SECONDS = 1.0  # for which a mark stays, and its process with it
STALE_SECONDS = 30.0  # after which a mark was left by a process that was killed


def rank() -> int:
    """Return the number of this process among all of its launch; 0 where it was started alone."""
    return _number(RANK, 0)


def local_rank() -> int:
    """Return the number of this process among those of its launch on this machine."""
    return _number(LOCAL_RANK, rank())


def num_launched() -> int:
    """Return how many processes were launched together."""
    return _number(WORLD_SIZE, 1)


def warn_first(message: str) -> None:
    """Print a warning of one line, on the first process of all."""
    if rank() == 0:
        print(f"warning: {message}", file=sys.stderr, flush=True)


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
            f"WORLD_SIZE = {launched} in the environment, but RANK is missing; start the processes with torchrun "
            "or accelerate launch, or set RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT for each"
        )
    if rank() >= launched:
        raise InputError(
            f"RANK = {rank()} in the environment: allowed is 0 to {launched - 1} (WORLD_SIZE = {launched})"
        )
    if not os.environ.get("MASTER_ADDR"):
        raise InputError(
            f"WORLD_SIZE = {launched} in the environment, but MASTER_ADDR is missing; it is the address of the "
            "machine of RANK 0"
        )


# ---------------------------------------------------------------- the launcher


def launcher_words() -> list[str]:
    """Return the command line of the launcher that started this process; empty where none of the known ones did."""
    import psutil

    try:
        words = psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        return []
    is_launcher = any(PurePath(word).name in LAUNCHERS for word in words[:4])
    return words if is_launcher else []


@dataclass(frozen=True)
class LauncherSettings:
    """What `accelerate launch`, `accelerate config` or the environment ask for beside the config; None for nothing.

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
    """Read the settings of the launcher: from its flags, of which Accelerate passes on some only, or the environment.

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


# ---------------------------------------------------------------- told once a machine


@contextmanager
def told_once_a_machine(message: str) -> Iterator[bool]:
    """Yield whether this process is to tell a refusal that the others of its machine may have met too.

    The first process of a machine always is. Another one waits for a moment whether one before it tells the same. They
    know it of each other by a mark among the temporary files: a refusal may come before torch is there, and may be of
    one process alone, so that no process can be asked.
    """
    if num_launched() == 1:
        yield True
        return
    is_first = local_rank() == 0
    try:
        mark = Path(tempfile.gettempdir()) / _mark(message)
    except FileNotFoundError:  # no folder can be written to: then each process tells
        yield True
        return
    if not is_first and _is_left_within(mark, WAIT_SECONDS):
        yield False
        return
    is_mine = _leave(mark)
    yield is_first or is_mine is not False
    if is_mine:
        time.sleep(LINGER_SECONDS)
        with suppress(OSError):
            mark.unlink()


def _mark(message: str) -> str:
    """Return the name of the mark that a refusal of this launch was told on this machine."""
    launch = [str(os.getppid()), *(os.environ.get(name, "") for name in LAUNCH_MARKS), message]
    name = hashlib.sha256("\0".join(launch).encode(errors="replace")).hexdigest()[:24]
    return f".uvit_dia-told-{name}"


def _is_left_within(mark: Path, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError):
            if time.time() - mark.lstat().st_mtime < STALE_SECONDS:
                return True
        time.sleep(0.05)
    return False


def _leave(mark: Path) -> bool | None:
    """Leave a mark; False if another process just did, None where none can be left."""
    try:
        if time.time() - mark.lstat().st_mtime >= STALE_SECONDS:
            mark.unlink()
    except OSError:
        pass  # there is none, as it should be
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    except OSError:
        return None
    return True
