"""Mounts that lack something: a run there is the same run, and what it loses is told once."""

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs.test_checkpoint import save
from tests.support.forked import Child, Finished
from tests.support.mounts import StaleOnce, take_away
from tests.support.runs import Fault, command, result, train, train_arguments
from uvit_dia.runs.checkpoint import newest_valid
from uvit_dia.runs.folder import RunFolder, read_metrics
from uvit_dia.system.files import append_line, write_atomically, write_json
from uvit_dia.system.mounts import free_bytes, replace

pytestmark = pytest.mark.faults

Lacks = tuple[tuple[str, int], ...]

# What mounts lack and answer, and what a user must be told of each.
KINDS: list[tuple[str, int, str]] = [
    ("chmod", errno.EPERM, ""),
    ("chmod", errno.ENOTSUP, ""),
    ("chmod", errno.EACCES, ""),
    ("fsync of folders", errno.EINVAL, "cannot sync folders"),
    ("fsync of folders", errno.EPERM, "cannot sync folders"),
    ("fsync of folders", errno.ENOTSUP, "cannot sync folders"),
    ("fsync of folders", errno.EBADF, "cannot sync folders"),
    ("opening folders", errno.EISDIR, "cannot sync folders"),
    ("opening folders", errno.EACCES, "cannot sync folders"),
    ("flock", errno.ENOSYS, "has no locks"),
    ("flock", errno.ENOLCK, "has no locks"),
    ("flock", errno.EOPNOTSUPP, "has no locks"),
    ("flock", errno.EINVAL, "has no locks"),
    ("hard links", errno.EPERM, ""),
    ("replacing", errno.EEXIST, "cannot rename a file over another"),
    ("replacing", errno.EPERM, "cannot rename a file over another"),
    ("replacing", errno.ENOTSUP, "cannot rename a file over another"),
    ("count of free bytes", errno.ENOSYS, ""),
    ("count of free bytes", 0, ""),
    ("true count of free bytes", 0, ""),
]
EVERYTHING: Lacks = tuple({lack: (lack, code) for lack, code, _ in KINDS}.values())
WORDS = sorted({words for _, _, words in KINDS if words})


def _train_there(arguments: list[str], lacks: Lacks, fault: Fault | None) -> None:
    take_away(*lacks)
    command("train", arguments, fault)


def start_there(run: Path, *lacks: tuple[str, int], fault: Fault | None = None) -> Child:
    return Child(_train_there, train_arguments(run), lacks, fault)


def train_there(run: Path, *lacks: tuple[str, int], fault: Fault | None = None) -> Finished:
    return start_there(run, *lacks, fault=fault).wait()


def warnings(finished: Finished) -> list[str]:
    return [line for line in finished.stderr.splitlines() if line.startswith("warning: ")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run on a mount that lacks nothing."""
    path = tmp_path_factory.mktemp("whole")
    finished = train(path)
    assert finished.exit_code == 0, finished.stderr
    return path


@pytest.mark.parametrize(
    ("lack", "code", "words"), KINDS, ids=[f"{k[0]} {errno.errorcode.get(k[1], 0)}" for k in KINDS]
)
def test_a_run_is_the_same_run_there(
    tmp_path: Path, whole: Path, lack: str, code: int, words: str
) -> None:
    stopped = train_there(tmp_path, (lack, code), fault=Fault("draw", 6, signal.SIGTERM))
    assert stopped.exit_code == 75, stopped.stderr
    again = train_there(tmp_path, (lack, code))
    assert again.exit_code == 0, again.stderr
    assert result(tmp_path) == result(whole)
    for finished in (stopped, again):
        told = warnings(finished)
        assert len(told) == bool(words)
        assert words in "".join(told)


def test_a_mount_that_lacks_everything(tmp_path: Path, whole: Path) -> None:
    killed = train_there(tmp_path, *EVERYTHING, fault=Fault("draw", 10))
    assert killed.exit_code == -signal.SIGKILL
    again = train_there(tmp_path, *EVERYTHING)
    assert again.exit_code == 0, again.stderr
    assert result(tmp_path) == result(whole)
    told = "".join(warnings(again))
    assert all(told.count(words) == 1 for words in WORDS)
    assert told.count("took over the lock of host ") == 1
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step_00000008",
        "step_00000012",
    ]
    assert not list(tmp_path.glob(".*.old"))


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS])
def test_a_failure_is_not_taken_for_a_lack(tmp_path: Path, code: int) -> None:
    ended = train_there(tmp_path, ("fsync of folders", code))
    assert ended.exit_code == 74, ended.stderr
    assert os.strerror(code) in ended.last_line


# ---------------------------------------------------------------- replacing in two steps


def test_a_kill_between_the_two_steps_loses_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path)
    append_line(tmp_path / "metrics.jsonl", '{"step": 1}')
    (tmp_path / "metrics.jsonl").rename(tmp_path / ".metrics.jsonl.old")  # and the process ends
    folder.lock()
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1}]
    assert "its older content is back" in capsys.readouterr().err
    assert not (tmp_path / ".metrics.jsonl.old").exists()


def test_a_kill_after_the_second_step_leaves_the_new_file(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text("new")
    (tmp_path / ".status.json.old").write_text("old")
    RunFolder(tmp_path).lock()
    assert (tmp_path / "status.json").read_text() == "new"
    assert not (tmp_path / ".status.json.old").exists()


def test_a_second_step_that_fails_takes_the_first_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "new", tmp_path / "file"
    source.write_text("new")
    target.write_text("old")

    def refuse(*arguments: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    rename = os.rename
    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(os, "rename", lambda a, b: refuse() if Path(a) == source else rename(a, b))
    with pytest.raises(PermissionError):
        replace(source, target)
    assert target.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "new"]


# ---------------------------------------------------------------- free space


def test_free_bytes_are_counted_where_the_mount_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert free_bytes(tmp_path) == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    usage = shutil._ntuple_diskusage  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 5, 5))
    assert free_bytes(tmp_path) == 5
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 0))
    assert free_bytes(tmp_path) is None  # a file finds room
    assert list(tmp_path.iterdir()) == []

    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert free_bytes(tmp_path) == 0


# ---------------------------------------------------------------- stale handles


def _commit(root: Path) -> None:
    save(root / "checkpoints", 30, warn=print)


def _find(root: Path) -> None:
    found = newest_valid(root / "checkpoints", print)
    assert found is not None
    assert found.step == 20
    assert found.tensors("ema")


def _start(root: Path) -> None:
    folder = RunFolder(root)
    folder.lock()
    folder.truncate_metrics(1)


def _write(root: Path) -> None:
    write_json(root / "status.json", {"step": 2})
    write_atomically(root / "new.txt", b"new")
    append_line(root / "metrics.jsonl", '{"step": 3}')


WORKS: dict[str, Callable[[Path], None]] = {
    "commit": _commit,
    "find": _find,
    "start": _start,
    "write": _write,
}


def _prepare(root: Path) -> None:
    for step in (10, 20):
        save(root / "checkpoints", step)
    for step in (1, 2):
        append_line(root / "metrics.jsonl", json.dumps({"step": step}))
    write_json(root / "status.json", {"step": 1})


def _left(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".lock-owner"
    }


def _be_stale_at_every_look(work: Path, name: str) -> None:
    """Print, for each look at a file or folder, how the work ended if ESTALE answered it."""
    count, is_over = 0, False
    while not is_over:
        root = work / str(count)
        root.mkdir()
        _prepare(root)
        read, write = os.pipe()
        if os.fork() == 0:
            stale = StaleOnce(root, count)
            problem = ""
            stale.is_armed = True
            try:
                WORKS[name](root)
            except Exception as error:
                problem = repr(error)
            stale.is_armed = False
            os.write(write, json.dumps([problem, stale.left < 0]).encode())
            os._exit(0)
        os.close(write)
        os.wait()
        problem, was_stale = json.loads(os.read(read, 65536))
        os.close(read)
        is_over = not was_stale
        left = {path: content.hex() for path, content in _left(root).items()}
        print(json.dumps({"at": count, "problem": problem, "left": left}))
        shutil.rmtree(root)
        count += 1


@pytest.mark.parametrize("name", WORKS)
def test_a_handle_that_is_stale_once_changes_nothing(tmp_path: Path, name: str) -> None:
    finished = Child(_be_stale_at_every_look, tmp_path, name).wait()
    assert finished.exit_code == 0, finished.stderr
    outcomes = [json.loads(line) for line in finished.stdout.splitlines() if line.startswith("{")]
    others = [line for line in finished.stdout.splitlines() if not line.startswith("{")]
    assert others == []  # no checkpoint was passed over
    assert len(outcomes) > 8
    for outcome in outcomes:
        assert outcome["problem"] == "", outcome
        assert outcome["left"] == outcomes[-1]["left"], outcome["at"]  # as if nothing had been
