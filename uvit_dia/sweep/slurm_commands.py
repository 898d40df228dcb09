"""Slurm's commands, which may be missing, refuse, or never answer."""

import contextlib
import io
import shutil
import subprocess
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from uvit_dia.sweep.schema import SlurmConfig
from uvit_dia.system.errors import InputError

COMMAND_TIMEOUT_SECONDS = 60
MAX_WORDS = 200
HINTS = {  # a word of sbatch's refusal -> what to change
    "account": "set slurm.account or the variable SBATCH_ACCOUNT",
    "qos": "set slurm.qos or the variable SBATCH_QOS",
    "time limit": "lower slurm.timeout_minutes",
    "partition": "set slurm.partition",
}


def check_slurm(slurm: SlurmConfig) -> None:
    """Check that there is a Slurm that takes jobs of a sweep config's group `slurm`.

    Raises:
        InputError: if there is none, or it lacks the partition, or submitit is not installed.
    """
    import_submitit()
    missing = [name for name in ("sbatch", "squeue", "scancel", "srun") if not shutil.which(name)]
    if missing:
        raise InputError(f"--cluster slurm: there is no {missing[0]} on this machine")
    partitions = run_slurm(["sinfo", "--noheader", "--format=%R"])
    if partitions is None:
        raise InputError("--cluster slurm: sinfo gets no answer from Slurm's controller")
    unknown = set(slurm.partition.split(",")) - {"", *partitions.split()}
    if unknown:
        known = ", ".join(sorted(set(partitions.split()))) or "none"
        raise InputError(f"slurm.partition = {slurm.partition!r}: unknown; there are {known}")


def import_submitit() -> ModuleType:
    """Import submitit, which only sweeps on Slurm need.

    Raises:
        InputError: if it is not installed.
    """
    try:
        import submitit
    except ImportError as error:
        message = "--cluster slurm needs submitit: pip install 'uvit_dia[sweep]'"
        raise InputError(message) from error
    return submitit


def submit_in_time(queue: Callable[[], list[Any]]) -> list[Any]:
    """Let submitit call sbatch; return the jobs.

    It waits for sbatch for ever, and prints what sbatch says: so it runs in a thread that may be
    left behind, and its print is caught, since the error says the same.
    """
    jobs: list[Any] = []
    refusals: list[Exception] = []

    def call() -> None:
        try:
            jobs.extend(queue())
        except (RuntimeError, OSError) as error:  # submitit's errors are RuntimeErrors
            refusals.append(error)

    thread = threading.Thread(target=call, daemon=True)
    with contextlib.redirect_stderr(io.StringIO()):
        thread.start()
        thread.join(COMMAND_TIMEOUT_SECONDS)
    if thread.is_alive():
        raise InputError(
            f"--cluster slurm: sbatch gave no answer in {COMMAND_TIMEOUT_SECONDS} s; "
            "look with squeue "
            "whether the jobs are in the queue, before you start the sweep again"
        )
    for refusal in refusals:
        words = " ".join(str(refusal).split()).removeprefix("sbatch: error: ")[:MAX_WORDS]
        hints = [hint for word, hint in HINTS.items() if word in words.lower()]
        raise InputError(
            "; ".join([f"--cluster slurm: sbatch refused the jobs: {words}", *hints[:1]])
        ) from refusal
    return jobs


def run_slurm(command: list[str]) -> str | None:
    """Run one of Slurm's commands.

    Return what it printed, or None if Slurm's controller gave no answer.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode and "Invalid job id" not in done.stderr:
        return None
    return done.stdout
