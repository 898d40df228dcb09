"""Which process holds a lock, and whether it still runs, as far as this machine can see."""

import json
import os
import platform
import re
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path

MAX_OWNER_BYTES = 4096
NONCE = re.compile("[0-9a-f]{16}")
ENDED = "ended"  # stands for the start of a process that has ended and is not yet waited for


@dataclass(frozen=True)
class LockOwner:
    """A process, described so that others can tell whether it still runs.

    Attributes:
        host: name of its machine.
        machine: the machine's id; "" if it has none.
        boot: id that the machine draws at each of its starts; "" if the system has none.
        namespace: in which process numbers count, as containers have their own; "" without such.
        process: its number.
        started: when it started, as the system counts; "" if that is unknown.
        nonce: random, so that no two owners are alike.
    """

    host: str
    machine: str
    boot: str
    namespace: str
    process: int
    started: str
    nonce: str

    def describe(self) -> str:
        """Return host and process, for messages."""
        return f"host {self.host:.60}, process {self.process}"


def this_process() -> LockOwner:
    """Return the description of this process."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115  (it leads to no path)
    except OSError:
        namespace = ""
    return LockOwner(
        host=platform.node(),
        machine=_text(Path("/etc/machine-id")),
        boot=_text(Path("/proc/sys/kernel/random/boot_id")),
        namespace=namespace,
        process=os.getpid(),
        started=_start_time(os.getpid()) or "",
        nonce=secrets.token_hex(8),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


def read_owner(marker: Path) -> LockOwner | None:
    """Read who holds a marker; None if that cannot be read."""
    path = marker / "owner.json"
    try:
        if path.stat().st_size > MAX_OWNER_BYTES:
            return None
        owner = LockOwner(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    texts = (owner.host, owner.machine, owner.boot, owner.namespace, owner.started, owner.nonce)
    is_whole = all(isinstance(text, str) for text in texts) and NONCE.fullmatch(owner.nonce)
    return owner if is_whole and type(owner.process) is int and 0 < owner.process < 2**31 else None


def has_ended(owner: LockOwner | None) -> bool | None:
    """Say whether a process has ended; None if that cannot be seen from here."""
    if owner is None:
        return None
    here = this_process()
    is_same_run = owner.boot == here.boot and (here.boot != "" or owner.host == here.host)
    if is_same_run and owner.namespace == here.namespace:
        return not _is_running(owner.process, owner.started)
    is_restarted = owner.boot != here.boot and owner.machine == here.machine != ""
    return True if is_restarted and owner.host == here.host else None


def _is_running(process: int, started: str) -> bool:
    """Say whether a process runs, and is the one that started then; numbers are used again."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    found = _start_time(process)
    return found is None or (found != ENDED and started in ("", found))


def _start_time(process: int) -> str | None:
    """Return when a process started, as the system counts; `ENDED`, or None if that is unknown."""
    try:
        words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return ENDED if words[0] in "ZX" else words[19]  # fields 3 and 22 of proc(5)
    except (OSError, IndexError):
        pass
    try:  # macOS
        shown = subprocess.run(
            ["ps", "-o", "stat=,lstart=", "-p", str(process)],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        ).stdout.split(maxsplit=1)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if len(shown) < 2:
        return None
    return ENDED if shown[0].startswith("Z") else shown[1].strip()
