"""Training on a whole stream, window by window; local streams, which the tests make."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.configs import changed
from tests.support.runs import tiny_config, tiny_trainer, weights
from uvit_dia.config.checks import make_config
from uvit_dia.config.schema import Config
from uvit_dia.data import hf_stream
from uvit_dia.data.hf_stream import rows_from
from uvit_dia.data.images import ImageSet, to_uint8
from uvit_dia.data.sources import load_training_images
from uvit_dia.data.stream_windows import StreamedBatches, WindowReader
from uvit_dia.system.errors import InputError

datasets = pytest.importorskip("datasets")
COUNT, WINDOW, BATCH = 24, 10, 4
CLASSES = ["cat", "dog", "eel"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UVIT_DIA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return grey images in three classes; each is of one colour, its row times ten."""
    for row in range(COUNT):
        place = tmp_path / "images" / CLASSES[row // 8]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 10 * row, np.uint8)).save(place / f"{row:02d}.png")
    return tmp_path / "images"


def config_of(folder: Path | str, **more: object) -> Config:
    return tiny_config(
        {
            "data.name": "hf",
            "data.path": str(folder),
            "data.stream_images": WINDOW,
            "data.stream_all": True,
            "model.num_classes": 3,
            "train.batch_size": BATCH,
            **more,
        }
    )


def batches_of(config: Config) -> StreamedBatches:
    images = load_training_images(config, show_progress=False)
    return StreamedBatches(
        WindowReader(config),
        images,
        BATCH,
        seed=0,
        random_flip=False,
        device="cpu",
        has_classes=config.is_conditional,
    )


def rows_seen(batches: StreamedBatches, step: int, rows: range = range(BATCH)) -> list[int]:
    """Return which rows of the stream are in a batch; their labels must be those of the rows."""
    seen = (to_uint8(batches.x_0(step, rows))[:, 0, 0, 0] // 10).tolist()
    labels = batches.class_labels(step, rows)
    assert labels is not None and labels.tolist() == [row // 8 for row in seen]
    return seen


def test_each_epoch_sees_the_next_window_and_the_first_follows_the_last(folder: Path) -> None:
    batches = batches_of(config_of(folder))
    seen = [row for step in range(15) for row in rows_seen(batches, step)]
    for window in range(6):
        expected = [(window * WINDOW + place) % COUNT for place in range(WINDOW)]
        found = seen[window * WINDOW : (window + 1) * WINDOW]
        assert sorted(found) == sorted(expected) and found != expected  # in another order


def test_a_resume_and_other_ranks_see_the_same(folder: Path) -> None:
    config = config_of(folder)
    batches = batches_of(config)
    whole = [rows_seen(batches, step) for step in range(9)]
    late = batches_of(config)  # nothing before step 7 is seen by it
    halves = [rows_seen(late, 7, range(2)) + rows_seen(late, 7, range(2, 4))]
    assert [*halves, rows_seen(late, 8)] == whole[7:]


def test_the_stream_is_opened_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = batches_of(config_of(folder))
    opened = []
    load = hf_stream.load

    def counted(path: str, *, streaming: bool) -> object:
        opened.append(path)
        return load(path, streaming=streaming)

    monkeypatch.setattr(hf_stream, "load", counted)
    for step in range(15):
        rows_seen(batches, step)
    assert len(opened) == 1


def test_few_windows_are_kept(folder: Path) -> None:
    batches = batches_of(config_of(folder))
    for step in range(25):
        rows_seen(batches, step)
        assert len(batches._windows) <= 3


@pytest.mark.parametrize(("start", "first"), [(0, 0), (5, 5), (24, 0), (50, 2)])
def test_rows_behind_the_end_are_those_from_the_beginning(
    folder: Path, start: int, first: int
) -> None:
    found = rows_from(str(folder), start)
    assert next(found.rows)["label"] == first // 8 and found.class_names == tuple(CLASSES)


def test_a_set_smaller_than_a_window_is_seen_once_an_epoch(folder: Path) -> None:
    batches = batches_of(config_of(folder, **{"data.stream_images": 100}))
    seen = [row for step in range(18) for row in rows_seen(batches, step)]
    for epoch in range(3):
        assert sorted(seen[epoch * COUNT : (epoch + 1) * COUNT]) == list(range(COUNT))


def test_an_unreadable_image_ends_the_training_or_is_left_out(folder: Path) -> None:
    (folder / "dog" / "12.png").write_bytes(b"no image")
    batches = batches_of(config_of(folder))
    with pytest.raises(InputError) as refused:
        batches.x_0(3, range(BATCH))
    assert "row 12 of its stream" in str(refused.value) and "\n" not in str(refused.value)
    batches = batches_of(config_of(folder, **{"data.skip_unreadable": True}))
    seen = [row for step in range(5) for row in rows_seen(batches, step)][WINDOW:]
    assert set(seen) == set(range(10, 20)) - {12}


def test_a_label_beyond_the_classes_is_refused(folder: Path) -> None:
    read = WindowReader(config_of(folder, **{"model.num_classes": 4}))
    with pytest.raises(InputError, match=r"stands for 4 classes; .*window 1 has 3"):
        read(1)


def stream_of(rows: int, monkeypatch: pytest.MonkeyPatch, *, breaks: bool) -> None:
    def images() -> Iterator[dict[str, object]]:
        for row in range(rows):
            yield {"image": Image.fromarray(np.full((8, 8), 10 * row, np.uint8))}
        if breaks:
            raise ConnectionError("the peer\nis gone")

    features = datasets.Features({"image": datasets.Image()})
    stream = datasets.IterableDataset.from_generator(images, features=features)
    monkeypatch.setattr(hf_stream, "load", lambda path, streaming: {"train": stream})


def test_a_stream_that_breaks_is_told_where_its_images_are_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream_of(15, monkeypatch, breaks=True)
    batches = batches_of(config_of("someone/breaking", **{"model.num_classes": 0}))
    batches.x_0(1, range(BATCH))  # the next window is being fetched
    with pytest.raises(InputError, match="the stream of someone/breaking broke: the peer is gone"):
        batches.x_0(2, range(BATCH))


def test_a_stream_without_images_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stream_of(0, monkeypatch, breaks=False)
    with pytest.raises(InputError, match="the stream of someone/empty has no images"):
        next(rows_from("someone/empty", 3).rows)


@pytest.mark.parametrize("step", [4, 8])  # in the second window, and in the fourth
def test_a_run_resumes_to_the_bit(folder: Path, tmp_path: Path, step: int) -> None:
    data = {f"data.{name}": value for name, value in config_of(folder).to_dict()["data"].items()}
    changes: dict[str, object] = {
        **data,
        "train.batch_size": BATCH,
        "model.num_classes": 3,
        "optimizer.lr_schedule": "constant",
    }
    whole = tiny_trainer(tmp_path / "whole", changes)
    whole.fit()
    tiny_trainer(tmp_path / "parts", {**changes, "train.num_steps": step}).fit()
    second = tiny_trainer(tmp_path / "parts", changes)
    assert second.resume()
    second.fit()
    wanted, found = weights(whole), weights(second)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data.stream_images": 0}, "it must say how many images"),
        ({"data.memory_map": True, "data.on_device": False}, "data.memory_map is False"),
        ({"data.held_out_images": 3}, "data.held_out_images = 3 would be trained on"),
        ({"data.name": "folder"}, "has no stream"),
    ],
)
def test_keys_that_do_not_fit_are_refused(changes: dict[str, object], said: str) -> None:
    streamed = {"data.name": "hf", "data.path": "a/b", "data.stream_images": 9}
    with pytest.raises(InputError, match=said):
        make_config(changed({**streamed, "data.stream_all": True, **changes}))


def test_the_first_window_is_the_set(folder: Path) -> None:
    images = load_training_images(config_of(folder), show_progress=False)
    assert isinstance(images, ImageSet) and len(images) == WINDOW
