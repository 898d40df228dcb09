"""In which form CIFAR-10 lies on disk; nothing is read or downloaded here."""

from dataclasses import dataclass
from pathlib import Path

from uvit_dia.data.file_kinds import kind_of
from uvit_dia.system.errors import InputError

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
ARCHIVE = "cifar-10-binary.tar.gz"
EXTRACTED = "cifar-10-batches-bin"
BATCHES = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
# The python edition, which torchvision and others download: read where it lies, never fetched.
PYTHON_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
PYTHON_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
PYTHON_ARCHIVE = "cifar-10-python.tar.gz"
PYTHON_EXTRACTED = "cifar-10-batches-py"
PYTHON_BATCHES = {
    split: tuple(name.removesuffix(".bin") for name in names) for split, names in BATCHES.items()
}
OTHER_EDITIONS = {  # names that begin so -> what they are
    "data_batch_1.mat": "CIFAR-10's Matlab edition",
    "data_batch_": "one file of CIFAR-10; give the folder that holds all of them",
    "test_batch": "one file of CIFAR-10; give the folder that holds all of them",
    "cifar-10-matlab": "CIFAR-10's Matlab edition",
    "cifar-10-batches-mat": "CIFAR-10's Matlab edition",
}
ADVICE = (
    f"needed is the binary edition, {URL}, or the python edition, as a file or extracted; "
    "data.path = '' downloads the first"
)


@dataclass(frozen=True)
class Cifar10Files:
    """Where CIFAR-10 lies.

    Attributes:
        path: an official archive, or the folder that was extracted from it.
        is_archive: which of the two.
        pickled: whether it is the python edition; else the binary one.
    """

    path: Path
    is_archive: bool
    pickled: bool = False


def find_cifar10(path: Path) -> Cifar10Files:
    """Find CIFAR-10; an archive that is not there yet is named where it belongs.

    Args:
        path: an archive itself, the folder extracted from it, or a folder that holds, or will hold,
            one of them; of both editions in a folder the binary one is taken.

    Raises:
        InputError: if another edition lies there, or a folder cannot be read.
    """
    if path.is_file():
        _refuse_other_editions(path, path.name)
        return Cifar10Files(path, is_archive=True)
    for archive, extracted, batches, pickled in (
        (ARCHIVE, EXTRACTED, BATCHES, False),
        (PYTHON_ARCHIVE, PYTHON_EXTRACTED, PYTHON_BATCHES, True),
    ):
        if (path / archive).exists():
            return Cifar10Files(path / archive, is_archive=True)
        for folder in (path, path / extracted):
            if any((folder / name).exists() for names in batches.values() for name in names):
                return Cifar10Files(folder, is_archive=False, pickled=pickled)
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise InputError(f"cannot read the folder {path}: {error.strerror}") from error
    for name in names:
        _refuse_other_editions(path / name, name)
        if name.lower().startswith("cifar-10-binary"):
            raise InputError(f"data.path: {path} holds {name}, not {ARCHIVE}; give {path / name}")
    if path.name.lower().startswith(("cifar-100-", "cifar-10-batches-mat")):
        raise InputError(f"data.path: {path} is another data set or edition; {ADVICE}")
    return Cifar10Files(path / ARCHIVE, is_archive=True)


def _refuse_other_editions(path: Path, name: str) -> None:
    """Refuse what is CIFAR-10 in a form that is not read."""
    for start, edition in OTHER_EDITIONS.items():
        if name.lower().startswith(start):
            raise InputError(f"data.path: {path} is {edition}; {ADVICE}")
    if kind_of(name) == "parquet":
        raise InputError(f"data.path: {path} is a table; data.name = 'parquet' reads it")
