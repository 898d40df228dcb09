"""Image sets from files: what is read exactly, and what is refused before anything is decoded or kept."""

import hashlib
import http.server
import io
import json
import re
import struct
import tarfile
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from uvit_dia.data import image_files, sources
from uvit_dia.data.images import ImageSet
from uvit_dia.data.sources import load_image_set
from uvit_dia.system.errors import InputError

Pixels = np.ndarray


def load(
    name: str,
    path: Path | str,
    split: str = "train",
    *,
    img_size: int = 8,
    in_chans: int = 3,
    resize: bool = False,
) -> ImageSet | None:
    return load_image_set(
        name,
        str(path),
        split,
        img_size=img_size,
        in_chans=in_chans,
        resize=resize,
        show_progress=False,
    )


def must_load(name: str, path: Path | str, split: str = "train", **settings: Any) -> ImageSet:
    image_set = load(name, path, split, **settings)
    assert image_set is not None
    return image_set


def labels_of(image_set: ImageSet) -> list[int]:
    assert image_set.labels is not None
    assert image_set.labels.dtype == torch.int64
    return image_set.labels.tolist()


def pixels(index: int, side: int = 8, channels: int = 3) -> Pixels:
    """Make the pixels of an image, (H, W, C), or (H, W) for one channel."""
    shape = (side, side) if channels == 1 else (side, side, channels)
    return np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8)


def png(image: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """Make a PNG of 100 bytes that claims to be large; decoding it would fail with another message."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10)))
    return b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b"")


def channels_first(*images: Pixels) -> Tensor:
    stacked = np.stack([i[None] if i.ndim == 2 else i.transpose(2, 0, 1) for i in images])
    return torch.from_numpy(stacked)


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == torch.uint8
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


# ---------------------------------------------------------------- digits


def test_digits() -> None:
    image_set = must_load("digits", "", in_chans=1)
    assert image_set.images.shape == (1797, 1, 8, 8)
    assert image_set.images.dtype == torch.uint8
    assert (int(image_set.images.min()), int(image_set.images.max())) == (0, 255)
    assert len(image_set.images.unique()) == 17
    digits = load_digits()
    levels = (image_set.images[:, 0].double() * (16 / 255)).round()
    torch.testing.assert_close(levels, torch.from_numpy(digits.images), rtol=0, atol=0)
    assert labels_of(image_set) == digits.target.tolist()
    assert image_set.class_names == tuple("0123456789")
    assert load("digits", "", "test", in_chans=1) is None


def test_digits_have_one_size() -> None:
    with pytest.raises(InputError, match=r"\(1, 8, 8\).*model\.img_size = 16.*\(3, 16, 16\)"):
        load("digits", "", img_size=16)


def test_an_unknown_set_is_refused() -> None:
    with pytest.raises(InputError, match=r"data\.name = 'imagenet'.*digits, cifar10"):
        load("imagenet", "")


# ---------------------------------------------------------------- CIFAR-10

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


@pytest.fixture
def cifar(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return an archive in the official binary layout (label byte, then red, green, blue plane), with its hash set."""
    content = {
        name: b"".join(
            bytes([label]) + image.numpy().tobytes()
            for label, image in zip(labels, images, strict=True)
        )
        for name, (labels, images) in reversed(
            cifar_batches().items()
        )  # their order must not matter
    }
    archive = cifar_archive(content)
    monkeypatch.setattr(sources, "CIFAR10_SHA256", hashlib.sha256(archive).hexdigest())
    monkeypatch.setattr(sources, "CIFAR10_URL", "file:///there-is-no-such-file.tar.gz")
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
    assert pinned == sources.CIFAR10_SHA256
    assert sources.CIFAR10_URL.startswith("https://")


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


def test_a_folder_that_cannot_be_made_is_refused(cifar: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot make .*file"):
        load("cifar10", tmp_path / "file", img_size=32)


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
    monkeypatch.setattr(sources, "CIFAR10_URL", f"{server}/cifar.tar.gz")
    folder = tmp_path / "new" / "folder"
    assert len(must_load("cifar10", folder, img_size=32)) == 5 * RECORDS
    assert files_under(tmp_path) == ["cifar-10-binary.tar.gz"]
    monkeypatch.setattr(sources, "CIFAR10_URL", f"{server}/missing")
    assert len(must_load("cifar10", folder, "test", img_size=32)) == RECORDS  # not asked again


def test_a_download_goes_to_the_cache(
    cifar: bytes, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source.tar.gz"
    source.write_bytes(cifar)
    monkeypatch.setattr(sources, "CIFAR10_URL", source.as_uri())
    must_load("cifar10", "", img_size=32)
    assert files_under(own_cache) == ["cifar-10-binary.tar.gz"]


def test_of_a_download_with_another_hash_nothing_is_kept(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "CIFAR10_URL", f"{server}/cifar.tar.gz")
    monkeypatch.setattr(sources, "CIFAR10_SHA256", "0" * 64)
    with pytest.raises(InputError, match=rf"{server}.*expected 0000.*nothing was kept"):
        load("cifar10", tmp_path, img_size=32)
    assert files_under(tmp_path) == []


@pytest.mark.parametrize("path", ["missing", "short"])
def test_of_a_broken_download_nothing_is_kept(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(sources, "CIFAR10_URL", f"{server}/{path}")
    if path == "short":
        monkeypatch.setattr(sources, "CIFAR10_SHA256", "0" * 64)
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


# ---------------------------------------------------------------- parquet


def write_parquet(path: Path, columns: dict[str, Any], features: object = None) -> Path:
    table = pyarrow.table(columns)
    if features is not None:
        facts = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": facts})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path)
    return path


def cells(*indices: int, channels: int = 3) -> list[dict]:
    return [{"bytes": png(pixels(i, channels=channels)), "path": None} for i in indices]


@pytest.mark.parametrize("column", ["img", "image"])
def test_parquet_in_the_hugging_face_layout(tmp_path: Path, column: str) -> None:
    names = ["cat", "dog", "frog"]
    path = write_parquet(
        tmp_path / "train-0.parquet",
        {column: cells(0, 1, 2), "label": [2, 0, 1]},
        {column: {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}},
    )
    image_set = must_load("parquet", path)
    assert_same(image_set.images, channels_first(pixels(0), pixels(1), pixels(2)))
    assert labels_of(image_set) == [2, 0, 1]
    assert image_set.class_names == tuple(names)
    assert load("parquet", path, "test") is None  # one file is one split


def test_parquet_of_plain_bytes_without_labels(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", {"image": [png(pixels(4))]})
    image_set = must_load("parquet", path)
    assert_same(image_set.images, channels_first(pixels(4)))
    assert image_set.labels is None
    assert image_set.class_names == ()


def test_parquet_folder_with_splits_in_several_files(tmp_path: Path) -> None:
    for k in range(6):  # listed by the file system in any order
        columns = {"img": cells(2 * k, 2 * k + 1), "label": [2 * k, 2 * k + 1]}
        write_parquet(tmp_path / f"data/train-{k:05d}.parquet", columns)
    write_parquet(tmp_path / "data/test-00000.parquet", {"img": cells(99), "label": [4]})
    train, test = must_load("parquet", tmp_path), must_load("parquet", tmp_path, "test")
    assert_same(train.images, channels_first(*(pixels(i) for i in range(12))))
    assert labels_of(train) == list(range(12))
    assert_same(test.images, channels_first(pixels(99)))
    assert labels_of(test) == [4]


def test_parquet_folder_without_a_test_split(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", {"img": cells(0)})
    assert load("parquet", tmp_path, "test") is None


@pytest.mark.parametrize(
    "metadata", [b"no json", b"[1]", b"{}", b'{"info": null}', b"[" * 100_000, b"\xff"]
)
def test_class_names_that_cannot_be_read_are_left_out(tmp_path: Path, metadata: bytes) -> None:
    table = pyarrow.table({"img": cells(0), "label": [0]})
    table = table.replace_schema_metadata({"huggingface": metadata})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    assert must_load("parquet", tmp_path / "x.parquet").class_names == ()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"picture": [b"x"]}, r"columns \['picture'\]; one must be img or image"),
        ({"img": [b"no image"]}, "row 0 is no readable image"),
        ({"img": [png(pixels(0)), None]}, "row 1: column img holds no bytes"),
        ({"img": [{"bytes": None, "path": "x.png"}]}, "row 0: column img holds no bytes"),
        ({"img": [1, 2]}, "row 0: column img holds no bytes"),
        ({"img": cells(0), "label": ["cat"]}, "column label holds 'cat'; integers"),
        ({"img": cells(0, 1), "label": [0, None]}, "column label holds None; integers"),
        ({"img": cells(0), "label": [0.5]}, r"column label holds 0\.5; integers"),
        (
            {"img": cells(0), "label": pyarrow.array([2**64 - 1], pyarrow.uint64())},
            "column label holds 18446744073709551615",
        ),
        ({"img": [{"bytes": png_of_size(5000, 5000), "path": None}]}, "row 0 has 5000x5000 pixels"),
    ],
)
def test_wrong_columns_are_refused(tmp_path: Path, columns: dict, message: str) -> None:
    path = write_parquet(tmp_path / "x.parquet", columns)
    with pytest.raises(InputError, match=rf"{re.escape(str(path))}.*{message}"):
        load("parquet", path)


@pytest.mark.parametrize(
    ("labels", "is_allowed"),
    [([0, 1], True), ([-1, 0], True), ([], True), ([0, 2], False), ([-2, 0], False)],
)
def test_labels_beyond_the_class_names_are_refused(
    tmp_path: Path, labels: list[int], is_allowed: bool
) -> None:
    """-1 stands for no label in the Hugging Face layout."""
    columns = {"img": cells(*range(len(labels))), "label": pyarrow.array(labels, pyarrow.int64())}
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    path = write_parquet(tmp_path / "train.parquet", columns, features)
    if is_allowed:
        assert labels_of(must_load("parquet", path)) == labels
    else:
        with pytest.raises(InputError, match="its 2 class names go with 0 to 1"):
            load("parquet", path)


@pytest.mark.parametrize("damage", ["text", "half", "empty"])
def test_a_corrupt_parquet_is_refused(tmp_path: Path, damage: str) -> None:
    path = write_parquet(tmp_path / "x.parquet", {"img": cells(0)})
    content = path.read_bytes()
    path.write_bytes({"text": b"hello", "half": content[: len(content) // 2], "empty": b""}[damage])
    with pytest.raises(InputError, match=rf"{re.escape(str(path))} is no readable parquet"):
        load("parquet", path)


def test_a_missing_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.path: no file or folder .*nowhere"):
        load("parquet", tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"data\.path: no train\*\.parquet in"):
        load("parquet", tmp_path)


# ---------------------------------------------------------------- folders


def write_image(path: Path, image: Pixels | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image if isinstance(image, bytes) else png(image))
    return path


def test_folder_of_classes(tmp_path: Path) -> None:
    write_image(tmp_path / "dog/b.png", pixels(1))
    write_image(tmp_path / "dog/a.PNG", pixels(0))
    write_image(tmp_path / "cat/deep/c.png", pixels(2))
    (tmp_path / "cat/readme.txt").write_text("not an image")
    (tmp_path / ".hidden").mkdir()
    image_set = must_load("folder", tmp_path)
    assert_same(image_set.images, channels_first(pixels(2), pixels(0), pixels(1)))
    assert labels_of(image_set) == [0, 1, 1]
    assert image_set.class_names == ("cat", "dog")
    assert load("folder", tmp_path, "test") is None


def test_folder_without_classes(tmp_path: Path) -> None:
    for k in range(8):
        write_image(tmp_path / f"{k}.png", pixels(k))
    image_set = must_load("folder", tmp_path)
    assert_same(image_set.images, channels_first(*(pixels(k) for k in range(8))))
    assert image_set.labels is None
    assert image_set.class_names == ()


def test_folder_of_classes_with_loose_images_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "cat/a.png", pixels(0))
    write_image(tmp_path / "loose.png", pixels(1))
    with pytest.raises(InputError, match=r"holds images \(loose\.png\) beside folders"):
        load("folder", tmp_path)
    (tmp_path / "loose.png").rename(tmp_path / "cat/b.png")
    (tmp_path / "cat").rename(tmp_path / "train")
    write_image(tmp_path / "another.png", pixels(2))
    with pytest.raises(InputError, match=r"holds images \(another\.png\) beside folders"):
        load("folder", tmp_path)
    (tmp_path / "another.png").unlink()
    (tmp_path / "train").rename(tmp_path / "cat")
    (tmp_path / "cat/b.png").rename(tmp_path / "loose.png")
    (tmp_path / "cat/a.png").unlink()  # an empty folder is no class that anything is left out of
    assert len(must_load("folder", tmp_path)) == 1


def test_an_image_that_cannot_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "a.png", pixels(0))

    def read(path: Path) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", read)
    with pytest.raises(InputError, match=r"cannot read .*a\.png: Input/output error"):
        load("folder", tmp_path)


def test_folder_with_train_and_test(tmp_path: Path) -> None:
    write_image(tmp_path / "train/cat/a.png", pixels(0))
    write_image(tmp_path / "train/dog/a.png", pixels(1))
    write_image(tmp_path / "test/cat/a.png", pixels(2))
    write_image(tmp_path / "test/dog/a.png", pixels(3))
    train, test = must_load("folder", tmp_path), must_load("folder", tmp_path, "test")
    assert_same(train.images, channels_first(pixels(0), pixels(1)))
    assert_same(test.images, channels_first(pixels(2), pixels(3)))
    assert labels_of(train) == labels_of(test) == [0, 1]
    assert train.class_names == ("cat", "dog")


def test_folder_with_train_alone_has_no_test_split(tmp_path: Path) -> None:
    write_image(tmp_path / "train/a.png", pixels(0))
    assert len(must_load("folder", tmp_path)) == 1
    assert load("folder", tmp_path, "test") is None


def test_missing_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.path: no folder .*nowhere"):
        load("folder", tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"data\.path: no images \(\.png.*in "):
        load("folder", tmp_path)


def test_grey_and_colour_are_converted(tmp_path: Path) -> None:
    grey = pixels(0, channels=1)
    path = write_image(tmp_path / "grey/a.png", grey)
    assert_same(must_load("folder", path.parent, in_chans=1).images, channels_first(grey))
    in_colour = must_load("folder", path.parent, in_chans=3).images
    assert_same(in_colour, channels_first(grey).expand(1, 3, 8, 8))
    path = write_image(tmp_path / "colour/a.png", pixels(1))
    luma = (pixels(1).astype(float) @ [0.299, 0.587, 0.114]).round()  # ITU-R BT.601
    in_grey = must_load("folder", path.parent, in_chans=1).images
    torch.testing.assert_close(in_grey[0, 0].double(), torch.from_numpy(luma), rtol=0, atol=1)


def test_other_numbers_of_channels_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", pixels(0))
    with pytest.raises(InputError, match=r"model\.in_chans = 2.*1 \(grey\) or 3"):
        load("folder", tmp_path, in_chans=2)


def test_an_image_of_16_bits_is_refused(tmp_path: Path) -> None:
    """Pillow would clip its values to 255 instead of scaling them."""
    path = tmp_path / "a.png"
    Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(path)
    with pytest.raises(InputError, match=rf"{re.escape(str(path))} has mode I;16.*8 bits"):
        load("folder", tmp_path, in_chans=1)


def test_another_size_is_refused_without_resize(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", pixels(0))
    path = write_image(tmp_path / "b.png", pixels(1, side=9))
    message = rf"{re.escape(str(path))} is 9x9; model\.img_size = 8 \(data\.resize = True"
    with pytest.raises(InputError, match=message):
        load("folder", tmp_path)


def test_resize_scales_the_shorter_side_and_crops_the_middle(tmp_path: Path) -> None:
    wide = np.zeros((32, 96, 3), dtype=np.uint8)
    wide[:, 32:48], wide[:, 48:64] = (255, 0, 0), (0, 0, 255)
    write_image(tmp_path / "a.png", wide)
    write_image(tmp_path / "b.png", wide.transpose(1, 0, 2).copy())
    write_image(tmp_path / "c.png", pixels(0))  # of the right size: not touched
    images = must_load("folder", tmp_path, resize=True).images
    assert images.shape == (3, 3, 8, 8)
    red, green, blue = images[0].double()
    assert (green == 0).all()
    assert (red[:, 1:3] > 250).all() and (red[:, 5:] < 5).all()
    assert (blue[:, 5:7] > 250).all() and (blue[:, :3] < 5).all()
    torch.testing.assert_close(images[1].transpose(1, 2), images[0], rtol=0, atol=1)
    assert_same(images[2:], channels_first(pixels(0)))


@pytest.mark.parametrize("content", [b"", b"hello", png(pixels(0))[:-60]])
def test_unreadable_images_are_refused(tmp_path: Path, content: bytes) -> None:
    path = write_image(tmp_path / "a.png", content)
    with pytest.raises(InputError, match=rf"{re.escape(str(path))} is no readable image"):
        load("folder", tmp_path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("side", "message"),
    [(4097, "4097x4097 pixels; at most"), (10_000, "at most 4096x4096"), (60_000, "exceeds limit")],
)
def test_an_absurdly_large_image_is_refused_before_it_is_decoded(
    tmp_path: Path, side: int, message: str
) -> None:
    """These files end after ten pixels: the message would be another one if they were decoded."""
    path = write_image(tmp_path / "a.png", png_of_size(side, side))
    with pytest.raises(InputError, match=rf"{re.escape(str(path))}.*{message}"):
        load("folder", tmp_path, resize=True)


def test_a_set_too_large_for_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "a.png", pixels(0))
    write_image(tmp_path / "b.png", b"never decoded")
    monkeypatch.setattr(image_files, "MAX_MEMORY_BYTES", 2 * 3 * 8 * 8 - 1)
    with pytest.raises(InputError, match=r"data\.path: 2 images .* 384 bytes; at most 383"):
        load("folder", tmp_path)


# ---------------------------------------------------------------- real images


def test_cifar10_pixels(shared_folder: Path) -> None:
    """All 60,000 images of CIFAR-10 (from a JPEG mirror), where they lie beside the project."""
    folder = shared_folder / "data" / "cifar10-jpeg"
    if not folder.is_dir():
        pytest.skip("there are no CIFAR-10 images beside the project")
    train = must_load("parquet", folder, img_size=32)
    test = must_load("parquet", folder, "test", img_size=32)
    assert train.images.shape == (50_000, 3, 32, 32)
    assert test.images.shape == (10_000, 3, 32, 32)
    assert train.class_names == test.class_names == sources.CIFAR10_CLASSES
    assert train.labels is not None and test.labels is not None
    assert train.labels.bincount().tolist() == [5000] * 10
    assert test.labels.bincount().tolist() == [1000] * 10
    means = train.images.double().mean(dim=(0, 2, 3)) / 255  # the figures that everybody uses
    torch.testing.assert_close(
        means, torch.tensor([0.4914, 0.4822, 0.4465]).double(), rtol=0, atol=2e-3
    )
