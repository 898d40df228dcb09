"""Sets through Hugging Face's `datasets`, an optional package; local ones, which the tests make."""

import importlib.util
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.image_sets import encoded
from uvit_dia.data import hf
from uvit_dia.data.images import ImageSet
from uvit_dia.data.sources import load_image_set
from uvit_dia.system.errors import InputError

has_datasets = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="the optional package datasets is missing"
)
COUNT = 24


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8)


def read(path: Path | str, split: str = "train", **changes: object) -> ImageSet | None:
    options = {"img_size": 8, "in_chans": 3, "show_progress": False, **changes}
    return load_image_set("hf", str(path), split, **options)  # type: ignore[arg-type]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Return a folder of `save_to_disk` with a training and a validation split."""
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )

    def png(image: np.ndarray) -> dict[str, object]:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "png")
        return {"bytes": buffer.getvalue(), "path": None}

    def split(rows: range) -> "datasets.Dataset":
        table = {"image": [png(pixels()[i]) for i in rows], "label": [i % 2 for i in rows]}
        return datasets.Dataset.from_dict(table, features=features)

    both = datasets.DatasetDict({"train": split(range(20)), "validation": split(range(20, 24))})
    both.save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


@has_datasets
@pytest.mark.parametrize("memory_map", [False, True])
def test_a_saved_set_is_read_with_its_classes(saved: Path, memory_map: bool) -> None:
    found = read(saved, memory_map=memory_map)
    assert found is not None and found.labels is not None
    assert np.array_equal(found.images.permute(0, 2, 3, 1).numpy(), pixels()[:20])
    assert found.labels.tolist() == [0, 1] * 10 and found.class_names == ("cat", "dog")
    test = read(saved, "test")
    assert test is not None and torch.equal(
        test.images, torch.from_numpy(pixels()[20:]).permute(0, 3, 1, 2)
    )


@has_datasets
def test_a_folder_of_images_is_read_by_its_builder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for index, image in enumerate(pixels()):
        place = tmp_path / "images" / ("cat" if index % 2 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{index:02d}.png")
    found = read(tmp_path / "images")
    assert found is not None and len(found) == COUNT and found.class_names == ("cat", "dog")


@has_datasets
@pytest.mark.parametrize("memory_map", [False, True])
def test_webdataset_shards_are_read_in_the_order_of_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_map: bool
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard, rows in enumerate((range(10), range(10, 20), range(20, COUNT))):
        name = f"train-{shard:05d}.tar" if shard < 2 else "test-00000.tar"
        with tarfile.open(folder / name, "w") as archive:
            for row in rows:
                content = encoded(pixels()[row])
                member = tarfile.TarInfo(f"{row:05d}.png")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    train, test = (read(folder, split, memory_map=memory_map) for split in ("train", "test"))
    assert train is not None and test is not None
    found = torch.cat((train.images, test.images)).permute(0, 2, 3, 1)
    assert np.array_equal(found.numpy(), pixels()) and (len(train), len(test)) == (20, 4)
    assert train.labels is None


@has_datasets
def test_what_cannot_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets.Dataset.from_dict({"x": [1, 2]}).save_to_disk(str(tmp_path / "numbers"))
    for path, said in (
        (tmp_path / "nothing_there", "datasets cannot read"),
        (tmp_path / "numbers", "must have one column of images, found 0"),
    ):
        with pytest.raises(InputError) as refused:
            read(path)
        assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_missing_package_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'uvit_dia\[hf\]'"):
        read("someone/a-set")
