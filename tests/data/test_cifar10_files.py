"""CIFAR-10 from its archive, from the files in it, and what is said of its other editions."""

import hashlib
import http.server
import io
import re
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.image_sets import assert_same, labels_of, load, must_load
from uvit_dia.data import cifar10, cifar10_files
from uvit_dia.data.images import ImageSet
from uvit_dia.system.errors import InputError

RECORDS = 3  # images a batch; the official one has 10,000


def cifar_archive(batches: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in batches.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def cifar_batches() -> dict[str, tuple[list[int], Tensor]]:
    """Make labels and images, (N, 3, 32, 32) uint8, of all batches."""
    names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    generator = torch.Generator().manual_seed(0)
    return {
        name: (
            [(k + r) % 10 for r in range(RECORDS)],
            torch.randint(256, (RECORDS, 3, 32, 32), generator=generator).to(torch.uint8),
        )
        for k, name in enumerate(names)
    }


def cifar_files() -> dict[str, bytes]:
    """Make the files of the binary edition: label byte, then red, green, blue plane."""
    return {
        name: b"".join(
            bytes([label]) + image.numpy().tobytes()
            for label, image in zip(labels, images, strict=True)
        )
        for name, (labels, images) in cifar_batches().items()
    }


@pytest.fixture
def cifar(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return an archive in the official layout, with its hash set; its order must not matter."""
    archive = cifar_archive(dict(reversed(cifar_files().items())))
    monkeypatch.setattr(cifar10_files, "SHA256", hashlib.sha256(archive).hexdigest())
    monkeypatch.setattr(cifar10_files, "URL", "file:///there-is-no-such-file.tar.gz")
    return archive


def assert_is_cifar(image_set: ImageSet, names: list[str]) -> None:
    batches = cifar_batches()
    assert_same(image_set.images, torch.cat([batches[name][1] for name in names]))
    assert labels_of(image_set) == [label for name in names for label in batches[name][0]]
    assert image_set.class_names[3] == "cat" and len(image_set.class_names) == 10
    assert image_set.images.is_contiguous()


def test_cifar10_from_its_archive(cifar: bytes, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(cifar)
    train = must_load("cifar10", tmp_path, img_size=32)
    assert_is_cifar(train, [f"data_batch_{k}" for k in range(1, 6)])
    assert_is_cifar(must_load("cifar10", tmp_path, "test", img_size=32), ["test_batch"])
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-binary.tar.gz"]


def test_cifar10_in_the_cache(cifar: bytes, own_cache: Path) -> None:
    (own_cache / "cifar-10-binary.tar.gz").write_bytes(cifar)
    assert len(must_load("cifar10", "", img_size=32)) == 5 * RECORDS


def test_cifar10_is_pinned_to_the_official_archive() -> None:
    """Its hash is that of https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz."""
    pinned = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
    assert pinned == cifar10_files.SHA256
    assert cifar10_files.URL.startswith("https://")


@pytest.mark.parametrize("damage", ["flip", "half", "empty"])
def test_a_corrupt_archive_is_refused_and_left_alone(
    cifar: bytes, tmp_path: Path, damage: str
) -> None:
    """No member of an archive with another hash is read, and none is downloaded in its place."""
    flipped = bytearray(cifar)
    flipped[len(cifar) // 2] ^= 1
    content = {"flip": bytes(flipped), "half": cifar[: len(cifar) // 2], "empty": b""}[damage]
    archive = tmp_path / "cifar-10-binary.tar.gz"
    archive.write_bytes(content)
    with pytest.raises(InputError, match=rf"{re.escape(str(archive))} is corrupt: SHA-256"):
        load("cifar10", tmp_path, img_size=32)
    assert archive.read_bytes() == content


def test_an_archive_that_cannot_be_read_is_refused(cifar: bytes, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-binary.tar.gz").mkdir()
    with pytest.raises(InputError, match=r"cannot read .*cifar-10-binary\.tar\.gz"):
        load("cifar10", tmp_path, img_size=32)


def test_a_cache_that_cannot_be_made_is_refused(
    cifar: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UVIT_DIA_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot make .*file"):
        load("cifar10", "", img_size=32)


# ---------------------------------------------------------------- other forms


def extract(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, content in cifar_files().items():
        (folder / f"{name}.bin").write_bytes(content)
    return folder


@pytest.mark.faults
def test_cifar10_from_the_archive_itself(cifar: bytes, tmp_path: Path) -> None:
    (tmp_path / "cifar.tgz").write_bytes(cifar)  # whatever its name: the hash counts
    train = must_load("cifar10", tmp_path / "cifar.tgz", img_size=32)
    assert_is_cifar(train, [f"data_batch_{k}" for k in range(1, 6)])


@pytest.mark.faults
@pytest.mark.parametrize("given", ["", "cifar-10-batches-bin"])
def test_cifar10_from_the_extracted_files(
    cifar: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setattr(cifar10, "RECORDS_A_BATCH", RECORDS)
    folder = extract(tmp_path / "cifar-10-batches-bin")
    train = must_load("cifar10", tmp_path / given, img_size=32)
    assert_is_cifar(train, [f"data_batch_{k}" for k in range(1, 6)])
    assert_is_cifar(must_load("cifar10", tmp_path / given, "test", img_size=32), ["test_batch"])
    assert "there is no hash" in train.summary()
    content = (folder / "data_batch_3.bin").read_bytes()
    (folder / "data_batch_3.bin").write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"data_batch_3\.bin has 9218 bytes .*expected 9219"):
        load("cifar10", tmp_path / given, img_size=32)
    (folder / "data_batch_3.bin").write_bytes(b"\x0a" + content[1:])
    with pytest.raises(InputError, match="holds the label 10; CIFAR-10 has 0 to 9"):
        load("cifar10", tmp_path / given, img_size=32)
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(InputError, match=r"cannot read .*data_batch_3\.bin: No such file"):
        load("cifar10", tmp_path / given, img_size=32)
    assert not list(tmp_path.rglob("*.gz"))  # none was downloaded beside a damaged copy


@pytest.mark.faults
@pytest.mark.parametrize(
    ("lies_there", "given", "said"),
    [
        ("cifar-10-python.tar.gz", "", "cifar-10-python.tar.gz is corrupt: SHA-256"),
        ("cifar-10-batches-py/data_batch_1", "", "data_batch_1 is no batch of CIFAR-10's python"),
        ("data_batch_1", "data_batch_1", "give the folder that holds all of them"),
        ("cifar-10-batches-mat/data_batch_1.mat", "cifar-10-batches-mat", "Matlab edition"),
        ("cifar-100-binary/train.bin", "cifar-100-binary", "another data set"),
        ("data/train.parquet", "data", "data.name = 'parquet' reads it"),
        ("train.parquet", "train.parquet", "data.name = 'parquet' reads it"),
        ("cifar-10-binary (1).tar.gz", "", "give {folder}/cifar-10-binary (1).tar.gz"),
        ("cifar-10-binary.tar", "", "give {folder}/cifar-10-binary.tar"),
        ("page.html", "page.html", "page.html is corrupt: SHA-256 2d711642b726b044... (text that"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_other_editions_are_refused_by_name(
    cifar: bytes, tmp_path: Path, lies_there: str, given: str, said: str
) -> None:
    path = tmp_path / lies_there
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as caught:
        load("cifar10", tmp_path / given, img_size=32)
    assert said.format(folder=tmp_path) in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before  # and nothing was downloaded


@pytest.mark.faults
def test_a_mistyped_path_is_refused_and_not_made(cifar: bytes, tmp_path: Path) -> None:
    (tmp_path / "archives").mkdir()
    with pytest.raises(InputError, match=r"no file or folder .*archvies; did you mean .*/archives"):
        load("cifar10", tmp_path / "archvies", img_size=32)
    assert [path.name for path in tmp_path.iterdir()] == ["archives"]


# ---------------------------------------------------------------- downloads


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `content` under any path but /missing; /short promises more bytes than it sends."""

    content = b""

    def do_GET(self) -> None:
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        extra = 1000 if self.path == "/short" else 0
        self.send_header("Content-Length", str(len(self.content) + extra))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(cifar: bytes) -> Iterator[str]:
    """Serve the archive on this machine; return its address."""
    handler = type("Handler", (Server,), {"content": cifar})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()
        thread.join()


def files_under(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_cifar10_is_downloaded_where_it_is_missing(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar10_files, "URL", f"{server}/cifar.tar.gz")
    folder = tmp_path / "new"
    folder.mkdir()
    assert len(must_load("cifar10", folder, img_size=32)) == 5 * RECORDS
    assert files_under(tmp_path) == ["cifar-10-binary.tar.gz"]
    monkeypatch.setattr(cifar10_files, "URL", f"{server}/missing")
    assert len(must_load("cifar10", folder, "test", img_size=32)) == RECORDS  # not asked again


def test_a_download_goes_to_the_cache(
    cifar: bytes, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source.tar.gz"
    source.write_bytes(cifar)
    monkeypatch.setattr(cifar10_files, "URL", source.as_uri())
    must_load("cifar10", "", img_size=32)
    assert files_under(own_cache) == ["cifar-10-binary.tar.gz"]


def test_of_a_download_with_another_hash_nothing_is_kept(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar10_files, "URL", f"{server}/cifar.tar.gz")
    monkeypatch.setattr(cifar10_files, "SHA256", "0" * 64)
    with pytest.raises(InputError, match=rf"{server}.*expected 0000.*nothing was kept"):
        load("cifar10", tmp_path, img_size=32)
    assert files_under(tmp_path) == []


@pytest.mark.parametrize("path", ["missing", "short"])
def test_of_a_broken_download_nothing_is_kept(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(cifar10_files, "URL", f"{server}/{path}")
    if path == "short":
        monkeypatch.setattr(cifar10_files, "SHA256", "0" * 64)
    with pytest.raises(InputError, match=rf"{server}/{path}"):
        load("cifar10", tmp_path, img_size=32)
    assert files_under(tmp_path) == []


def test_without_a_network_the_message_says_where_to_put_the_file(
    cifar: bytes, tmp_path: Path
) -> None:
    target = re.escape(str(tmp_path / "cifar-10-binary.tar.gz"))
    with pytest.raises(InputError, match=rf"cannot download file:.*put the file at {target}"):
        load("cifar10", tmp_path, img_size=32)
    assert files_under(tmp_path) == []
