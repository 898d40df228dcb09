"""Image files: every pixel back exactly, every image in its place, folders with nothing else."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from uvit_dia.data.image_grid import GRID_MARGIN, image_grid, png_bytes, write_grid
from uvit_dia.sampling.image_files import PngFolder, write_npz
from uvit_dia.system.errors import InputError

ORIGIN: dict[str, object] = {"weights_sha256": "ab" * 32, "block": 4, "seed": 0, "eta": 0.0}


def random_images(count: int, channels: int, side: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, side, side)
    return torch.randint(0, 256, shape, generator=generator).to(torch.uint8)


def read_png(path: Path) -> Tensor:
    """Read a PNG with Pillow as (C, H, W)."""
    pixels = np.array(Image.open(path))
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("channels", [1, 3])
def test_png_round_trip_is_exact(tmp_path: Path, channels: int) -> None:
    images = random_images(1, channels, 16)
    images[0, :, 0, :2] = torch.tensor([0, 255], dtype=torch.uint8)
    (tmp_path / "image.png").write_bytes(png_bytes(images[0]))
    with Image.open(tmp_path / "image.png") as picture:
        assert picture.format == "PNG"
        assert picture.mode == {1: "L", 3: "RGB"}[channels]
    assert torch.equal(read_png(tmp_path / "image.png"), images[0])


def test_png_keeps_rows_columns_and_channels_apart(tmp_path: Path) -> None:
    image = torch.zeros(3, 2, 3, dtype=torch.uint8)
    image[0, 0, 2], image[1, 1, 0], image[2, 1, 1] = 10, 20, 30
    (tmp_path / "image.png").write_bytes(png_bytes(image))
    with Image.open(tmp_path / "image.png") as picture:
        assert picture.size == (3, 2)  # width, height
        assert picture.getpixel((2, 0)) == (10, 0, 0)
        assert picture.getpixel((0, 1)) == (0, 20, 0)
        assert picture.getpixel((1, 1)) == (0, 0, 30)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 9, 10, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_grid_holds_every_image_at_its_place_on_white(count: int, channels: int) -> None:
    side = 32
    images = random_images(count, channels, side)
    grid = image_grid(images)
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    pitch = side + GRID_MARGIN
    assert grid.shape == (channels, rows * pitch + GRID_MARGIN, columns * pitch + GRID_MARGIN)
    assert grid.dtype == torch.uint8
    rest = torch.ones(grid.shape[1:], dtype=torch.bool)
    for index, image in enumerate(images):
        y = (index // columns) * pitch + GRID_MARGIN
        x = (index % columns) * pitch + GRID_MARGIN
        assert torch.equal(grid[:, y : y + side, x : x + side], image)
        rest[y : y + side, x : x + side] = False
    assert (grid[:, rest] == 255).all()


@pytest.mark.parametrize(("side", "scale"), [(8, 4), (12, 3), (31, 2), (32, 1), (40, 1)])
def test_small_images_are_enlarged_without_smoothing(side: int, scale: int) -> None:
    image = random_images(1, 1, side)
    grid = image_grid(image)
    assert grid.shape == (1, side * scale + 2 * GRID_MARGIN, side * scale + 2 * GRID_MARGIN)
    inner = grid[0, GRID_MARGIN:-GRID_MARGIN, GRID_MARGIN:-GRID_MARGIN]
    for dy in range(scale):
        for dx in range(scale):
            assert torch.equal(inner[dy::scale, dx::scale], image[0, 0])


def test_written_grid_is_the_grid(tmp_path: Path) -> None:
    images = random_images(5, 3, 32)
    write_grid(tmp_path / "grid.png", images)
    assert torch.equal(read_png(tmp_path / "grid.png"), image_grid(images))
    assert names_in(tmp_path) == ["grid.png"]


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_npz_holds_images_last_channel_in_their_order(tmp_path: Path, channels: int) -> None:
    images = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (6, channels, 4, 7), dtype=np.uint8)
    )
    write_npz(tmp_path / "samples.npz", images)
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as archive:
        assert archive.files == ["arr_0"]
        found = archive["arr_0"]
    assert found.shape == (6, 4, 7, channels)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found.transpose(0, 3, 1, 2), images.numpy())


def test_png_folder_goes_on_at_what_is_missing(tmp_path: Path) -> None:
    images = random_images(6, 1, 8)
    folder = PngFolder(tmp_path / "new" / "samples", ORIGIN)
    assert folder.missing(3) == [0, 1, 2]
    folder.write([0, 1, 2, 4], images[[0, 1, 2, 4]])
    assert names_in(folder.path) == [
        "000000.png",
        "000001.png",
        "000002.png",
        "000004.png",
        "samples.json",
    ]
    again = PngFolder(tmp_path / "new" / "samples", dict(reversed(ORIGIN.items())))
    assert again.missing(6) == [3, 5]
    assert again.missing(2) == []
    again.write([5, 3], images[[5, 3]])
    assert again.missing(6) == []
    for index in range(6):
        assert torch.equal(read_png(folder.path / f"{index:06d}.png"), images[index])
    assert json.loads((folder.path / "samples.json").read_text()) == ORIGIN


def test_png_folder_knows_numbers_of_more_than_six_digits(tmp_path: Path) -> None:
    folder = PngFolder(tmp_path, ORIGIN)
    folder.write([1_234_567], random_images(1, 1, 8))
    assert (tmp_path / "1234567.png").is_file()
    assert PngFolder(tmp_path, ORIGIN).missing(1_234_569)[-2:] == [1_234_566, 1_234_568]


def test_png_folder_passes_over_files_that_were_being_written(tmp_path: Path) -> None:
    PngFolder(tmp_path, ORIGIN).write([0], random_images(1, 1, 8))
    (tmp_path / ".000001.png.123.tmp").write_bytes(b"half a PNG")
    assert PngFolder(tmp_path, ORIGIN).missing(2) == [1]


SYSTEM_FILES = (".DS_Store", "Thumbs.db", "desktop.ini", "._000000.png", ".nfs0001")


@pytest.mark.parametrize("name", SYSTEM_FILES)
def test_files_that_systems_leave_behind_are_passed_over(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    PngFolder(tmp_path, ORIGIN).write([0], random_images(1, 1, 8))
    assert PngFolder(tmp_path, ORIGIN).missing(2) == [1]
    assert (tmp_path / name).read_bytes() == b""


def test_block_of_the_images_that_are_there_holds(tmp_path: Path) -> None:
    PngFolder(tmp_path, ORIGIN).write([0], random_images(1, 1, 8))
    folder = PngFolder(tmp_path, {**ORIGIN, "block": 12}, any_block=True)
    assert folder.block == 4
    assert json.loads((tmp_path / "samples.json").read_text()) == ORIGIN
    assert PngFolder(tmp_path / "new", {**ORIGIN, "block": 12}, any_block=True).block == 12
    with pytest.raises(InputError, match="another checkpoint or other settings"):
        PngFolder(tmp_path, {**ORIGIN, "block": 12, "seed": 1}, any_block=True)


@pytest.mark.parametrize("block", [0, -1, True, "4", None, [4]])
def test_block_that_is_none_is_refused(tmp_path: Path, block: object) -> None:
    (tmp_path / "samples.json").write_text(json.dumps({**ORIGIN, "block": block}))
    with pytest.raises(InputError, match="another checkpoint or other settings"):
        PngFolder(tmp_path, {**ORIGIN, "block": 12}, any_block=True)


@pytest.mark.parametrize("change", [{"weights_sha256": "cd" * 32}, {"block": 8}, {"seed": 1}])
def test_png_folder_of_another_origin_is_refused(tmp_path: Path, change: dict) -> None:
    PngFolder(tmp_path, ORIGIN).write([0], random_images(1, 1, 8))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match="another checkpoint or other settings"):
        PngFolder(tmp_path, {**ORIGIN, **change})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["notes.txt", "000000.png", "cat.png"])
def test_folder_with_files_of_others_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(InputError, match=f"other files, such as {name}"):
        PngFolder(tmp_path, ORIGIN)
    assert names_in(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["notes.txt", "00001.png", "000001.jpg", "a000001.png"])
@pytest.mark.reliability("G18", "measurements of the wrong thing: refused")
def test_stray_file_among_samples_is_refused(tmp_path: Path, name: str) -> None:
    PngFolder(tmp_path, ORIGIN)
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(InputError, match=name):
        PngFolder(tmp_path, ORIGIN)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000])
def test_damaged_samples_json_is_refused(tmp_path: Path, content: bytes) -> None:
    PngFolder(tmp_path, ORIGIN)
    (tmp_path / "samples.json").write_bytes(content)
    with pytest.raises(InputError, match=r"samples\.json is damaged"):
        PngFolder(tmp_path, ORIGIN)
    assert (tmp_path / "samples.json").read_bytes() == content


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot make the folder"):
        PngFolder(tmp_path / "file" / "samples", ORIGIN)
