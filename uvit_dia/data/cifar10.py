"""CIFAR-10 from its official editions: plain bytes, or pickles of which nothing is run."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from uvit_dia.data import cifar10_files
from uvit_dia.data.cifar10_files import (
    ARCHIVE,
    BATCHES,
    EXTRACTED,
    PYTHON_BATCHES,
    PYTHON_EXTRACTED,
    Cifar10Files,
    find_cifar10,
)
from uvit_dia.data.cifar10_pickles import read_batch
from uvit_dia.data.file_kinds import what_it_is
from uvit_dia.data.images import ImageSet
from uvit_dia.data.paths import data_path
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import cache_folder, download, sha256_file

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
SHAPE = (3, 32, 32)
RECORD_BYTES = 1 + 3 * 32 * 32  # label; red, green and blue plane
RECORDS_A_BATCH = 10_000


def read_cifar10(path: str, split: str, *, show_progress: bool) -> ImageSet:
    """Read CIFAR-10, from an archive with the official hash or from the files extracted from it.

    Args:
        path: see `find_cifar10`; "" for the user's cache.
        split: "train" or "test".
        show_progress: whether a bar shows the download of a missing archive.

    Raises:
        InputError: if it is not there and cannot be downloaded, or is not what it should be.
    """
    found = Cifar10Files(cache_folder() / ARCHIVE, is_archive=True)
    if path:
        found = find_cifar10(data_path(path))
    if found.is_archive:
        content = bytearray().join(_from_archive(found.path, split, show_progress))
        notes: tuple[str, ...] = ()
    else:
        content = bytearray().join(_from_folder(found, split))
        notes = ("extracted files: sizes and labels were checked, there is no hash",)
    rows = torch.from_numpy(np.frombuffer(content, dtype=np.uint8).reshape(-1, RECORD_BYTES))
    images, labels = rows[:, 1:].reshape(-1, *SHAPE).contiguous(), rows[:, 0].long()
    if labels.max() >= len(CLASSES):
        raise InputError(f"{found.path} holds the label {labels.max()}; CIFAR-10 has 0 to 9")
    return ImageSet("cifar10", images, labels, CLASSES, f"cifar10 {found.path}, {split}", notes)


def _from_archive(archive: Path, split: str, show_progress: bool) -> Iterator[bytes]:
    """Yield the batches of an archive: downloaded if it is missing, its hash checked first."""
    url, expected = cifar10_files.URL, cifar10_files.SHA256
    if not archive.exists():
        download(url, archive, expected, show_progress)
    if archive.name.startswith("cifar-10-python"):
        url, expected = cifar10_files.PYTHON_URL, cifar10_files.PYTHON_SHA256
    try:
        found = sha256_file(archive)
        with archive.open("rb") as file:
            kind = what_it_is(file.read(512))
    except OSError as error:
        raise InputError(f"cannot read {archive}: {error.strerror}") from error
    pickled = found == cifar10_files.PYTHON_SHA256
    if found not in (cifar10_files.SHA256, cifar10_files.PYTHON_SHA256):
        raise InputError(
            f"{archive} is corrupt: SHA-256 {found[:16]}... ({kind}), expected {expected[:16]}..., "
            f"the archive of {url}"
        )
    folder, batches = (PYTHON_EXTRACTED, PYTHON_BATCHES) if pickled else (EXTRACTED, BATCHES)
    with tarfile.open(archive, "r:gz") as tar:  # members are read in memory; nothing is extracted
        for batch in batches[split]:
            member = tar.extractfile(f"{folder}/{batch}")
            if member is None:
                raise InputError(f"{archive} lacks {batch}")
            content = member.read()
            yield read_batch(content, f"{archive}:{batch}") if pickled else content


def _from_folder(found: Cifar10Files, split: str) -> Iterator[bytes]:
    """Yield the batches of an extracted folder."""
    expected = RECORDS_A_BATCH * RECORD_BYTES
    for name in (PYTHON_BATCHES if found.pickled else BATCHES)[split]:
        path = found.path / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        if found.pickled:
            content = read_batch(content, str(path))
            if len(content) != expected:
                images = len(content) // RECORD_BYTES
                raise InputError(f"{path} has {images} images, expected {RECORDS_A_BATCH}")
        elif len(content) != expected:
            raise InputError(
                f"{path} has {len(content)} bytes ({what_it_is(content[:512])}), "
                f"expected {expected}"
            )
        yield content
