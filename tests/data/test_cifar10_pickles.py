"""CIFAR-10's python edition.

The same images as of the binary one, and nothing that a pickle names is run.
"""

import hashlib
import io
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.test_cifar10_files import (
    RECORDS,
    assert_is_cifar,
    cifar,
    cifar_batches,
    extract,
)
from tests.support.image_sets import load, must_load
from uvit_dia.data import cifar10, cifar10_files
from uvit_dia.data.cifar10_pickles import MAX_BYTES, read_batch
from uvit_dia.system.errors import InputError

__all__ = ["cifar"]  # a fixture
TRAINING = [f"data_batch_{k}" for k in range(1, 6)]
FOLDER = "cifar-10-batches-py"


def text(value: bytes) -> bytes:
    """Write a string as Python 2 does."""
    if len(value) < 256:
        return b"U" + bytes([len(value)]) + value
    return b"T" + struct.pack("<i", len(value)) + value


def number(value: int) -> bytes:
    return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)


def by_python_2(labels: list[int], data: np.ndarray) -> bytes:
    """Write a batch as the official files are: protocol 2, Python 2's strings, old names."""
    kind = b"cnumpy\ndtype\n(" + text(b"u1") + number(0) + number(1) + b"tR("
    kind += number(3) + text(b"|") + b"NNN" + 2 * b"J\xff\xff\xff\xff" + number(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85"
    array += text(b"b") + b"\x87R(" + number(1) + number(len(labels)) + number(3072) + b"\x86"
    array += kind + b"\x89" + text(data.tobytes()) + b"tb"
    listed = b"](" + b"".join(map(number, labels)) + b"e"
    names = b"](" + b"".join(text(b"%d.png" % index) for index in range(len(labels))) + b"e"
    content = b"\x80\x02}q\x01(" + text(b"batch_label") + text(b"training batch 1 of 5")
    content += text(b"labels") + listed + text(b"data") + array + text(b"filenames") + names
    return content + b"u."


def by_python_3(labels: list[int], data: np.ndarray, protocol: int) -> bytes:
    return pickle.dumps({b"labels": labels, b"data": data, b"batch_label": b"one"}, protocol)


def python_files(form: str) -> dict[str, bytes]:
    files = {}
    for name, (labels, images) in cifar_batches().items():
        data = images.numpy().reshape(len(labels), 3072)
        files[name] = (
            by_python_2(labels, data) if form == "2" else by_python_3(labels, data, int(form[1:]))
        )
    return files


def write(folder: Path, form: str = "2") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in python_files(form).items():
        (folder / name).write_bytes(content)
    (folder / "batches.meta").write_bytes(b"not read")
    return folder


@pytest.mark.parametrize("form", ["2", "p2", "p4"])
@pytest.mark.parametrize("given", ["", FOLDER])
def test_the_extracted_files_are_the_same_images(
    cifar: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, given: str
) -> None:
    monkeypatch.setattr(cifar10, "RECORDS_A_BATCH", RECORDS)
    write(tmp_path / FOLDER, form)
    train = must_load("cifar10", tmp_path / given, img_size=32)
    assert_is_cifar(train, TRAINING)
    assert_is_cifar(must_load("cifar10", tmp_path / given, "test", img_size=32), ["test_batch"])
    assert "there is no hash" in train.summary()
    extract(tmp_path / "binary")
    binary = must_load("cifar10", tmp_path / "binary", img_size=32)
    assert binary.fingerprint() == train.fingerprint()


@pytest.mark.parametrize("name", ["", "cifar-10-python.tar.gz", "cifar.tgz"])
def test_the_archive_goes_by_its_hash(
    cifar: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for batch, content in python_files("2").items():
            member = tarfile.TarInfo(f"{FOLDER}/{batch}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    content = packed.getvalue()
    path = tmp_path / (name or "cifar-10-python.tar.gz")
    path.write_bytes(content)
    monkeypatch.setattr(cifar10_files, "PYTHON_SHA256", hashlib.sha256(content).hexdigest())
    assert_is_cifar(must_load("cifar10", tmp_path / name, img_size=32), TRAINING)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]  # nothing is extracted


def test_the_official_archive_is_pinned() -> None:
    """Its hash is that of https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz."""
    pinned = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
    assert pinned == cifar10_files.PYTHON_SHA256


def test_a_damaged_archive_is_told_apart(cifar: bytes, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"x")
    with pytest.raises(InputError, match=r"is corrupt: SHA-256 2d711.*cifar-10-python\.tar\.gz$"):
        load("cifar10", tmp_path, img_size=32)


def test_of_both_editions_the_binary_one_is_read(
    cifar: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar10, "RECORDS_A_BATCH", RECORDS)
    extract(tmp_path / "cifar-10-batches-bin")
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "data_batch_1").write_bytes(b"x")
    assert_is_cifar(must_load("cifar10", tmp_path, img_size=32), TRAINING)


def test_a_batch_with_too_few_images_is_refused(cifar: bytes, tmp_path: Path) -> None:
    write(tmp_path / FOLDER)
    with pytest.raises(InputError, match=r"data_batch_1 has 3 images, expected 10000"):
        load("cifar10", tmp_path, img_size=32)


# ---------------------------------------------------------------- pickles of others


class Runs:
    """Makes a pickle that would create a file."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def evil(path: Path) -> list[tuple[str, bytes]]:
    import os

    said = f"__import__('pathlib').Path({str(path)!r}).touch()"
    nested = {b"labels": [0], b"data": Runs(eval, said)}
    return [
        ("it names", pickle.dumps(Runs(os.mkdir, str(path)), 2)),
        ("it names", pickle.dumps(nested, 2)),
        ("it names", pickle.dumps(nested, 4)),
        ("it names builtins.exec", b"cbuiltins\nexec\n(V" + said.encode() + b"\ntR."),
        ("it names os.system", b"(S'touch " + str(path).encode() + b"'\nios\nsystem\n."),
        # a dotted name below one that is known
        ("it names numpy", b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93."),
    ]


@pytest.mark.faults
@pytest.mark.parametrize("index", range(6))
def test_nothing_that_a_pickle_names_is_run(tmp_path: Path, index: int) -> None:
    canary = tmp_path / "canary"
    said, content = evil(canary)[index]
    with pytest.raises(InputError, match=rf"^batch is no batch of .*: {said}"):
        read_batch(content, "batch")
    assert not canary.exists()


def test_the_canary_would_sing(tmp_path: Path) -> None:
    """Python's own reader runs them: so the test above could fail."""
    _, content = evil(tmp_path / "canary")[1]
    pickle.loads(content)
    assert (tmp_path / "canary").exists()


GOOD = np.zeros((2, 3072), dtype=np.uint8)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "Ran out of input|no batch|exhausted"),
        (b"<html>", "no batch"),
        (by_python_2([0, 1], GOOD)[:-500], "no batch"),
        (by_python_3([0, 1], GOOD.astype(np.float32), 2), "not of uint8"),
        (by_python_3([0, 1], GOOD.astype(object), 2), "not of uint8"),
        (by_python_3([0, 1], np.asfortranarray(GOOD + 1), 2), "not of uint8 in C's order"),
        (by_python_3([0], GOOD, 2), "for 1 labels"),
        (by_python_3([0, -1], GOOD, 2), "no small numbers"),
        (by_python_3([0, True], GOOD, 2), "no small numbers"),
        (pickle.dumps({b"labels": [0], b"data": b"x"}, 2), "no array"),
        (pickle.dumps({b"fine_labels": [0]}, 2), "no batch"),
        (pickle.dumps([1, 2], 2), "no batch"),
        (b"\x80\x02]r\xff\xff\xff\x7f.", "place 2147483647"),
        (b"\x80\x02]Q.", "no batch"),  # an object of somebody else's store
    ],
    ids=range(14),
)
def test_what_is_no_batch_is_refused_in_one_line(content: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read_batch(content, "batch")
    assert "\n" not in str(caught.value)


def test_a_file_of_any_size_is_not_read() -> None:
    with pytest.raises(InputError, match="too many for a batch"):
        read_batch(bytes(MAX_BYTES + 1), "batch")
