"""Checkpoints that exist only when they are complete, and are verified before they are used.

A checkpoint is a folder `step_00050000/` with `model.safetensors`, `ema.safetensors`, `optimizer.safetensors`,
`window.safetensors` (what was measured since the last log line), `config.json` and `manifest.json`, which records
size and SHA-256 of every other file, and a SHA-256 of its own facts. It is built in a hidden folder, fsynced,
renamed into place, and only then are older ones pruned. There is no pickle in it, and no random state: randomness is
a function of the step (`rng.py`).
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from uvit_dia.system.errors import CorruptFileError, InputError, StorageError
from uvit_dia.system.files import fsync_path, sha256_file, write_json

FORMAT = 1
STEP_FOLDER = re.compile(r"step_(\d{8,})")
MAX_MANIFEST_BYTES = 2**20
MAX_NAMED_MISMATCHES = 3
MAX_SHOWN_MISMATCHES = 150  # characters
MIN_KEPT = 2  # the newest one may turn out damaged
REQUIRED_FILES = (
    "config.json",
    "ema.safetensors",
    "model.safetensors",
    "optimizer.safetensors",
    "window.safetensors",
)

Warn = Callable[[str], None]
Fingerprint = tuple[tuple[str, int, int, int], ...]  # name, inode, bytes, mtime of each file
# Folders whose hashes this process computed, and what their files looked like then: as long as they look the same they
# need not be read again.
Verified = dict[Path, Fingerprint]


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint whose files are what its manifest says.

    Attributes:
        folder: where it lies.
        step: optimizer steps that went into it.
        manifest: the facts that were saved with it.
    """

    folder: Path
    step: int
    manifest: dict

    @property
    def sha256(self) -> str:
        """The SHA-256 of the manifest's facts, among which are those of all files."""
        return _facts_sha256(self.manifest)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Read one of its files, such as "ema", to the CPU.

        Raises:
            InputError: if it was saved as something else than tensors.
        """
        path = self.folder / f"{name}.safetensors"
        with _tensor_errors(path):
            return load_file(path)


def step_folder_name(step: int) -> str:
    """Return the folder name of a step, `step_00050000`."""
    return f"step_{step:08d}"


def commit(
    root: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    config: dict,
    facts: dict,
    *,
    keep: int,
    warn: Warn,
    verified: Verified | None = None,
) -> Path:
    """Save a checkpoint in one step: after a crash at any moment there is the old one or the new one.

    Args:
        root: the folder of all checkpoints of a run.
        step: optimizer steps done.
        tensors: file name without suffix -> tensors, on the CPU.
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
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(root)
        temporary.mkdir()
        mode = 0o666 & ~_umask()
        files = _write_files(temporary, tensors, config, mode)
        manifest = {"format": FORMAT, "step": step, **facts, "files": files}
        path = temporary / "manifest.json"
        write_json(path, {**manifest, "manifest_sha256": _facts_sha256(manifest)})
        _seal(path, mode)
        fsync_path(temporary)
        if (
            target.exists()
        ):  # a damaged one of the same step: a valid one would have been resumed from
            shutil.rmtree(target)
        temporary.rename(target)
        fsync_path(root)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise StorageError(_storage_message(root, tensors, error)) from error
    verified = {} if verified is None else verified
    verified[target] = _fingerprint(target)
    prune(root, keep=keep, warn=warn, verified=verified)
    return target


def _write_files(
    folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], config: dict, mode: int
) -> dict[str, dict[str, object]]:
    """Write all files but the manifest; while one is written, others are hashed and wait for the disk.

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
    """Bring a file to the disk, readable for colleagues, which safetensors' 0600 is not; return its size and hash."""
    path.chmod(mode)
    fsync_path(path)
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _facts_sha256(manifest: dict) -> str:
    """Return the SHA-256 of a manifest's canonical JSON; it tells a damaged manifest from a whole one."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _remove_leftovers(root: Path) -> None:
    """Remove the hidden folders of commits that were killed; the run's lock says that no other is under way."""
    for path in root.glob(".step_*.tmp"):
        shutil.rmtree(path)


def _storage_message(
    root: Path, tensors: Mapping[str, Mapping[str, Tensor]], error: Exception
) -> str:
    needed = sum(map(_num_bytes, tensors.values()))
    try:
        free = str(shutil.disk_usage(root).free)
    except OSError:
        free = "an unknown number of"
    cause = error.__cause__ if isinstance(error, StorageError) else error
    reason = " ".join(str(cause).split())[:80]
    return (
        f"cannot save a checkpoint in {root}: need space for {needed} bytes, have {free} ({reason})"
    )


def prune(root: Path, *, keep: int, warn: Warn, verified: Verified | None = None) -> None:
    """Remove the oldest checkpoints; a failed removal is only a warning.

    The newest `keep` stay, and so do the two newest undamaged ones, which damaged ones may have pushed back.

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
            shutil.rmtree(folder)
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


def _fingerprint(folder: Path) -> Fingerprint:
    """Return what tells that nobody has written to the files of a folder since."""
    found = []
    for path in sorted(folder.iterdir()):
        facts = path.stat()
        found.append((path.name, facts.st_ino, facts.st_size, facts.st_mtime_ns))
    return tuple(found)


def step_folders(root: Path) -> list[Path]:
    """Return the folders of committed checkpoints, newest step first; times of files don't matter."""
    if not root.is_dir():
        return []
    found = [
        (int(m[1]), p)
        for p in root.iterdir()
        if (m := STEP_FOLDER.fullmatch(p.name)) and p.is_dir()
    ]
    return [path for _, path in sorted(found, reverse=True)]


def verify(folder: Path) -> Checkpoint:
    """Check a checkpoint against its manifest, byte for byte.

    Raises:
        CorruptFileError: naming the first file that is missing, or not what the manifest says.
    """
    path = folder / "manifest.json"
    manifest = _read_manifest(path)
    try:
        step, files = manifest["step"], manifest["files"]
        expected = {
            str(name): (int(fact["bytes"]), str(fact["sha256"])) for name, fact in files.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise CorruptFileError(f"{path} is damaged: {' '.join(str(error).split())[:80]}") from error
    if type(step) is not int or (
        folder.name != step_folder_name(step) and STEP_FOLDER.fullmatch(folder.name)
    ):
        raise CorruptFileError(f"{path} says step {step!r:.40}, which is not that of {folder.name}")
    missing = set(REQUIRED_FILES) - set(expected)
    if missing:
        raise CorruptFileError(f"{path} does not list {min(missing)}")
    for name, (size, sha256) in expected.items():
        _check_file(folder, name, size, sha256)
    return Checkpoint(folder, step, manifest)


def _read_manifest(path: Path) -> dict:
    """Read a manifest that is whole and of this format."""
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise CorruptFileError(f"{path} is too large for a manifest")
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found = manifest.get("format")
        recorded = manifest.pop("manifest_sha256", None)
        is_whole = recorded == _facts_sha256(manifest)
    except OSError as error:
        raise CorruptFileError(f"{path}: {error.strerror}") from error
    except CorruptFileError:
        raise
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptFileError(f"{path} is damaged: {' '.join(str(error).split())[:80]}") from error
    if found != FORMAT:
        raise CorruptFileError(f"{path} has format {found!r:.40}; this version reads {FORMAT}")
    if not is_whole:
        raise CorruptFileError(f"{path} is damaged: its own SHA-256 does not fit it")
    return manifest


def _check_file(folder: Path, name: str, size: int, sha256: str) -> None:
    """Compare a file with what the manifest says of it."""
    file = folder / name
    try:
        if Path(name).name != name or not file.is_file():
            raise CorruptFileError(f"{file} is missing")
        found = file.stat().st_size
        if found != size:
            raise CorruptFileError(f"{file} has {found} bytes, its manifest says {size}")
        if sha256_file(file) != sha256:
            raise CorruptFileError(f"{file} is damaged: its SHA-256 is not the one in the manifest")
    except OSError as error:
        raise CorruptFileError(f"{file}: {error.strerror}") from error


def newest_valid(root: Path, warn: Warn) -> Checkpoint | None:
    """Return the newest checkpoint that verifies, or None where there never was one.

    Args:
        root: the folder of all checkpoints of a run.
        warn: called with one line for each damaged checkpoint that is passed over.

    Raises:
        InputError: if there are checkpoints, but none that verifies; a run never starts afresh over them.
    """
    folders = step_folders(root)
    for folder in folders:
        try:
            return verify(folder)
        except CorruptFileError as error:
            warn(f"{error}; trying the checkpoint before it")
    if folders:
        raise InputError(
            f"no checkpoint in {root} is undamaged ({len(folders)} tried); move the folder away"
        )
    return None


@contextmanager
def _tensor_errors(path: Path) -> Iterator[None]:
    """Tell in one line that a file whose hash fits its manifest was saved as something else than tensors."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())[:80]
        raise InputError(f"{path} holds no tensors: {reason}") from error


def check_tensors(checkpoint: Checkpoint, name: str, wanted: Mapping[str, Tensor]) -> None:
    """Compare a file's header with the tensors that should come out of it, before anything is loaded.

    Raises:
        InputError: naming the first mismatches.
    """
    path = checkpoint.folder / f"{name}.safetensors"
    with _tensor_errors(path), safe_open(path, framework="pt") as file:
        names = file.keys()
        found = {key: tuple(file.get_slice(key).get_shape()) for key in names}
    expected = {key: tuple(tensor.shape) for key, tensor in wanted.items()}
    wrong = [
        f"{key}: {found.get(key, 'absent')} in the file, {expected.get(key, 'absent')} in the model"
        for key in sorted(found.keys() | expected.keys())
        if found.get(key) != expected.get(key)
    ]
    if wrong:
        shown = "; ".join(wrong[:MAX_NAMED_MISMATCHES])
        if len(shown) > MAX_SHOWN_MISMATCHES:
            shown = shown[: MAX_SHOWN_MISMATCHES - 3] + "..."
        raise InputError(f"{path} is of another architecture, {len(wrong)} tensors differ: {shown}")
