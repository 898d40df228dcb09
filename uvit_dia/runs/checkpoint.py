"""Checkpoints that are verified before they are used.

A checkpoint is a folder `step_00050000/` with `model.safetensors`, `ema.safetensors`,
`optimizer.safetensors`, `window.safetensors` (what was measured since the last log line),
`config.json` and `manifest.json`, which records size and SHA-256 of every other file, and a SHA-256
of its own facts. `commit.py` writes it. There is no pickle in it, and no random state: randomness
is a function of the step (`rng.py`).
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from uvit_dia.runs.find import STEP_FOLDER, step_folder_name, step_folders
from uvit_dia.system.errors import CorruptFileError, InputError
from uvit_dia.system.files import sha256_file
from uvit_dia.system.mounts import again_if_stale

FORMAT = 1
MAX_MANIFEST_BYTES = 2**20
MAX_NAMED_MISMATCHES = 3
MAX_SHOWN_MISMATCHES = 150  # characters
REQUIRED_FILES = (
    "config.json",
    "ema.safetensors",
    "model.safetensors",
    "optimizer.safetensors",
    "window.safetensors",
)

Warn = Callable[[str], None]


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
        return facts_sha256(self.manifest)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Read one of its files, such as "ema", to the CPU.

        Raises:
            InputError: if it was saved as something else than tensors.
        """
        path = self.folder / f"{name}.safetensors"
        with _tensor_errors(path):
            return again_if_stale(load_file)(path)


def facts_sha256(manifest: dict) -> str:
    """Return the SHA-256 of a manifest's canonical JSON; damage changes it."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


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
        if again_if_stale(path.stat)().st_size > MAX_MANIFEST_BYTES:
            raise CorruptFileError(f"{path} is too large for a manifest")
        manifest = json.loads(again_if_stale(path.read_text)(encoding="utf-8"))
        found = manifest.get("format")
        recorded = manifest.pop("manifest_sha256", None)
        is_whole = recorded == facts_sha256(manifest)
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
        if Path(name).name != name or not again_if_stale(file.is_file)():
            raise CorruptFileError(f"{file} is missing")
        found = again_if_stale(file.stat)().st_size
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
        InputError: if there are checkpoints, but none that verifies; a run never starts afresh over
            them.
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
    """Refuse a file that was saved as something else than tensors; its hash fits the manifest."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())[:80]
        raise InputError(f"{path} holds no tensors: {reason}") from error


def check_tensors(checkpoint: Checkpoint, name: str, wanted: Mapping[str, Tensor]) -> None:
    """Compare a file's header with the tensors that should be in it, before anything is loaded.

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
