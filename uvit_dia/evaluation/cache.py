"""What evaluations derive from real images, in files that are checked before they are believed.

The cache only saves time: where it cannot be read or written, that is said once, and everything is
computed. Names and keys are made of content hashes, so nothing stale can be found under them.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from uvit_dia.system.errors import InputError
from uvit_dia.system.files import cache_folder, write_atomically

Features = dict[str, Tensor]  # layer -> (N, D) float32 on the CPU
Numbers = dict[str, object]  # JSON's types
Warn = Callable[[str], None]
T = TypeVar("T", Features, Numbers)


class Cache:
    """Features and numbers by key, in the folders `features` and `floors`.

    Args:
        folder: that holds both; it is made when something is written. None keeps nothing.
        warn: called with one line where a file is damaged, or nothing can be kept.
    """

    def __init__(self, folder: Path | None, warn: Warn) -> None:
        self._folder = folder
        self._warn = warn
        self._is_told = False

    @classmethod
    def of_user(cls, warn: Warn) -> "Cache":
        """Return the cache of the user, or one that keeps nothing where there is no home folder."""
        try:
            return cls(cache_folder(), warn)
        except InputError as error:
            cache = cls(None, warn)
            cache._tell_once(str(error))
            return cache

    def features(self, name: str, key: str, make: Callable[[], Features]) -> Features:
        """Return the features of a key, from the cache or computed.

        Args:
            name: of the image set, for the file's name.
            key: all that the features depend on.
            make: computes them.
        """
        path = self._path("features", name, key, "safetensors")
        features = self._read(path, lambda file: _read_features(file, key))
        if features is None:
            features = make()
            facts = {"key": key, "sha256": _hash_features(features)}
            self._write(path, save(features, metadata=facts))
        return features

    def numbers(self, name: str, key: str, make: Callable[[], Numbers]) -> Numbers:
        """Return the numbers of a key, from the cache or computed; arguments as in `features`."""
        path = self._path("floors", name, key, "json")
        numbers = self._read(path, lambda file: _read_numbers(file, key))
        if numbers is None:
            numbers = make()
            self._write(path, _with_hash(key, numbers).encode())
        return numbers

    def _path(self, kind: str, name: str, key: str, suffix: str) -> Path | None:
        if self._folder is None:
            return None
        digest = hashlib.sha256(key.encode()).hexdigest()[:32]
        return self._folder / kind / f"{name}-{digest}.{suffix}"

    def _read(self, path: Path | None, read: Callable[[Path], T | None]) -> T | None:
        if path is None:
            return None
        try:
            found = read(path)
            reason = "its content is not what it says"
        except OSError as error:  # a place that cannot be read is told when it is written, too
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                self._tell_once(f"{path}: {error.strerror}")
            return None
        except (SafetensorError, LookupError, TypeError, ValueError, RecursionError) as error:
            found, reason = None, " ".join(str(error).split())[:80]
        if found is None:
            self._warn(f"{path} is damaged ({reason}); what it held is computed again")
        return found

    def _write(self, path: Path | None, content: bytes) -> None:
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
        except OSError as error:  # a StorageError is one too
            self._tell_once(error.strerror or str(error))

    def _tell_once(self, reason: str) -> None:
        if not self._is_told:
            self._is_told = True
            self._warn(
                f"nothing is kept of what real images give ({reason}); it is computed each time"
            )


def _read_features(path: Path, key: str) -> Features | None:
    with path.open("rb"):  # so that a missing file is told from a damaged one
        pass
    with safe_open(path, framework="pt") as file:
        facts = file.metadata() or {}
        features = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    is_whole = facts.get("key") == key and facts.get("sha256") == _hash_features(features)
    return features if is_whole else None


def _hash_features(features: Features) -> str:
    digest = hashlib.sha256()
    for layer in sorted(features):
        values = features[layer]
        digest.update(f"{layer} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.contiguous().numpy().data)
    return digest.hexdigest()


def _read_numbers(path: Path, key: str) -> Numbers | None:
    text = path.read_text(encoding="utf-8")
    numbers = json.loads(text)["numbers"]
    return numbers if text == _with_hash(key, numbers) else None


def _with_hash(key: str, numbers: Numbers) -> str:
    """Return the text of a file of numbers, which holds the hash of all the rest."""
    record = {"key": key, "numbers": numbers}
    digest = hashlib.sha256(json.dumps(record, allow_nan=False).encode()).hexdigest()
    return json.dumps({**record, "sha256": digest}, indent=1, allow_nan=False) + "\n"
