"""Sets in one .npz or .zip, memory-mapped sets, and the command that looks at sets."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.configs import changed
from tests.support.runs import tiny_trainer, weights
from uvit_dia.config.checks import make_config
from uvit_dia.data import mapped_set
from uvit_dia.data.__main__ import main as look
from uvit_dia.data.images import ImageSet
from uvit_dia.data.sources import load_image_set
from uvit_dia.system.errors import InputError, StorageError
from uvit_dia.system.files import cache_folder

COUNT = 30


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8)


def read(name: str, path: Path, **changes: object) -> ImageSet:
    options = {"img_size": 8, "in_chans": 3, "show_progress": False, **changes}
    found = load_image_set(name, str(path), "train", **options)  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two classes of images."""
    for index, image in enumerate(pixels()):
        place = tmp_path / "images" / ("cat" if index < 20 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{index:02d}.png")
    return tmp_path / "images"


@pytest.fixture
def archive(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.make_archive(str(tmp_path / "set"), "zip", folder))


# ---------------------------------------------------------------- .npz and .zip


@pytest.mark.parametrize("names", [("arr_0",), ("images", "labels")])
def test_an_array_file_is_a_set(tmp_path: Path, names: tuple[str, ...]) -> None:
    arrays = (pixels(), np.arange(COUNT, dtype=np.int32) % 3)
    np.savez(tmp_path / "set.npz", **dict(zip(names, arrays, strict=False)))
    found = read("npz", tmp_path / "set.npz")
    assert np.array_equal(found.images.permute(0, 2, 3, 1).numpy(), pixels())
    assert found.images.is_contiguous()
    if len(names) == 1:
        assert found.labels is None
    else:
        assert found.labels is not None and found.labels.tolist() == arrays[1].tolist()
        assert found.class_names == ("0", "1", "2")
    assert load_image_set("npz", str(tmp_path / "set.npz"), "test", img_size=8, in_chans=3) is None


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.zeros((4, 8, 8, 3), np.float32)}, "must hold one array of images"),
        ({"x": pixels(), "y": np.zeros(7, int)}, "it holds also y"),
        ({"x": pixels(), "y": np.zeros(COUNT, int), "z": np.ones(COUNT, int)}, "holds also y, z"),
        ({"x": pixels(), "y": np.full(COUNT, -1)}, "has a label below 0"),
        ({"x": pixels()[:, :4, :4]}, "has images of shape (3, 4, 4)"),
        ({"x": pixels(), "y": np.array([{}] * COUNT, object)}, "holds pickled objects"),
    ],
)
def test_other_array_files_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], said: str
) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(InputError) as refused:
        read("npz", tmp_path / "set.npz")
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_an_archive_is_the_folder_that_it_was_made_of(folder: Path, archive: Path) -> None:
    zipped, plain = read("zip", archive), read("folder", folder)
    assert torch.equal(zipped.images, plain.images)
    assert zipped.labels is not None and plain.labels is not None
    assert torch.equal(zipped.labels, plain.labels) and zipped.class_names == ("cat", "dog")


def test_an_archive_without_folders_has_no_classes(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as file:
        for path in sorted(folder.rglob("*.png")):
            file.write(path, path.name)
    assert read("zip", tmp_path / "flat.zip").labels is None


@pytest.mark.parametrize("name", ["zip", "npz"])
def test_another_file_is_refused_at_once(name: str, folder: Path) -> None:
    with pytest.raises(InputError, match=rf"is no \.{name} file"):
        read(name, folder)


# ---------------------------------------------------------------- memory maps


def maps() -> list[Path]:
    return sorted(cache_folder().rglob("*.map"))


def test_a_mapped_set_is_the_set_in_memory(folder: Path) -> None:
    plain, kept = read("folder", folder), read("folder", folder, memory_map=True)
    assert torch.equal(plain.images, kept.images)
    assert plain.fingerprint() == kept.fingerprint() == kept.known_sha256
    assert plain.labels is not None and kept.labels is not None
    assert torch.equal(plain.labels, kept.labels)
    assert len(maps()) == 1 and maps()[0].stat().st_size == COUNT * 192


def test_a_second_start_decodes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read("folder", folder, memory_map=True)

    def decode(*args: object, **options: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(mapped_set, "decode_all", decode)
    second = read("folder", folder, memory_map=True)
    assert torch.equal(first.images, second.images)
    second.images[0] = 0  # belongs to this process alone
    assert torch.equal(read("folder", folder, memory_map=True).images, first.images)
    with pytest.raises(AssertionError, match="decoded again"):  # another format is another set
        read("folder", folder, memory_map=True, in_chans=1)


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def without_description(path: Path) -> None:
    path.with_suffix(".json").unlink()


def of_another_set(path: Path) -> None:
    facts = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**facts, "key": "0" * 64}))


def nonsense(path: Path) -> None:
    path.with_suffix(".json").write_text("{")


@pytest.mark.parametrize("damage", [torn, without_description, of_another_set, nonsense])
def test_what_is_torn_or_of_another_set_is_built_again(folder: Path, damage: object) -> None:
    first = read("folder", folder, memory_map=True)
    wanted = first.images.clone()
    damage(maps()[0])  # type: ignore[operator]
    assert torch.equal(read("folder", folder, memory_map=True).images, wanted)


def test_changed_files_are_another_set(folder: Path) -> None:
    read("folder", folder, memory_map=True)
    Image.fromarray(pixels()[0]).save(folder / "dog" / "more.png")
    assert len(read("folder", folder, memory_map=True)) == COUNT + 1


def test_unreadable_images_are_left_out_of_the_map(folder: Path) -> None:
    (folder / "cat" / "05.png").write_bytes(b"no image")
    plain = read("folder", folder, skip_unreadable=True)
    kept = read("folder", folder, skip_unreadable=True, memory_map=True)
    assert len(kept) == COUNT - 1
    assert torch.equal(plain.images, kept.images) and plain.fingerprint() == kept.fingerprint()
    assert kept.labels is not None and len(kept.labels) == COUNT - 1


def test_a_full_disk_is_one_line_and_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped_set, "SPARE_BYTES", 2**62)
    with pytest.raises(InputError, match=r"30 images need 5760 bytes in .* free"):
        read("folder", folder, memory_map=True)
    monkeypatch.setattr(mapped_set, "SPARE_BYTES", 0)

    def fail(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mapped_set, "decode_all", fail)
    with pytest.raises(StorageError, match=r"cannot write .* No space left on device"):
        read("folder", folder, memory_map=True)
    assert not [path for path in cache_folder().rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "digits is read as a whole"),
        ({"data.name": "folder", "data.path": "x"}, "data.on_device = True would copy the set"),
        (
            {
                "data.name": "folder",
                "data.path": "x",
                "data.on_device": False,
                "data.held_out_images": 5,
            },
            "data.held_out_images = 5 would copy the set",
        ),
    ],
)
def test_what_would_fill_the_memory_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make_config(changed({**changes, "data.memory_map": True}))


def test_training_from_a_map_is_training_from_memory(folder: Path, tmp_path: Path) -> None:
    changes: dict[str, object] = {
        "data.name": "folder",
        "data.path": str(folder),
        "data.on_device": False,
        "model.in_chans": 3,
        "train.num_steps": 9,
    }
    plain = tiny_trainer(tmp_path / "plain", changes)
    plain.fit()
    first = tiny_trainer(tmp_path / "mapped", {**changes, "data.memory_map": True})
    while first.step < 5:  # in the middle of an epoch
        first.train_step()
    first.save()
    second = tiny_trainer(tmp_path / "mapped", {**changes, "data.memory_map": True})
    assert second.resume()
    second.fit()
    for name, weight in weights(plain).items():
        assert torch.equal(weight, weights(second)[name]), name


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize("kind", ["folder", "zip", "npz"])
def test_the_command_tells_what_a_set_is(
    kind: str, folder: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "set.npz", images=np.concatenate((pixels(), pixels()[:2])))
    places = {"folder": folder, "zip": archive, "npz": tmp_path / "set.npz"}
    output = tmp_path / "grid.png"
    look(["data", str(places[kind]), f"--output={output}"])
    told = capsys.readouterr().out
    assert f"{32 if kind == 'npz' else 30} images" in told and "8x8 RGB" in told
    assert ("2 images are there already" in told) == (kind == "npz")
    assert "pixels from 0 to 255" in told and "no test split" in told
    with Image.open(output) as grid:
        assert grid.mode == "RGB" and min(grid.size) > 150


def test_the_command_reads_what_a_config_would(capsys: pytest.CaptureFixture[str]) -> None:
    look(["data", "--config=digits_uvit_dia", "--config.data.held_out_images=360"])
    told = capsys.readouterr().out
    assert "1437 images" in told and "360 images" in told.split("test split:")[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the set is missing"),
        (["IMAGES", "--name=foldr"], "did you mean folder?"),
        (["IMAGES", "--in_chans=2"], "--in_chans 2: allowed is 1 or 3"),
        (["IMAGES", "--img_size=0"], "--img_size 0"),
        (["IMAGES", "--output=x.jpg"], "must be a .png"),
        (["IMAGES", "--config=digits_uvit_dia"], "not both"),
        (["nowhere", "--name=folder"], "no folder nowhere"),
        (["nowhere"], "no folder nowhere"),  # not looked for on the Hub
        (["images/nowhere"], "no folder images/nowhere"),
        (["wide"], "is 9x8; only square images are read (--img_size N would scale and crop all"),
        (
            ["--config=digits_uvit_dia", "--config.data.name=folder", "--config.data.path=wide"],
            "data.resize = True",
        ),
    ],
)
def test_wrong_words_are_refused(
    words: list[str], said: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wide").mkdir()
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save("wide/x.png")
    with pytest.raises(InputError) as refused:
        look(["data", *(str(folder) if word == "IMAGES" else word for word in words)])
    assert said in str(refused.value)


def test_a_map_is_remembered_by_the_set() -> None:
    images = ImageSet("x", torch.zeros(3, 1, 2, 2, dtype=torch.uint8), known_sha256="abc")
    assert images.fingerprint() == "abc"
    part = images.subset(torch.tensor([0]), note="a part")
    assert part.fingerprint() != "abc" == replace(images, name="y").fingerprint()
