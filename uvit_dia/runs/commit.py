"""Checkpoints that exist only when they are complete.

One is built in a hidden folder: each file is written, hashed and fsynced, the manifest last. Then
the folder gets its name, and only after that older checkpoints are pruned. So a crash at any moment
leaves the old one or the new one.
"""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from uvit_dia.runs.checkpoint import FORMAT, Warn, facts_sha256, verify
from uvit_dia.runs.find import step_folder_name, step_folders
from uvit_dia.system.errors import CorruptFileError, StorageError
from uvit_dia.system.files import sha256_file, write_json
from uvit_dia.system.mounts import (
    again_if_stale,
    free_bytes,
    fsync_path,
    remove_folder,
    set_mode,
)
from uvit_dia.system.notices import warn_once

MIN_KEPT = 2  # the newest one may turn out damaged

Files = Mapping[str, Mapping[str, Tensor]]  # file name without suffix -> tensors, on the CPU
Fingerprint = tuple[tuple[str, int, int, int], ...]  # name, inode, bytes, mtime of each file
# Folders that this process wrote or verified, and what their files looked like then. Without it
# each commit would read and hash two older checkpoints, to learn whether it may remove a third.
Verified = dict[Path, Fingerprint]


def commit(
    root: Path,
    step: int,
    tensors: Files,
    config: dict,
    facts: dict,
    *,
    keep: int,
    warn: Warn,
    verified: Verified | None = None,
) -> Path:
    """Save a checkpoint in one step.

    Args:
        root: the folder of all checkpoints of a run.
        step: optimizer steps done.
        tensors: what the files hold.
        config: the run's config, plain.
        facts: what else the manifest records, JSON's types.
        keep: how many checkpoints to keep, at least 2.
        warn: called with one line when pruning fails.
        verified: what this process has saved or checked, see `Verified`; it is brought up to date.

    Returns:
        The committed folder.

    Raises:
        StorageError: if it cannot be written; older checkpoints are untouched.
        ValueError: if `keep` is less than 2.
    """
    if keep < MIN_KEPT:
        raise ValueError(f"keep must be at least {MIN_KEPT}, got {keep}")
    target = root / step_folder_name(step)
    temporary = root / f".{target.name}.{os.getpid()}.tmp"

    @again_if_stale
    def write() -> None:
        root.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(root)
        temporary.mkdir()
        _write_checkpoint(temporary, step, tensors, config, facts)
        if target.exists():  # damaged, or it would have been resumed from
            remove_folder(target)
        temporary.rename(target)
        fsync_path(root)

    try:
        write()
    except (OSError, SafetensorError) as error:
        with suppress(OSError):  # the disk may be gone altogether
            remove_folder(temporary)
        raise StorageError(_storage_message(root, tensors, error)) from error
    verified = {} if verified is None else verified
    verified[target] = _fingerprint(target)
    prune(root, keep=keep, warn=warn, verified=verified)
    return target


def _remove_leftovers(root: Path) -> None:
    """Remove what killed commits left; the run's lock says that no other is under way."""
    for path in root.glob(".step_*.tmp"):
        try:
            remove_folder(path)
        except OSError as error:  # open elsewhere, on SMB; it is in nobody's way
            warn_once(str(path), f"could not remove {path}: {error.strerror}")


def _write_checkpoint(folder: Path, step: int, tensors: Files, config: dict, facts: dict) -> None:
    """Write the files of a checkpoint, the manifest last, and bring them to the disk."""
    mode = 0o666 & ~_umask()
    files = _write_files(folder, tensors, config, mode)
    manifest = {"format": FORMAT, "step": step, **facts, "files": files}
    path = folder / "manifest.json"
    write_json(path, {**manifest, "manifest_sha256": facts_sha256(manifest)})
    _seal(path, mode)
    fsync_path(folder)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_files(
    folder: Path, tensors: Files, config: dict, mode: int
) -> dict[str, dict[str, object]]:
    """Write all files but the manifest; while one is written, others are hashed and fsynced.

    Returns:
        What the manifest says of each file, by its name.
    """
    with ThreadPoolExecutor() as pool:
        facts = {}
        for name in sorted(tensors, key=lambda name: -_num_bytes(tensors[name])):
            path = folder / f"{name}.safetensors"
            save_file(dict(tensors[name]), path)
            facts[path.name] = pool.submit(_seal, path, mode)
        path = folder / "config.json"
        write_json(path, config)
        facts[path.name] = pool.submit(_seal, path, mode)
        return {name: facts[name].result() for name in sorted(facts)}


def _num_bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _seal(path: Path, mode: int) -> dict[str, object]:
    """Fsync a file, readable for colleagues (safetensors gives 0600); return size and hash."""
    set_mode(path, mode)
    fsync_path(path)
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _storage_message(root: Path, tensors: Files, error: Exception) -> str:
    needed = sum(map(_num_bytes, tensors.values()))
    free = free_bytes(root)
    have = "an unknown number" if free is None else free
    cause = error.__cause__ if isinstance(error, StorageError) else error
    reason = " ".join(str(cause).split())[:80]
    return (
        f"cannot save a checkpoint in {root}: need space for {needed} bytes, have {have} ({reason})"
    )


def prune(root: Path, *, keep: int, warn: Warn, verified: Verified | None = None) -> None:
    """Remove the oldest checkpoints; a failed removal is only a warning.

    The newest `keep` stay, and so do the two newest undamaged ones, which damaged ones may have
    pushed back.

    Args:
        root: the folder of all checkpoints of a run.
        keep: how many stay.
        warn: called with one line when a removal fails.
        verified: what this process has saved or checked, see `Verified`; it is brought up to date.
    """
    verified = {} if verified is None else verified
    folders = step_folders(root)
    surplus = folders[keep:]
    undamaged = (folder for folder in folders if _is_undamaged(folder, verified))
    spared = list(islice(undamaged, MIN_KEPT)) if surplus else []
    for folder in surplus:
        if folder in spared:
            continue
        try:
            remove_folder(folder)
        except OSError as error:
            warn(f"could not remove the old checkpoint {folder}: {error.strerror}")
    for folder in verified.keys() - set(folders[:keep]):
        del verified[folder]


def _is_undamaged(folder: Path, verified: Verified) -> bool:
    fingerprint = _fingerprint(folder)
    if verified.get(folder) == fingerprint:
        return True
    try:
        verify(folder)
    except CorruptFileError:
        return False
    verified[folder] = fingerprint
    return True


@again_if_stale
def _fingerprint(folder: Path) -> Fingerprint:
    """Return what tells that nobody has written to the files of a folder since."""
    found = []
    for path in sorted(folder.iterdir()):
        facts = path.stat()
        found.append((path.name, facts.st_ino, facts.st_size, facts.st_mtime_ns))
    return tuple(found)
