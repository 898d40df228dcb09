"""Locks where the file system has none.

One holder, whatever becomes of it, and nobody shut out for ever.
"""

import errno
import json
import os
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.support.forked import Child
from tests.support.mounts import take_away
from uvit_dia.runs.folder import RunFolder
from uvit_dia.sweep.folder import is_held
from uvit_dia.sweep.processes import CommandRunner, Stopped
from uvit_dia.system import lock_owner, locks, notices
from uvit_dia.system.errors import InputError
from uvit_dia.system.lock_owner import LockOwner, has_ended, read_owner, this_process
from uvit_dia.system.locks import LockHeldError, ProcessLock

pytestmark = pytest.mark.faults


@pytest.fixture(autouse=True)
def without_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    monkeypatch.setattr(notices, "_told", set())


def leave(path: Path, **changes: object) -> LockOwner:
    """Leave a lock behind as a process did that was killed, or as `changes` have it."""
    owner = replace(this_process(), **{"process": ended_process(), **changes})  # type: ignore[arg-type]
    marker = path / ".lock-held"
    marker.mkdir()
    (marker / "owner.json").write_text(json.dumps(asdict(owner)))
    return owner


def ended_process() -> int:
    process = os.fork()
    if process == 0:
        os._exit(0)
    os.waitpid(process, 0)
    return process


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        RunFolder(path).lock()
    return str(caught.value)


# ---------------------------------------------------------------- one holder


def _hold(path: Path, release: Path) -> None:
    take_away(("flock", errno.ENOSYS))
    folder = RunFolder(path)
    folder.lock()
    print("mine", flush=True)
    while not release.exists():
        time.sleep(0.01)


def wait_for_owner(path: Path, child: Child) -> None:
    while (owner := read_owner(path / ".lock-held")) is None or owner.process != child.pid:
        assert child.is_alive()
        time.sleep(0.01)


def test_a_second_run_is_refused_until_the_first_is_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = Child(_hold, tmp_path, tmp_path / "never")
    wait_for_owner(tmp_path, owner)
    message = refusal(tmp_path)
    assert "is in use by another run (host " in message
    assert f"process {owner.pid})" in message
    assert "delete" not in message  # it is seen to run
    assert is_held(tmp_path / ".lock")
    owner.send(signal.SIGKILL)
    owner.wait()
    assert not is_held(tmp_path / ".lock")
    folder = RunFolder(tmp_path)
    folder.lock()
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if "took over the lock" in line] == [told[0]]
    assert f"process {owner.pid}, which has ended" in told[0]
    folder.unlock()
    RunFolder(tmp_path).lock()
    assert "took over" not in capsys.readouterr().err


@pytest.mark.parametrize("is_stale", [False, True])
def test_of_many_starts_one_wins(tmp_path: Path, is_stale: bool) -> None:
    for race in range(5):
        path, release = tmp_path / str(race), tmp_path / f"release {race}"
        path.mkdir()
        if is_stale:
            leave(path)
        children = [Child(_hold, path, release) for _ in range(4)]
        while sum(child.is_alive() for child in children) > 1:
            time.sleep(0.01)
        release.touch()
        finished = [child.wait() for child in children]
        assert sorted(done.exit_code for done in finished) == [0, 1, 1, 1]
        assert sum("mine" in done.stdout for done in finished) == 1
        assert sum("is in use by another run" in done.stderr for done in finished) == 3
        assert sum("took over the lock" in done.stderr for done in finished) == is_stale


def test_a_slow_process_cannot_take_over_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two find the same stale lock.

    The slower one moves it away when the faster one already holds the lock.
    """
    leave(tmp_path)
    fast, slow = ProcessLock(tmp_path / ".lock"), ProcessLock(tmp_path / ".lock")
    looked: list[object] = []

    def look(owner: LockOwner | None) -> bool | None:
        if not looked:
            looked.append(owner)
            fast.acquire()  # between the slow one's look and its move
        return has_ended(owner)

    monkeypatch.setattr(locks, "has_ended", look)
    with pytest.raises(LockHeldError):
        slow.acquire()
    owner = read_owner(tmp_path / ".lock-held")
    assert owner is not None
    assert owner.process == os.getpid()
    fast.release()


def test_the_lock_ends_with_the_process_or_the_object(tmp_path: Path) -> None:
    (tmp_path / "release").touch()
    assert Child(_hold, tmp_path, tmp_path / "release").wait().exit_code == 0
    assert not (tmp_path / ".lock-held").exists()
    lock = ProcessLock(tmp_path / ".lock")
    lock.acquire()
    assert is_held(tmp_path / ".lock")
    if (fork := os.fork()) == 0:
        lock.release()  # is not the fork's
        os._exit(0)
    os.waitpid(fork, 0)
    assert is_held(tmp_path / ".lock")
    del lock
    assert not is_held(tmp_path / ".lock")


def test_what_is_lost_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        RunFolder(tmp_path / name).lock()
    told = capsys.readouterr().err
    assert told.count("this file system has no locks (Function not implemented)") == 1


# ---------------------------------------------------------------- whose lock it was


def test_a_number_that_another_process_has_now(tmp_path: Path) -> None:
    leave(tmp_path, process=os.getpid(), started="1")
    RunFolder(tmp_path).lock()


def test_a_process_that_nobody_waited_for_has_ended(tmp_path: Path) -> None:
    process = os.fork()
    if process == 0:
        os._exit(0)
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)  # ended, and still in the table
    assert has_ended(replace(this_process(), process=process, started="")) is True
    os.waitpid(process, 0)


def test_a_process_of_somebody_else_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(process: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(lock_owner, "_start_time", lambda process: None)  # nor may it be looked at
    assert has_ended(this_process()) is False


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "elsewhere", "boot": "another", "machine": "another"},
        {"host": "elsewhere", "boot": "another"},
        {"boot": "another", "machine": ""},  # another machine of the same name, as far as one sees
        {"namespace": "pid:[1]"},  # a container on this machine
    ],
)
def test_a_lock_of_elsewhere_is_refused_with_what_to_delete(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    owner = leave(tmp_path, **changes)
    message = refusal(tmp_path)
    assert f"(host {owner.host}, process {owner.process})" in message
    assert f"if that one has ended, delete {tmp_path / '.lock-held'}" in message
    assert is_held(tmp_path / ".lock")


def test_a_lock_from_before_the_machine_restarted_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = replace(this_process(), machine="0123")
    monkeypatch.setattr(lock_owner, "this_process", lambda: here)
    leave(tmp_path, boot="earlier", machine="0123", process=os.getpid())
    RunFolder(tmp_path).lock()


def test_a_system_without_ids_goes_by_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    here = replace(this_process(), boot="", machine="", namespace="")
    monkeypatch.setattr(lock_owner, "this_process", lambda: here)
    assert has_ended(here) is False
    assert has_ended(replace(here, process=ended_process())) is True
    assert has_ended(replace(here, host="elsewhere")) is None


def test_a_cell_of_a_sweep_says_what_it_waits_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = leave(tmp_path, host="elsewhere", boot="another")
    cell = CommandRunner(tmp_path / "logs", {}, is_launched=False)
    cell.stop_reason = "the test ends"
    with pytest.raises(Stopped), cell.taken(tmp_path / ".lock"):
        pytest.fail("two hold it")
    told = capsys.readouterr().err
    assert f"is held by host elsewhere, process {owner.process}; if that one has ended" in told


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"\xff",
        b"[" * 5000,
        b"x" * 10_000,
        *(
            json.dumps({**asdict(this_process()), **change}).encode()
            for change in (
                {"process": -1},
                {"process": 0},
                {"process": True},
                {"process": 2**70},
                {"process": "1"},
                {"host": 1},
                {"nonce": "../../elsewhere"},
                {"more": 1},
            )
        ),
    ],
)
def test_a_damaged_marker_is_refused_with_what_to_delete(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".lock-held").mkdir()
    (tmp_path / ".lock-held" / "owner.json").write_bytes(content)
    assert f"delete {tmp_path / '.lock-held'}" in refusal(tmp_path)
    assert (tmp_path / ".lock-held" / "owner.json").read_bytes() == content


def test_a_marker_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".lock-held").write_text("mine")
    assert f"delete {tmp_path / '.lock-held'}" in refusal(tmp_path)


@pytest.mark.parametrize("process_table", ["/proc", "ps"])
def test_when_a_process_started_is_seen(
    process_table: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if process_table == "ps":
        fake = tmp_path / "ps"
        fake.write_text('#!/bin/sh\n[ "$4" = 5 ] && echo "Ss+  Mon Jul  1 10:00:00 2024"\nexit 0\n')
        fake.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        read = Path.read_text

        def no_proc(path: Path, *arguments: object, **named: object) -> str:
            if str(path).startswith("/proc"):
                raise FileNotFoundError
            return read(path)

        monkeypatch.setattr(Path, "read_text", no_proc)
        assert lock_owner._start_time(5) == "Mon Jul  1 10:00:00 2024"
        assert lock_owner._start_time(6) is None
    else:
        first, second = lock_owner._start_time(os.getpid()), lock_owner._start_time(os.getppid())
        assert first is not None and second is not None and int(first) > int(second)


# ---------------------------------------------------------------- with flock


def test_flock_leaves_no_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    lock = ProcessLock(tmp_path / ".lock")
    assert not lock.is_held()
    assert list(tmp_path.iterdir()) == []  # to look makes nothing
    lock.acquire()
    assert is_held(tmp_path / ".lock")
    with pytest.raises(LockHeldError):
        ProcessLock(tmp_path / ".lock").acquire()
    lock.release()
    assert not is_held(tmp_path / ".lock")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_planted_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "outside")
    assert "cannot lock" in refusal(tmp_path / "run")
    assert not (tmp_path / "outside").exists()
