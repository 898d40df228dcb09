"""The copy of decoded images that a second start reads.

When it holds, and what becomes of a bad one.
"""

import os
from pathlib import Path

import pytest
import torch

from tests.support.image_sets import (
    assert_same,
    cells,
    encoded,
    must_load,
    pixels,
    write_image,
    write_images,
    write_parquet,
)
from uvit_dia.data import decoded_cache, listed_set
from uvit_dia.data.images import ImageSet

pytestmark = pytest.mark.faults


@pytest.fixture(autouse=True)
def all_is_worth_keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listed_set, "WORTH_KEEPING_SECONDS", 0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", "cat/a.png", "cat/b.png", "dog/a.png")


@pytest.fixture
def num_decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by the origin of each image that is decoded."""
    from uvit_dia.data import decoded_set

    origins: list[str] = []
    decode = decoded_set.decode

    def counting(content: bytes, origin: str, image_format: object) -> object:
        origins.append(origin)
        return decode(content, origin, image_format)  # type: ignore[arg-type]

    monkeypatch.setattr(decoded_set, "decode", counting)
    return origins


def copies(cache: Path) -> list[Path]:
    return sorted((cache / "images").iterdir()) if (cache / "images").exists() else []


def assert_equal(one: ImageSet, two: ImageSet) -> None:
    assert_same(one.images, two.images)
    assert one.labels is not None and two.labels is not None
    assert one.labels.tolist() == two.labels.tolist()
    assert (one.name, one.class_names) == (two.name, two.class_names)


def test_a_second_start_decodes_nothing(
    folder: Path, own_cache: Path, num_decoded: list[str]
) -> None:
    first = must_load("folder", folder)
    (copy,) = copies(own_cache)
    assert f"kept for the next start in {copy}" in first.summary()
    second = must_load("folder", folder)
    assert len(num_decoded) == 3
    assert_equal(first, second)
    assert f"decoded by an earlier start ({copy})" in second.summary()
    second.images[0] = 0  # it is the second start's own
    assert_equal(first, must_load("folder", folder))


def test_a_short_decoding_leaves_nothing(
    folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listed_set, "WORTH_KEEPING_SECONDS", 10.0)
    must_load("folder", folder)
    assert copies(own_cache) == []


def test_tables_are_kept_too(tmp_path: Path, num_decoded: list[str]) -> None:
    columns = {"img": cells(0, 1), "label": ["a", "b"]}
    path = write_parquet(tmp_path / "x.parquet", columns)
    assert_equal(must_load("parquet", path), must_load("parquet", path))
    assert len(num_decoded) == 2
    write_parquet(path, {"img": cells(0, 5), "label": ["a", "b"]})
    assert must_load("parquet", path).images[1].sum() == pixels(5).sum()


@pytest.mark.parametrize(
    "change", ["content", "new", "gone", "renamed", "time", "settings", "link"]
)
def test_a_change_is_decoded_again(
    folder: Path, num_decoded: list[str], change: str, tmp_path: Path
) -> None:
    file = write_image(folder / "cat/b.png", encoded(pixels(1), "BMP"))
    must_load("folder", folder)
    must_load("folder", folder)
    assert len(num_decoded) == 3
    settings = {}
    if change == "content":
        before = file.stat()
        write_image(file, encoded(pixels(7), "BMP"))
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as tar and rsync -t do
        assert file.stat().st_size == before.st_size
    elif change == "new":
        write_image(folder / "cat/c.png", pixels(7))
    elif change == "gone":
        file.unlink()
    elif change == "renamed":
        file.rename(folder / "cat/c.png")
    elif change == "time":
        os.utime(file, (1, 1))
    elif change == "settings":
        settings = {"background": "black"}
    elif change == "link":
        other = write_image(tmp_path / "other.png", pixels(7))
        file.unlink()
        file.symlink_to(other)
    must_load("folder", folder, **settings)
    assert len(num_decoded) in (5, 6, 7)


def test_what_could_not_be_read_is_not_forgotten(folder: Path, num_decoded: list[str]) -> None:
    write_image(folder / "cat/aa.png", b"")
    first = must_load("folder", folder, skip_unreadable=True)
    second = must_load("folder", folder, skip_unreadable=True)
    assert len(num_decoded) == 4
    assert_equal(first, second)
    assert second.labels is not None and second.labels.tolist() == [0, 0, 1]
    assert "1 unreadable" in second.summary()


@pytest.mark.parametrize(
    "damage", ["empty", "torn", "flip", "longer", "text", "pickle", "header", "folder"]
)
def test_a_damaged_copy_is_told_and_replaced(
    folder: Path, own_cache: Path, num_decoded: list[str], damage: str
) -> None:
    expected = must_load("folder", folder)
    (copy,) = copies(own_cache)
    content = copy.read_bytes()
    flipped = bytearray(content)
    flipped[-1] ^= 1
    damaged = {
        "empty": b"",
        "torn": content[:-100],
        "flip": bytes(flipped),
        "longer": content + b"x",
        "text": b"hello\n",
        "pickle": b"\x80\x04cos\nsystem\n",
        "header": content.replace(b'"unread_rows": []', b'"unread_rows": 77'),
    }
    if damage == "folder":
        copy.unlink()
        copy.mkdir()
    else:
        copy.write_bytes(damaged[damage])
    image_set = must_load("folder", folder)
    assert len(num_decoded) == 6
    assert_equal(image_set, expected)
    if damage == "folder":
        assert "warning: not kept for the next start" in image_set.summary()
    else:
        assert f"warning: {copy} is damaged (" in image_set.summary()
        assert copy.read_bytes() == content


@pytest.mark.parametrize("place", ["below a file", "no home", "full", "disk error"])
def test_without_a_cache_images_are_read_all_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    if place == "below a file":
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("UVIT_DIA_CACHE", str(tmp_path / "file"))
    elif place == "no home":
        monkeypatch.delenv("UVIT_DIA_CACHE")

        def home() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(decoded_cache, "cache_folder", home)
    elif place == "full":
        monkeypatch.setattr(decoded_cache, "SHARE_OF_FREE_SPACE", 1e-15)
    else:

        def fail(path: Path) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(decoded_cache, "fsync_path", fail)
    image_set = must_load("folder", folder)
    assert len(image_set) == 3
    assert "not kept for the next start" in image_set.summary()
    assert not [p for p in tmp_path.rglob("*") if ".tmp" in p.name or p.suffix == ".bin"]


def test_files_that_change_while_they_are_decoded_leave_no_copy(
    folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode_all = listed_set.decode_all

    def changing(*arguments: object, **settings: object) -> object:
        decoded = decode_all(*arguments, **settings)  # type: ignore[arg-type]
        write_image(folder / "dog/a.png", pixels(9))
        return decoded

    monkeypatch.setattr(listed_set, "decode_all", changing)
    must_load("folder", folder)
    assert copies(own_cache) == []


def test_the_copy_belongs_to_its_owner_only_as_far_as_the_umask_says(
    folder: Path, own_cache: Path
) -> None:
    must_load("folder", folder)
    umask = os.umask(0)
    os.umask(umask)
    (copy,) = copies(own_cache)
    assert copy.stat().st_mode & 0o777 == 0o666 & ~umask
    assert torch.equal(must_load("folder", folder).images, must_load("folder", folder).images)
