"""Parquet tables: which files make up a set, which column holds images, and what labels mean."""

import re
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tests.support.image_sets import (
    assert_same,
    cells,
    channels_first,
    encoded,
    labels_of,
    load,
    must_load,
    pixels,
    png_of_size,
    write_images,
    write_parquet,
)
from uvit_dia.system.errors import InputError


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
    path = write_parquet(tmp_path / "x.parquet", {"image": [encoded(pixels(4))]})
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
        ({"picture": ["x"]}, r"columns \['picture'\]; one must be img or image"),
        ({"pixel_values": [[[0, 1]]]}, r"columns \['pixel_values'\]; one must be img or image"),
        (
            {"a": [b"x"], "b": [{"bytes": b"x"}], "c": [1]},
            "one must be img or image, since several hold bytes: a, b",
        ),
        ({"img": cells(0), "image": cells(0)}, "since several hold bytes: img, image"),
        ({"img": [b"no image"]}, "row 0 is no readable image"),
        ({"img": [encoded(pixels(0)), None]}, "row 1: column img holds no bytes"),
        ({"img": [{"bytes": None, "path": "x.png"}]}, "row 0: column img holds no bytes"),
        ({"img": [1]}, "row 0: column img holds no bytes"),
        ({"img": [1, 2]}, r"row 0 \(column img holds no bytes\), .*row 1 \(column img holds no"),
        ({"img": [{"bytes": png_of_size(15000, 15000)}]}, "row 0 .* 225000000 pixels; at most"),
    ],
)
def test_wrong_columns_are_refused(tmp_path: Path, columns: dict, message: str) -> None:
    path = write_parquet(tmp_path / "x.parquet", columns)
    with pytest.raises(InputError, match=rf"{re.escape(str(tmp_path))}.*x\.parquet.*{message}"):
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


# ---------------------------------------------------------------- columns


@pytest.mark.faults
@pytest.mark.parametrize("column", ["jpg", "png", "pixel_values", "picture"])
def test_the_only_column_that_holds_bytes_is_taken(tmp_path: Path, column: str) -> None:
    path = write_parquet(tmp_path / "x.parquet", {"id": [7], column: cells(3), "text": ["a cat"]})
    image_set = must_load("parquet", path)
    assert_same(image_set.images, channels_first(pixels(3)))
    assert f"images from column {column}" in image_set.summary()


@pytest.mark.faults
@pytest.mark.parametrize("column", ["img", "image"])
def test_image_is_told_from_other_columns_of_bytes(tmp_path: Path, column: str) -> None:
    path = write_parquet(tmp_path / "x.parquet", {"mask": cells(1), column: cells(3)})
    image_set = must_load("parquet", path)
    assert_same(image_set.images, channels_first(pixels(3)))
    assert "left out: column mask" in image_set.summary()


@pytest.mark.faults
def test_the_column_that_the_writer_calls_images_is_taken(tmp_path: Path) -> None:
    columns = {"sound": cells(1), "photo": cells(3)}
    features = {"sound": {"_type": "Audio"}, "photo": {"_type": "Image"}}
    path = write_parquet(tmp_path / "x.parquet", columns, features)
    assert_same(must_load("parquet", path).images, channels_first(pixels(3)))


@pytest.mark.faults
@pytest.mark.parametrize("kind", [pyarrow.binary(), pyarrow.large_binary()])
def test_bytes_of_any_width_are_images(tmp_path: Path, kind: pyarrow.DataType) -> None:
    column = pyarrow.array([encoded(pixels(2))], kind)
    path = write_parquet(tmp_path / "x.parquet", {"image": column})
    assert_same(must_load("parquet", path).images, channels_first(pixels(2)))


@pytest.mark.faults
def test_columns_with_dots_are_read(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", {"photo.jpg": cells(2), "photo": [{"jpg": b"x"}]})
    assert_same(must_load("parquet", path).images, channels_first(pixels(2)))


@pytest.mark.faults
def test_images_that_lie_elsewhere_are_told(tmp_path: Path) -> None:
    column = [{"bytes": None, "path": "photos/1.jpg"}]
    path = write_parquet(tmp_path / "x.parquet", {"image": column})
    with pytest.raises(InputError, match=r"holds no bytes, only the path photos/1\.jpg"):
        load("parquet", path)


# ---------------------------------------------------------------- labels


@pytest.mark.faults
@pytest.mark.parametrize(
    ("labels", "numbers", "names"),
    [
        (["dog", "cat", "dog"], [1, 0, 1], ("cat", "dog")),
        (["dog", None, "dog"], [0, -1, 0], ("dog",)),
        ([True, False, True], [1, 0, 1], ("False", "True")),
        ([2.0, 0.0, None], [2, 0, -1], ()),
        ([5, None, 0], [5, -1, 0], ()),
        (pyarrow.array(["b", "a", "b"]).dictionary_encode(), [1, 0, 1], ("a", "b")),
    ],
    ids=str,
)
def test_labels_of_other_kinds_are_read(
    tmp_path: Path, labels: Any, numbers: list[int], names: tuple[str, ...]
) -> None:
    path = write_parquet(tmp_path / "x.parquet", {"img": cells(0, 1, 2), "label": labels})
    image_set = must_load("parquet", path)
    assert labels_of(image_set) == numbers
    assert image_set.class_names == names


@pytest.mark.faults
@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ([0.5, 1.0], "0.5"),
        ([1.0, float("inf")], "inf"),
        ([[1], [2]], "[1]"),
        ([{"a": 1}, None], "{'a': 1}"),
        (pyarrow.array([2**64 - 1, 0], pyarrow.uint64()), "18446744073709551615"),
    ],
    ids=str,
)
def test_labels_that_mean_no_class_are_left_out_and_told(
    tmp_path: Path, labels: Any, found: str
) -> None:
    """No training needs labels: images are not refused for them."""
    path = write_parquet(tmp_path / "x.parquet", {"img": cells(0, 1), "label": labels})
    image_set = must_load("parquet", path)
    assert (image_set.labels, image_set.class_names) == (None, ())
    assert f"column label left out: it holds {found}" in image_set.summary()


# ---------------------------------------------------------------- shards


def write_shards(folder: Path, *names: str, label: object = 0) -> Path:
    """Write tables of two images each, every one with pixels of its own."""
    for index, name in enumerate(names):
        columns = {"img": cells(2 * index, 2 * index + 1), "label": [label, label]}
        write_parquet(folder / f"{name}.parquet", columns)
    return folder


def refusal(path: Path, split: str = "train") -> str:
    with pytest.raises(InputError) as caught:
        load("parquet", path, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


WHOLE = {
    "one": ("train",),
    "numbered of": ("data/train-00000-of-00002", "data/train-00001-of-00002"),
    "from 1": ("train-1-of-2", "train-2-of-2"),
    "with hashes": ("data/train-00000-of-00002-3f0a", "data/train-00001-of-00002-77bc"),
    "numbered": ("train_0", "train_1"),
    "of a named set": ("cifar10-train-0", "cifar10-train-1"),
    "folder of a split": ("default/train/0000", "default/train/0001"),
    "folder of any names": ("train/cats", "train/dogs"),
    "both": ("train/train-00000-of-00001",),
    "no split": ("0000", "0001"),
    "years in a folder": ("train/2019", "train/2021"),
    "other case": ("Train-0",),
}


@pytest.mark.faults
@pytest.mark.parametrize("names", WHOLE.values(), ids=WHOLE)
def test_whole_sets_are_read(tmp_path: Path, names: tuple[str, ...]) -> None:
    write_shards(tmp_path, *names)
    image_set = must_load("parquet", tmp_path)
    assert_same(image_set.images, channels_first(*(pixels(i) for i in range(2 * len(names)))))


BROKEN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "missing": (
        ("train-00000-of-00005", "train-00003-of-00005"),
        ("3 of 5 shards are missing", "train-00001-of-00005.parquet, train-00002-of-00005"),
    ),
    "last missing": (("train-00000-of-00002",), ("1 of 2 shards", "train-00001-of-00002.parquet")),
    "gap": (("train/0000", "train/0001", "train/0003"), ("1 of 4 shards", "0002.parquet")),
    "start missing": (("train-00003",), ("3 of 4 shards are missing", "train-00000.parquet")),
    "two folders": (
        ("plain/train-0", "augmented/train-0", "augmented/train-1"),
        ("2 sets: augmented/train-*.parquet 2 files, plain/train-*.parquet 1",),
    ),
    "two branches": (
        ("data/train-00000-of-00001", "default/train/0000"),
        ("data/train-*-of-*.parquet 1 file, default/train/ 1",),
    ),
    "two names": (("small-train-0", "large-train-0"), ("large-train-*.parquet 1 file, small-",)),
    "whole beside shards": (
        ("train", "train-00000-of-00001"),
        ("2 sets: train-*-of-*.parquet 1 file, train.parquet 1",),
    ),
    "versions": (("train-v1", "train-v2"), ("train-v1.parquet 1 file, train-v2.parquet 1",)),
    "sizes": (("train_256", "train_512"), ("of 513 shards are missing",)),
    "two totals": (("train-0-of-1", "train-0-of-2", "train-1-of-2"), ("several editions",)),
    "two revisions": (("train-0-of-1-aa", "train-0-of-1-bb"), ("several editions",)),
    "no split, two names": (("a", "b"), ("2 sets: a.parquet 1 file, b.parquet 1",)),
    "test alone": (("test",), ("no train*.parquet in", "test 1 file")),
}


@pytest.mark.faults
@pytest.mark.parametrize(("names", "said"), BROKEN.values(), ids=BROKEN)
def test_parts_of_a_set_and_several_sets_are_refused(
    tmp_path: Path, names: tuple[str, ...], said: tuple[str, ...]
) -> None:
    write_shards(tmp_path, *names)
    found = refusal(tmp_path)
    assert all(part in found for part in said), found


@pytest.mark.faults
def test_one_shard_is_read_where_it_is_asked_for(tmp_path: Path) -> None:
    write_shards(tmp_path, "train-00000-of-00005")
    image_set = must_load("parquet", tmp_path / "train-00000-of-00005.parquet")
    assert len(image_set) == 2
    assert "one of 5 shards" in image_set.summary()


@pytest.mark.faults
@pytest.mark.parametrize("held_out", ["test", "validation", "val", "dev", "eval"])
def test_held_out_tables_under_other_names(tmp_path: Path, held_out: str) -> None:
    write_shards(tmp_path, "train-0", f"{held_out}-0", "extra")
    image_set, test = must_load("parquet", tmp_path), must_load("parquet", tmp_path, "test")
    assert_same(image_set.images, channels_first(pixels(0), pixels(1)))
    assert_same(test.images, channels_first(pixels(2), pixels(3)))
    assert "left out: 2 parquet file(s) of other splits (" in image_set.summary()


@pytest.mark.faults
def test_held_out_tables_are_of_the_same_set(tmp_path: Path) -> None:
    write_shards(tmp_path, "plain/train/0", "plain/test/0", "augmented/test/0")
    assert_same(must_load("parquet", tmp_path, "test").images, channels_first(pixels(2), pixels(3)))
    (tmp_path / "plain/test/0.parquet").unlink()
    assert load("parquet", tmp_path, "test") is None


@pytest.mark.faults
def test_other_files_beside_tables_are_told(tmp_path: Path) -> None:
    write_shards(tmp_path, "train")
    write_shards(tmp_path, ".cache/huggingface/train")
    write_images(tmp_path, "preview.png")
    summary = must_load("parquet", tmp_path).summary()
    assert "1 image file(s) (preview.png)" in summary
    assert "1 hidden or of the system (.cache)" in summary


@pytest.mark.faults
def test_tables_behind_links_are_read_and_links_to_nothing_refused(tmp_path: Path) -> None:
    store = write_shards(tmp_path / "store", "0000")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/train").symlink_to(store)
    assert len(must_load("parquet", tmp_path / "set")) == 2
    (tmp_path / "set/train/0001.parquet").symlink_to(tmp_path / "gone")
    assert "0001.parquet is a link to nothing" in refusal(tmp_path / "set")


@pytest.mark.faults
def test_a_folder_of_images_is_told_from_one_of_tables(tmp_path: Path) -> None:
    write_images(tmp_path, "train/a.png", "train/b.png")
    assert "it holds 2 image file(s) such as a.png (data.name = 'folder' reads" in refusal(tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (
            {"image": cells(9), "label": [0]},
            "['image', 'label'], but {first} holds its images in img",
        ),
        ({"img": ["x"], "label": [0]}, "holds string in column img, but {first} struct<"),
        (
            {"img": cells(9), "label": ["cat"]},
            "has labels of text, but {first} has labels of integers",
        ),
        ({"img": cells(9)}, "has no column label, but {first} has labels of integers"),
    ],
)
def test_tables_that_differ_are_refused(tmp_path: Path, columns: dict, said: str) -> None:
    write_shards(tmp_path, "train-0", "train-1")
    write_parquet(tmp_path / "train-2.parquet", columns)
    found = refusal(tmp_path)
    assert str(tmp_path / "train-2.parquet") in found
    assert said.format(first=tmp_path / "train-0.parquet") in found


@pytest.mark.faults
def test_tables_of_other_classes_are_refused(tmp_path: Path) -> None:
    for number, names in enumerate((["cat", "dog"], ["cat", "dog"], ["dog", "cat"])):
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        columns = {"img": cells(number), "label": [0]}
        write_parquet(tmp_path / f"train-{number}.parquet", columns, features)
    assert "train-2.parquet has other class names than" in refusal(tmp_path)


@pytest.mark.faults
def test_tables_of_other_widths_are_one_set(tmp_path: Path) -> None:
    for number, kind in enumerate((pyarrow.int64(), pyarrow.int8())):
        labels = pyarrow.array([number], kind)
        columns = {"img": cells(number), "label": labels, f"extra{number}": [0]}
        write_parquet(tmp_path / f"train-{number}.parquet", columns)
    assert labels_of(must_load("parquet", tmp_path)) == [0, 1]


# ---------------------------------------------------------------- which table is at fault


@pytest.mark.faults
def test_damaged_tables_are_told_by_their_names(tmp_path: Path) -> None:
    write_shards(tmp_path, "train-0", "train-1", "train-2", "train-3")
    third, fourth = tmp_path / "train-2.parquet", tmp_path / "train-3.parquet"
    third.write_bytes(third.read_bytes()[:-8])
    assert f"{third} is no readable parquet: Parquet magic bytes" in refusal(tmp_path)
    fourth.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid")
    said = refusal(tmp_path)
    assert said.startswith(f"2 of 4 files are no readable parquet: {third} (")
    assert f"{fourth} (a Git LFS pointer" in said


@pytest.mark.faults
def test_an_unreadable_cell_is_told_by_its_own_table_and_row(tmp_path: Path) -> None:
    write_shards(tmp_path, "train-0", "train-1")
    column = [*cells(*range(40)), {"bytes": b"no image", "path": None}]
    columns = {"img": column, "label": [0] * 41}
    path = write_parquet(tmp_path / "train-2.parquet", columns)
    assert refusal(tmp_path).startswith(f"{path}, row 40 is no readable image: text that begins")
    image_set = must_load("parquet", tmp_path, skip_unreadable=True)
    assert len(image_set) == 44
    assert f"1 unreadable ({path}, row 40: " in image_set.summary()


@pytest.mark.faults
def test_a_label_without_a_name_is_told_by_its_own_table_and_row(tmp_path: Path) -> None:
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    for number, labels in enumerate(([0, 1], [1, 0], [1, 2])):
        columns = {"img": cells(0, 1), "label": labels}
        path = write_parquet(tmp_path / f"train-{number}.parquet", columns, features)
    assert refusal(tmp_path).startswith(f"{path}, row 1: column label holds 2; its 2 class names")


@pytest.mark.faults
def test_damage_within_a_table_is_told_by_its_name(tmp_path: Path) -> None:
    write_shards(tmp_path, "train-0", "train-1")
    path = tmp_path / "train-1.parquet"
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(
        196
    )  # the pages; the end of the file, which says where they are, is whole
    path.write_bytes(content)
    assert f"{path} is no readable parquet" in refusal(tmp_path)
