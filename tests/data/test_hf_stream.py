"""The first images of a stream, kept as a set; local streams, which the tests make."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.configs import changed
from uvit_dia.config.checks import make_config
from uvit_dia.data import __main__ as data_command
from uvit_dia.data import hf_stream
from uvit_dia.data.images import ImageSet
from uvit_dia.data.sources import load_image_set
from uvit_dia.system.errors import InputError, StorageError

datasets = pytest.importorskip("datasets")
COUNT = 24
CLASSES = ["cat", "dog", "eel"]


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UVIT_DIA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_cache")
    return tmp_path / "cache" / "streams"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of images in classes, whose names give their order."""
    for index, image in enumerate(pixels()):
        place = tmp_path / "images" / CLASSES[index // 8]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{index:02d}.png")
    return tmp_path / "images"


def read(path: Path | str, count: int, split: str = "train", **changes: object) -> ImageSet | None:
    options = {"img_size": 8, "in_chans": 3, "show_progress": False, **changes}
    return load_image_set("hf", str(path), split, stream_images=count, **options)  # type: ignore[arg-type]


def rows(found: ImageSet) -> np.ndarray:
    return found.images.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("memory_map", [False, True])
def test_the_first_images_are_a_set_of_their_own(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, memory_map: bool
) -> None:
    found = read(folder, 10, memory_map=memory_map)
    assert found is not None and found.labels is not None
    assert np.array_equal(rows(found), pixels()[:10])
    assert found.labels.tolist() == [0] * 8 + [1] * 2 and found.class_names == tuple(CLASSES)
    assert "first 10" in found.source and len(list(cache.iterdir())) == 1

    def unread(*arguments: object, **more: object) -> None:
        raise AssertionError("the set was opened again")

    monkeypatch.setattr(hf_stream, "load", unread)
    again = read(folder, 10, memory_map=memory_map)
    assert again is not None and torch.equal(again.images, found.images)
    assert again.fingerprint() == found.fingerprint()


def test_a_set_that_the_library_saved_is_streamed_too(tmp_path: Path) -> None:
    features = datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=CLASSES)}
    )
    table = {"picture": [Image.fromarray(image) for image in pixels()], "kind": [2] * COUNT}
    saved = datasets.Dataset.from_dict(table, features=features)
    datasets.DatasetDict({"train": saved}).save_to_disk(str(tmp_path / "saved"))
    found = read(tmp_path / "saved", 3)
    assert found is not None and found.labels is not None
    assert np.array_equal(rows(found), pixels()[:3]) and found.labels.tolist() == [2] * 3
    assert read(tmp_path / "saved", 3, "test") is None


def test_of_an_endless_stream_no_more_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def endless() -> Iterator[dict[str, object]]:
        index = 0
        while True:
            drawn.append(index)
            yield {"image": Image.fromarray(pixels()[index % COUNT])}
            index += 1

    features = datasets.Features({"image": datasets.Image()})
    stream = datasets.IterableDataset.from_generator(endless, features=features)
    monkeypatch.setattr(hf_stream, "load", lambda path, streaming: {"train": stream})
    found = read("someone/endless", 5)
    assert found is not None and np.array_equal(rows(found), pixels()[:5])
    assert found.labels is None and len(drawn) <= 6


def test_a_stream_that_ends_before_is_told(folder: Path) -> None:
    found = read(folder, 100)
    assert found is not None and len(found) == COUNT
    assert any(f"the first {COUNT} of a stream" in note for note in found.notes)
    assert any("it ended before 100" in note for note in found.notes)


def test_a_change_of_local_files_is_noticed(folder: Path) -> None:
    before = read(folder, 4)
    Image.fromarray(pixels()[-1]).save(folder / "cat" / "00.png")
    after = read(folder, 4)
    assert before is not None and after is not None
    assert np.array_equal(rows(after)[0], pixels()[-1])
    assert np.array_equal(rows(after)[1:], rows(before)[1:])


def test_a_stream_that_breaks_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaking() -> Iterator[dict[str, object]]:
        for image in pixels()[:3]:
            yield {"image": Image.fromarray(image)}
        raise ConnectionError("the peer\nis gone")

    features = datasets.Features({"image": datasets.Image()})
    stream = datasets.IterableDataset.from_generator(breaking, features=features)
    monkeypatch.setattr(hf_stream, "load", lambda path, streaming: {"train": stream})
    with pytest.raises(InputError) as refused:
        read("someone/breaking", 5)
    assert "the stream of someone/breaking broke: the peer is gone" in str(refused.value)
    assert list(cache.iterdir()) == []


def test_a_copy_that_cannot_be_written_is_one_line(folder: Path, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("not a folder")
    with pytest.raises(StorageError, match=r"data\.stream_images: cannot write .*streams: "):
        read(folder, 5)


def test_only_kind_hf_has_a_stream() -> None:
    changes: dict[str, object] = {"data.name": "folder", "data.path": "IMAGES"}
    with pytest.raises(InputError, match=r"data\.stream_images = 5: .* allowed with hf"):
        make_config(changed({**changes, "data.stream_images": 5}))


def test_the_command_shows_what_training_would_see(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_command.main(["data", str(folder), "--name", "hf", "--stream_images", "9"])
    shown = capsys.readouterr().out
    assert "9 images" in shown and "cat 8, dog 1" in shown and "the first 9 of a stream" in shown
    with pytest.raises(InputError, match=r"--stream_images 9: .*only with --name hf"):
        data_command.main(["data", str(folder), "--stream_images", "9"])
