"""Folders of images: which of them are classes, which are splits, and what is left out."""

import os
import socket
from pathlib import Path

import pytest

from tests.support.image_sets import (
    assert_same,
    channels_first,
    encoded,
    labels_of,
    load,
    must_load,
    pixels,
    write_image,
    write_images,
)
from uvit_dia.system.errors import InputError


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


# ---------------------------------------------------------------- classes or splits


def refusal(path: Path, **settings: object) -> str:
    with pytest.raises(InputError) as caught:
        load("folder", path, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.faults
@pytest.mark.parametrize(
    "folders",
    [
        ("car", "train", "bus"),
        ("car", "Training", "bus"),
        ("cat", "dog", "val"),
        ("cat", "test"),
        ("train", "test", "extra"),
        ("train", "train2017"),
        ("train2017", "val2017"),
        ("DIV2K_train_HR", "DIV2K_valid_HR", "other"),
    ],
)
def test_classes_and_splits_side_by_side_are_refused_with_their_counts(
    tmp_path: Path, folders: tuple[str, ...]
) -> None:
    """Nobody can tell whether train is a class; part of the images would be left out in silence."""
    write_images(tmp_path, *(f"{folder}/{name}.png" for folder in folders for name in "ab"))
    said = refusal(tmp_path)
    assert all(f"{folder} 2" in said for folder in folders), said
    together = tmp_path / "train-them" / "train"  # what the message advises
    together.mkdir(parents=True)
    for folder in folders:
        (tmp_path / folder).rename(together / folder)
    assert must_load("folder", together.parent).class_names == tuple(sorted(folders))


@pytest.mark.faults
@pytest.mark.parametrize("train", ["train", "Train", "training"])
@pytest.mark.parametrize(
    "held_out", ["test", "testing", "eval", "val", "validation", "valid", "dev"]
)
def test_splits_under_other_names_are_splits(tmp_path: Path, train: str, held_out: str) -> None:
    write_images(tmp_path, f"{train}/cat/a.png", f"{train}/dog/a.png", f"{held_out}/dog/b.png")
    image_set, test = must_load("folder", tmp_path), must_load("folder", tmp_path, "test")
    assert_same(image_set.images, channels_first(pixels(0), pixels(1)))
    assert_same(test.images, channels_first(pixels(2)))
    assert labels_of(test) == [1]  # dog, as in the training split
    assert image_set.class_names == test.class_names == ("cat", "dog")
    assert f"folder {tmp_path}, {train}: 2 images" in image_set.summary()
    assert f"beside it: {held_out}" in image_set.summary()


@pytest.mark.faults
def test_a_validation_split_stands_in_for_a_test_split_but_not_beside_it(tmp_path: Path) -> None:
    write_images(tmp_path, "train/a.png", "val/b.png", "test/c.png", "test/d.png")
    assert len(must_load("folder", tmp_path, "test")) == 2


@pytest.mark.faults
@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("test/a.png",), "no folder of train images: test 1 image; one must be named train"),
        (
            ("val/a.png", "test/a.png", "test/b.png"),
            "no folder of train images: test 2 images, val 1",
        ),
        (("train/a.png", "Train/a.png"), "several folders of train images: Train 1 image, train 1"),
        (("train/a.png", "training/a.png"), "several folders of train images"),
        (("images/train/a.png", "images/val/b.png"), "images/train 1 image, images/val 1"),
        (("cat/train/a.png", "cat/test/a.png", "dog/train/a.png"), "cat/test 1 image, cat/train 1"),
    ],
)
def test_splits_that_cannot_be_meant_are_refused(
    tmp_path: Path, files: tuple[str, ...], said: str
) -> None:
    write_images(tmp_path, *files)
    assert said in refusal(tmp_path)


@pytest.mark.faults
def test_folders_without_images_are_neither_splits_nor_classes(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/a.png", "dog/a.png")
    (tmp_path / "test").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5")
    image_set = must_load("folder", tmp_path)
    assert len(image_set) == 2
    assert "2 images in 2 classes (cat 1, dog 1)" in image_set.summary()
    assert "no images in labels, test" in image_set.summary()
    assert load("folder", tmp_path, "test") is None


@pytest.mark.faults
def test_nested_folders_count_to_the_outermost_class(tmp_path: Path) -> None:
    write_images(tmp_path, "animals/cat/a.png", "animals/dog/b.png", "cars/c.png")
    summary = must_load("folder", tmp_path).summary()
    assert "3 images in 2 classes (animals 2, cars 1)" in summary
    assert "2 in folders inside class folders" in summary


@pytest.mark.faults
def test_class_names_that_differ_in_case_or_form_only_are_told(tmp_path: Path) -> None:
    write_images(tmp_path, "Cat/a.png", "cat/a.png", "e\u0301/a.png", "\xe9/a.png")
    if len(list(tmp_path.iterdir())) != 4:
        pytest.skip("this file system takes such names for one")
    summary = must_load("folder", tmp_path).summary()
    assert "4 images in 4 classes" in summary
    assert "Cat and cat count as several classes" in summary
    assert "e\u0301 and \xe9 count as several classes" in summary


# ---------------------------------------------------------------- what systems and people leave
# there


@pytest.mark.faults
def test_files_of_the_system_are_passed_over_and_told(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/a.png", "cat/.ipynb_checkpoints/a-checkpoint.png", "cat/.b.png")
    write_images(tmp_path, "__MACOSX/cat/._a.png", "cat/@eaDir/thumb.jpg", ".cache/x/y.png")
    for name in (".DS_Store", "Thumbs.db", "cat/._a.png", "cat/desktop.ini"):
        (tmp_path / name).write_bytes(b"\0\5\26\7")
    image_set = must_load("folder", tmp_path)
    assert_same(image_set.images, channels_first(pixels(0)))
    assert image_set.class_names == ("cat",)
    assert "left out: 9 hidden or of the system (.DS_Store, " in image_set.summary()


@pytest.mark.faults
def test_other_files_are_told_by_their_kind(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/a.png")
    for name in ("metadata.csv", "cat/a.txt", "cat/b", "old.zip", "x.parquet", "b.png.part"):
        (tmp_path / name).write_bytes(b"x")
    summary = must_load("folder", tmp_path).summary()
    for part in (
        "1 archive",
        "1 parquet",
        "1 unfinished",
        "3 other file(s) (a.txt, b, metadata.csv)",
    ):
        assert part in summary


@pytest.mark.faults
@pytest.mark.parametrize("name", ["a.heic", "a.HEIF", "a.svg", "a.dng", "a.jxl"])
def test_images_of_kinds_that_are_not_read_are_refused_by_name(tmp_path: Path, name: str) -> None:
    write_images(tmp_path, "cat/b.png")
    write_image(tmp_path / "cat" / name, b"x")
    said = refusal(tmp_path)
    assert f"{name} is no readable image: {Path(name).suffix.lower()} is not read" in said
    image_set = must_load("folder", tmp_path, skip_unreadable=True)
    assert len(image_set) == 1
    assert f"left out: 1 unreadable ({tmp_path / 'cat' / name}: " in image_set.summary()


@pytest.mark.faults
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    os.mkfifo(tmp_path / "b.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / "c.png"))
    image_set = must_load("folder", tmp_path)
    assert len(image_set) == 1
    assert "2 neither file nor folder (b.png, c.png)" in image_set.summary()


@pytest.mark.faults
def test_names_that_are_no_utf8_are_read_and_printable(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9/\xff.JPG")
    try:
        write_image(tmp_path / name, encoded(pixels(0), "JPEG"))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    image_set = must_load("folder", tmp_path)
    assert len(image_set) == 1
    image_set.summary().encode()
    assert "1 class (caf\ufffd 1)" in image_set.summary()


@pytest.mark.faults
def test_what_else_a_folder_without_images_holds_is_told(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"")
    (tmp_path / "images.zip").write_bytes(b"")
    said = refusal(tmp_path)
    assert "1 parquet file(s) such as train.parquet (data.name = 'parquet' reads them)" in said
    assert "1 archive file(s) such as images.zip (unpack them first)" in said


@pytest.mark.faults
def test_a_folder_that_may_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path, "cat/a.png", "dog/a.png")
    scandir = os.scandir

    def forbidden(path: Path) -> object:
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    assert "cannot read the folder" in refusal(tmp_path)
    assert "dog: Permission denied" in refusal(tmp_path)


# ---------------------------------------------------------------- links


@pytest.mark.faults
def test_linked_folders_are_entered(tmp_path: Path) -> None:
    store = write_images(tmp_path / "store", "b.png", "deep/c.png")
    images = write_images(tmp_path / "images", "cat/a.png").resolve()
    (images / "cat/more").symlink_to(store)
    (images / "dog").symlink_to(write_images(tmp_path / "dogs", "d.png"))
    image_set = must_load("folder", images)
    assert labels_of(image_set) == [0, 0, 0, 1]
    assert image_set.class_names == ("cat", "dog")


@pytest.mark.faults
def test_each_folder_is_read_once_however_many_links_lead_to_it(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/a.png", "cat/deep/b.png", "dog/c.png")
    (tmp_path / "cat/loop").symlink_to(tmp_path)
    (tmp_path / "cat/deep/self").symlink_to(tmp_path / "cat/deep")
    (tmp_path / "dog/again").symlink_to(tmp_path / "cat")
    image_set = must_load("folder", tmp_path)
    assert labels_of(image_set) == [0, 0, 1]
    assert "3 link(s) to folders that are read anyway" in image_set.summary()


@pytest.mark.faults
@pytest.mark.parametrize("name", ["b.png", "folder"])
def test_links_to_nothing_are_refused_or_told(tmp_path: Path, name: str) -> None:
    write_images(tmp_path, "cat/a.png")
    (tmp_path / "cat" / name).symlink_to(tmp_path / "gone")
    assert f"{name} is no readable image: a link to nothing" in refusal(tmp_path)
    image_set = must_load("folder", tmp_path, skip_unreadable=True)
    assert len(image_set) == 1
    assert f"cat/{name}: a link to nothing" in image_set.summary()


@pytest.mark.faults
def test_images_behind_links_are_read(tmp_path: Path) -> None:
    file = write_image(tmp_path / "store/a.png", pixels(5))
    (tmp_path / "images").mkdir()
    (tmp_path / "images/b.png").symlink_to(file)
    assert_same(must_load("folder", tmp_path / "images").images, channels_first(pixels(5)))


# ---------------------------------------------------------------- unreadable images


@pytest.mark.faults
def test_all_unreadable_images_are_told_at_once(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"good{k}.png" for k in range(3)))
    write_image(tmp_path / "a.png", b"")
    write_image(tmp_path / "b.png", b"<!DOCTYPE html><html>404</html>")
    write_image(tmp_path / "c.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:0")
    write_image(tmp_path / "d.png", encoded(pixels(0))[:-60])
    said = refusal(tmp_path)
    assert said.startswith(f"4 of 7 images in {tmp_path} cannot be read: a.png (an empty file), ")
    assert "b.png (an HTML page), c.png (a Git LFS pointer; git lfs pull fetches" in said
    assert "and 1 more" in said
    image_set = must_load("folder", tmp_path, skip_unreadable=True)
    assert_same(image_set.images, channels_first(*(pixels(k) for k in range(3))))
    assert "left out: 4 unreadable" in image_set.summary()


@pytest.mark.faults
def test_labels_stay_with_their_images_where_others_are_left_out(tmp_path: Path) -> None:
    write_images(tmp_path, "a/1.png", "b/1.png", "b/2.png", "c/1.png")
    write_image(tmp_path / "b/0.png", b"")
    write_image(tmp_path / "a/2.png", b"x")
    image_set = must_load("folder", tmp_path, skip_unreadable=True)
    assert_same(image_set.images, channels_first(*(pixels(k) for k in range(4))))
    assert labels_of(image_set) == [0, 1, 1, 2]


@pytest.mark.faults
def test_a_set_without_a_readable_image_is_refused_even_so(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", b"")
    assert "a.png is no readable image" in refusal(tmp_path, skip_unreadable=True)
