"""Checkpoints: whole or not there, verified before use, older ones safe from newer ones."""

import errno
import hashlib
import json
import os
import resource
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from tests.support.crashes import KILLED, Crash, lost_with_the_power, run_armed
from tests.support.forked import Child
from uvit_dia import cli
from uvit_dia.runs import checkpoint
from uvit_dia.runs import commit as commits
from uvit_dia.runs.checkpoint import Checkpoint, check_tensors, newest_valid, verify
from uvit_dia.runs.commit import commit, prune
from uvit_dia.runs.find import step_folders
from uvit_dia.system import files
from uvit_dia.system.errors import EXIT_IO_ERROR, CorruptFileError, InputError, StorageError

FILES = (
    "config.json",
    "ema.safetensors",
    "manifest.json",
    "model.safetensors",
    "optimizer.safetensors",
    "window.safetensors",
)


def tensors(step: int) -> dict[str, dict[str, Tensor]]:
    return {
        "model": {"weight": torch.full((3, 4), float(step)), "bias": torch.arange(4.0)},
        "ema": {"weight": torch.full((3, 4), step / 2), "bias": torch.arange(4.0)},
        "optimizer": {"state.weight.exp_avg": torch.full((3, 4), -1.0)},
        "window": {"window": torch.empty(0, 2)},
    }


def save(
    root: Path,
    step: int,
    *,
    keep: int = 2,
    warn: Callable[[str], None] = pytest.fail,
    verified: dict | None = None,
) -> Path:
    return commit(
        root,
        step,
        tensors(step),
        {"seed": step},
        {"num_processes": 1},
        keep=keep,
        warn=warn,
        verified=verified,
    )


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flip(path: Path, bit: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    bit = len(content) * 4 + 3 if bit is None else bit
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def missing(path: Path) -> None:
    path.unlink()


DAMAGES = (half, empty, zeros, flip, missing)


def seal(manifest: dict) -> str:
    """Give a manifest a hash of its own that fits, as someone who forges one would."""
    facts = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return json.dumps({**facts, "manifest_sha256": hashlib.sha256(text.encode()).hexdigest()})


def forge(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    manifest = {**json.loads(path.read_text()), **changes}
    path.write_text(seal({k: v for k, v in manifest.items() if v is not ...}))


# ---------------------------------------------------------------- what is saved


def test_commit_keeps_every_bit_and_fact(tmp_path: Path) -> None:
    folder = save(tmp_path / "checkpoints", 20)
    assert sorted(path.name for path in folder.iterdir()) == list(FILES)
    found = newest_valid(tmp_path / "checkpoints", pytest.fail)
    assert found is not None
    assert (found.folder, found.step) == (folder, 20)
    assert found.manifest["num_processes"] == 1
    assert json.loads((folder / "config.json").read_text()) == {"seed": 20}
    for name, expected in tensors(20).items():
        torch.testing.assert_close(found.tensors(name), expected, rtol=0, atol=0)


def test_where_nothing_was_saved_nothing_is_found(tmp_path: Path) -> None:
    assert newest_valid(tmp_path / "not there", pytest.fail) is None
    (tmp_path / ".step_00000010.1.tmp").mkdir()  # a commit that was killed
    (tmp_path / "step_10").mkdir()  # not a name of ours
    (tmp_path / "step_00000010").write_text("a file")
    assert newest_valid(tmp_path, pytest.fail) is None


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        folder = save(tmp_path, 1)
        assert os.umask(umask) == umask  # left as it was
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == dict.fromkeys(FILES, 0o666 & ~umask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask


def test_newest_is_the_highest_step_whatever_the_clock_says(tmp_path: Path) -> None:
    for step in (3, 99_999_999, 100_000_000):  # the last has nine digits, and sorts before as text
        save(tmp_path, step, keep=3)
    for age, folder in enumerate(sorted(tmp_path.iterdir())):
        for path in (folder, *folder.iterdir()):
            os.utime(path, (10**9 - age, 10**9 - age))
    os.utime(tmp_path / "step_00000003", (2 * 10**9, 2 * 10**9))
    found = newest_valid(tmp_path, pytest.fail)
    assert found is not None
    assert found.step == 100_000_000
    assert [int(path.name[5:]) for path in step_folders(tmp_path)] == [100_000_000, 99_999_999, 3]


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.reliability("G3", "corruptions of the newest checkpoint: older used")
def test_damage_is_named_and_the_older_one_is_used(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    save(tmp_path, 10)
    newest = save(tmp_path, 20)
    damage(newest / name)
    with pytest.raises(CorruptFileError, match=name):
        verify(newest)
    warnings: list[str] = []
    found = newest_valid(tmp_path, warnings.append)
    assert found is not None
    assert found.step == 10
    assert len(warnings) == 1
    assert str(newest / name) in warnings[0]


def test_every_byte_of_a_manifest_counts(tmp_path: Path) -> None:
    folder = save(tmp_path, 10)
    path = folder / "manifest.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        flip(path, 8 * place + place % 8)
        with pytest.raises(CorruptFileError):
            verify(folder)
        path.write_bytes(whole)
    assert verify(folder).step == 10


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.reliability("G3", "corruptions of all checkpoints: refused, untouched")
def test_a_run_never_starts_afresh_over_damaged_checkpoints(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    for step in (10, 20):
        damage(save(tmp_path, step) / name)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    warnings: list[str] = []
    with pytest.raises(InputError, match=r"no checkpoint in .* is undamaged \(2 tried\)"):
        newest_valid(tmp_path, warnings.append)
    assert len(warnings) == 2
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_a_file_that_cannot_be_read_counts_as_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 10)
    broken = save(tmp_path, 20) / "ema.safetensors"

    def read(path: Path) -> str:
        if path == broken:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return files.sha256_file(path)

    monkeypatch.setattr(checkpoint, "sha256_file", read)
    warnings: list[str] = []
    found = newest_valid(tmp_path, warnings.append)
    assert found is not None
    assert found.step == 10
    assert f"{broken}: Input/output error" in warnings[0]


def test_a_file_of_another_size_is_told_without_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, 10) / "config.json"  # the first one that is looked at
    size = path.stat().st_size
    half(path)
    monkeypatch.setattr(checkpoint, "sha256_file", lambda file: pytest.fail(f"read {file}"))
    with pytest.raises(CorruptFileError, match=f"has {size // 2} bytes, its manifest says {size}"):
        verify(path.parent)


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, 10)
    flip(save(tmp_path, 20) / "model.safetensors")
    save(tmp_path, 20)
    assert verify(tmp_path / "step_00000020").step == 20


# ---------------------------------------------------------------- manifests that somebody changed


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("[" * 100_000 + "]" * 100_000, id="deep list"),
        pytest.param('{"a":' * 50_000 + "1" + "}" * 50_000, id="deep object"),
        pytest.param("null", id="null"),
        pytest.param("[]", id="list"),
        pytest.param('"step"', id="text"),
        pytest.param("20", id="number"),
        pytest.param("{}", id="nothing"),
        pytest.param("\udcff\udcfe", id="not utf-8"),
        pytest.param('{"format": 1, "step": ' + "9" * 5000 + "}", id="too many digits"),
        pytest.param(" " * (2**20 + 1), id="too large"),
    ],
)
def test_nonsense_for_a_manifest_is_refused(tmp_path: Path, content: str) -> None:
    folder = save(tmp_path, 10)
    (folder / "manifest.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(CorruptFileError, match=r"manifest\.json"):
        verify(folder)


FACT = {"bytes": 1, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2; this version reads 1"),
        ({"format": "1"}, "format '1'"),
        ({"format": ...}, "format None"),
        ({"step": 11}, "says step 11"),
        ({"step": -10}, "says step -10"),
        ({"step": 10.0}, r"says step 10\.0"),
        ({"step": "10"}, "says step '10'"),
        ({"step": True}, "says step True"),
        ({"step": None}, "says step None"),
        ({"step": ...}, "damaged: 'step'"),
        ({"files": ...}, "damaged: 'files'"),
        ({"files": []}, "damaged"),
        ({"files": "config.json"}, "damaged"),
        ({"files": {}}, r"does not list config\.json"),
        ({"files": {"config.json": None}}, "damaged"),
        ({"files": {"config.json": [1, "0"]}}, "damaged"),
        ({"files": {"config.json": {"bytes": "many", "sha256": "0"}}}, "damaged"),
        ({"files": {"config.json": {"bytes": float("inf"), "sha256": "0"}}}, "damaged"),
        ({"files": {"config.json": {"bytes": float("nan"), "sha256": "0"}}}, "damaged"),
        ({"files": {"config.json": {"bytes": 1}}}, "damaged"),
    ],
)
def test_a_forged_manifest_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    folder = save(tmp_path, 10)
    forge(folder, **changes)
    with pytest.raises(CorruptFileError, match=message):
        verify(folder)


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/passwd", "..", ".", "", "a/b", "nul\0byte", "\ud800", "x" * 300],
    ids=repr,
)
@pytest.mark.reliability("G7", "forged names that reach no file outside")
def test_a_forged_manifest_reaches_no_file_outside(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path / "checkpoints", 10)
    secret = tmp_path / "checkpoints" / "secret"
    secret.write_bytes(b"x")
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    fact = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    forge(folder, files={name: fact, **listed})
    with pytest.raises(CorruptFileError):
        verify(folder)


@pytest.mark.parametrize("name", [name for name in FILES if name != "manifest.json"])
def test_a_forged_manifest_cannot_leave_a_file_unchecked(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path, 10)
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    del listed[name]
    forge(folder, files=listed)
    flip(folder / name)
    with pytest.raises(CorruptFileError, match=f"does not list {name}"):
        verify(folder)


def test_a_step_folder_may_lie_elsewhere_under_another_name(tmp_path: Path) -> None:
    folder = save(tmp_path, 10)
    shutil.copytree(folder, tmp_path / "best")
    assert verify(tmp_path / "best").step == 10
    shutil.copytree(folder, tmp_path / "step_00000011")  # but not under that of another step
    with pytest.raises(CorruptFileError, match="not that of step_00000011"):
        verify(tmp_path / "step_00000011")


# ---------------------------------------------------------------- crashes and full disks


def test_a_rename_comes_after_the_content_and_before_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "checkpoints"
    for step in (1, 2):
        save(root, step)
    events: list[tuple[str, str]] = []
    contents: dict[str, bytes] = {}  # of files when they were last fsynced
    opened: dict[int, Path] = {}
    real_open, real_fsync, real_rename = os.open, os.fsync, os.rename
    real_rmtree = shutil.rmtree

    def open_(path: str | Path, flags: int, *arguments: int, **named: int) -> int:
        descriptor = real_open(path, flags, *arguments, **named)
        opened[descriptor] = Path(path)
        return descriptor

    def fsync(descriptor: int) -> None:
        path = opened[descriptor]
        events.append(("fsync", path.name))
        if path.is_file():
            contents[path.name] = path.read_bytes()
        real_fsync(descriptor)

    def rename(source: Path, target: Path) -> None:
        events.append(("rename", Path(target).name))
        real_rename(source, target)

    def rmtree(path: Path, *arguments: bool, **named: bool) -> None:
        events.append(("remove", Path(path).name))
        real_rmtree(path, *arguments, **named)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    folder = save(root, 3)

    renamed = events.index(("rename", "step_00000003"))
    before, after = events[:renamed], events[renamed + 1 :]
    last_content = max(before.index(("fsync", name)) for name in FILES)
    temporary = next(name for _, name in before if name.startswith(".step_00000003"))
    assert before[-1] == ("fsync", temporary)
    assert len(before) - 1 > last_content
    assert {name: (folder / name).read_bytes() for name in FILES} == {n: contents[n] for n in FILES}
    assert after[0] == ("fsync", "checkpoints")  # before anything older is removed
    assert after[1] == ("remove", "step_00000001")


def _prepare(root: Path, scenario: str) -> set[int | None]:
    """Make what lies there before the commit of step 30 that crashes.

    Return what may be found after it.
    """
    for step in {"first": (), "third": (10, 20), "damaged": (10, 20, 30)}[scenario]:
        save(root, step, keep=3)
    if scenario == "damaged":
        half(root / "step_00000030" / "ema.safetensors")
    root.mkdir(exist_ok=True)
    return {None if scenario == "first" else 20, 30}


def _go_on(root: Path) -> dict[str, object]:
    """Do what the next process does in a folder; return what it finds and leaves."""
    outcome: dict[str, object] = {}
    try:
        found = newest_valid(root, [].append)
        outcome["found"] = found and found.step
        save(root, 40, warn=[].append)
        outcome["next"] = newest_valid(root, pytest.fail).step  # type: ignore[union-attr]
    except Exception as error:
        outcome["found"] = repr(error)
    outcome["leftovers"] = [path.name for path in root.glob(".*")]
    return outcome


def _crash_at_every_operation(work: Path, scenario: str) -> None:
    """Print, for each operation of a commit, what a process that ends there leaves."""
    os.fsync = lambda descriptor: None  # the test is of their order, and needs no waiting
    left, note = work / "left", work / "note"
    is_whole = False
    count = 0
    while not is_whole:
        allowed = _prepare(left, scenario)
        crash = Crash(left, count, note) if (pid := os.fork()) == 0 else None
        if crash is not None:
            run_armed(crash, save, left, 30)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        is_whole = code == 0
        losses = {"kill": []}
        if not is_whole:
            losses["power loss"] = lost_with_the_power(left, note)
        for loss, emptied in losses.items():
            copy = work / f"{count} {loss}"  # whose files this process has not verified yet
            shutil.copytree(left, copy)
            for path in emptied:
                os.truncate(copy / path, 0)
            outcome = {"code": code, "allowed": list(allowed), "emptied": len(emptied)}
            print(json.dumps({"at": [count, loss], **outcome, **_go_on(copy)}))
            shutil.rmtree(copy)
        shutil.rmtree(left)
        count += 1


@pytest.mark.parametrize("scenario", ["first", "third", "damaged"])
@pytest.mark.reliability("G2", "commits with a crash, and power loss, anywhere")
def test_a_crash_anywhere_leaves_the_old_one_or_the_new_one(tmp_path: Path, scenario: str) -> None:
    finished = Child(_crash_at_every_operation, tmp_path, scenario).wait()
    assert finished.exit_code == 0, finished.stderr
    outcomes = [json.loads(line) for line in finished.stdout.splitlines()]
    assert len(outcomes) >= 2 * 30 + 1  # places to crash at, and none
    assert [outcome["code"] for outcome in outcomes] == [KILLED] * (len(outcomes) - 1) + [0]
    assert sum(outcome["emptied"] > 0 for outcome in outcomes) >= 10
    for outcome in outcomes:
        assert outcome["found"] in outcome["allowed"], outcome
        assert outcome["next"] == 40, outcome
        assert outcome["leftovers"] == [], outcome
    for loss in ("kill", "power loss"):
        found = {outcome["found"] for outcome in outcomes if outcome["at"][1] == loss}
        assert found == set(outcomes[0]["allowed"])


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
    ids=["OSError", "SafetensorError"],
)
@pytest.mark.parametrize("fails_at", range(4))
@pytest.mark.reliability("G13", "files that meet a full disk: older ones whole")
def test_a_full_disk_harms_nothing_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int, error: Exception
) -> None:
    for step in (10, 20):
        save(tmp_path, step)
    calls = 0
    save_file = commits.save_file

    def full(content: dict[str, Tensor], path: Path) -> None:
        nonlocal calls
        if calls == fails_at:
            path.write_bytes(b"as much as there was room for")
            raise error
        calls += 1
        save_file(content, path)

    monkeypatch.setattr(commits, "save_file", full)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    with pytest.raises(
        StorageError, match=r"need space for \d+ bytes, have \d+ .*No space left"
    ) as raised:
        save(tmp_path, 30)
    assert raised.value.exit_code == EXIT_IO_ERROR == 74
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000010", "step_00000020"]


def _fill(root: Path, limit: int) -> None:
    """Save a checkpoint of 4 kB a file where a file may have `limit` bytes.

    Exit as a command would.
    """
    big = {name: {"x": torch.ones(1000)} for name in tensors(0)}

    def save_big(argv: list[str]) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            commit(root, 20, big, {}, {}, keep=2, warn=print)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)

    cli.run_command(save_big)


@pytest.mark.parametrize("limit", [0, 1, 2, 100, 500, 1000, 2000, 3000, 4000, 4060])
@pytest.mark.reliability("G13", "sizes of a full disk: older ones whole, space named", at_least=10)
def test_a_file_that_cannot_grow_harms_nothing_older(tmp_path: Path, limit: int) -> None:
    save(tmp_path, 10)
    finished = Child(_fill, tmp_path, limit).wait()
    assert finished.exit_code == EXIT_IO_ERROR, finished.stderr
    assert "need space for 16000 bytes" in finished.last_line
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000010"]
    found = newest_valid(tmp_path, pytest.fail)
    assert found is not None
    assert found.step == 10


# ---------------------------------------------------------------- pruning


@pytest.mark.parametrize("keep", [2, 3])
def test_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    for step in range(1, 6):
        save(tmp_path, step, keep=keep)
    assert [int(path.name[5:]) for path in step_folders(tmp_path)] == [5, 4, 3][:keep]


@pytest.mark.parametrize("keep", [1, 0, -1])
def test_at_least_two_are_kept(tmp_path: Path, keep: int) -> None:
    with pytest.raises(ValueError, match="keep must be at least 2"):
        save(tmp_path, 1, keep=keep)
    assert list(tmp_path.iterdir()) == []


def test_damaged_ones_do_not_push_out_the_last_two_undamaged(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        save(tmp_path, step, keep=4)
    for step in (30, 40):
        empty(tmp_path / f"step_{step:08d}" / "optimizer.safetensors")
    save(tmp_path, 21)  # what follows on a resume from step 20
    assert [int(path.name[5:]) for path in step_folders(tmp_path)] == [40, 30, 21, 20]


def test_a_checkpoint_that_changed_after_this_process_saved_it_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: dict = {}
    for step in (10, 20, 30):
        save(tmp_path, step, verified=verified)
    assert sorted(path.name for path in verified) == ["step_00000020", "step_00000030"]
    read: list[Path] = []
    monkeypatch.setattr(commits, "verify", lambda folder: (read.append(folder), verify(folder)))
    save(tmp_path, 40, verified=verified)
    assert read == []  # nothing that this process wrote itself
    flip(tmp_path / "step_00000040" / "model.safetensors")
    save(tmp_path, 50, verified=verified)
    assert [path.name for path in read] == ["step_00000040"]
    assert [int(path.name[5:]) for path in step_folders(tmp_path)] == [50, 40, 30]


def test_what_cannot_be_pruned_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (10, 20, 30):
        save(tmp_path, step, keep=3)
    remove = shutil.rmtree

    def busy(path: Path) -> None:
        if path.name == "step_00000020":
            raise OSError(errno.EBUSY, "Device or resource busy")
        remove(path)

    monkeypatch.setattr(shutil, "rmtree", busy)
    warnings: list[str] = []
    save(tmp_path, 40, warn=warnings.append)
    assert [int(path.name[5:]) for path in step_folders(tmp_path)] == [40, 30, 20]  # 10 went
    assert len(warnings) == 1
    assert "step_00000020: Device or resource busy" in warnings[0]


def test_pruning_reads_nothing_where_nothing_is_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (10, 20):
        save(tmp_path, step)
    monkeypatch.setattr(commits, "verify", lambda folder: pytest.fail(f"read {folder}"))
    prune(tmp_path, keep=2, warn=pytest.fail)


# ---------------------------------------------------------------- another architecture


def test_other_tensors_are_told_before_any_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = verify(save(tmp_path, 10))
    check_tensors(saved, "model", tensors(99)["model"])
    monkeypatch.setattr(Checkpoint, "tensors", lambda *_: pytest.fail("loaded"))
    wanted = {
        "weight": torch.empty(3, 5),
        "a": torch.empty(1),
        "b": torch.empty(2),
        "c": torch.empty(3),
    }
    with pytest.raises(InputError, match="5 tensors differ") as raised:
        check_tensors(saved, "model", wanted)
    message = str(raised.value)
    assert "a: absent in the file, (1,) in the model; b: absent" in message
    assert "bias: (4,) in the file, absent in the model" in message
    assert "weight" not in message.split("differ: ")[1]  # the first three are enough
