"""What is said of a `data.path` with nothing or something else there, before torch is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.image_sets import write_images, write_parquet
from tests.support.runs import ROOT
from uvit_dia.data.paths import check_path
from uvit_dia.system.errors import InputError

pytestmark = pytest.mark.faults


def refusal(name: str, path: str | Path) -> str:
    with pytest.raises(InputError) as caught:
        check_path(name, str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["folder", "parquet", "cifar10"])
def test_a_missing_path_is_told_with_the_nearest_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "images" / "cats").mkdir(parents=True)
    kind = "folder" if name == "folder" else "file or folder"
    said = refusal(name, tmp_path / "imagse")
    assert said == f"data.path: no {kind} {tmp_path}/imagse; did you mean {tmp_path}/images?"
    assert refusal(name, tmp_path / "imgaes/cats").endswith(f"did you mean {tmp_path}/images/cats?")
    assert refusal(name, tmp_path / "imgaes/dogs").endswith(f"did you mean {tmp_path}/images?")
    assert refusal(name, tmp_path / "x/y/z").endswith("x/y/z")


def test_a_relative_path_is_told_with_the_folder_it_starts_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    said = refusal("folder", "photo")
    assert said == f"data.path: no folder photo in {tmp_path}; did you mean photos?"


def test_a_link_to_nothing_is_told_as_that(tmp_path: Path) -> None:
    (tmp_path / "set").symlink_to(tmp_path / "gone")
    assert f"it is a link to {tmp_path}/gone, which is not there" in refusal(
        "folder", tmp_path / "set"
    )


@pytest.mark.parametrize(
    ("name", "file", "said"),
    [
        ("folder", "a.png", "is one image; data.name = 'folder' takes the folder"),
        ("folder", "a.ZIP", "is an archive; data.name = 'zip' reads .zip files"),
        ("folder", "a.tar.gz", "is an archive; data.name = 'zip' reads .zip files"),
        ("folder", "a.parquet", "is a table; data.name = 'parquet' reads it"),
        ("folder", "a.txt", "is a file; data.name = 'folder' takes a folder"),
        ("parquet", "a.jpg", "is one image; data.name = 'folder' takes the folder"),
        ("parquet", "a.zip", "is an archive; data.name = 'zip' reads .zip files"),
        ("cifar10", "data_batch_1", "give the folder that holds all of them"),
    ],
)
def test_a_file_of_another_kind_is_told(tmp_path: Path, name: str, file: str, said: str) -> None:
    (tmp_path / file).write_bytes(b"x")
    assert said in refusal(name, tmp_path / file)


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "~nobody-of-that-name/images"])
def test_a_path_that_cannot_be_is_refused(path: str) -> None:
    assert refusal("folder", path).startswith("data.path: ")


def test_what_may_hold_images_is_let_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path, "images/a.png")
    write_parquet(tmp_path / "x.bin", {"a": [1]})
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, path in (
        ("digits", "nowhere"),
        ("cifar10", ""),
        ("folder", "~/images"),
        ("parquet", tmp_path / "images"),
        ("parquet", tmp_path / "x.bin"),
    ):
        check_path(name, str(path))


def test_training_refuses_a_missing_path_before_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys, runpy\n"
        "sys.argv = ['train.py', *sys.argv[1:]]\n"
        "try:\n"
        "    runpy.run_path('train.py', run_name='__main__')\n"
        "finally:\n"
        "    print('torch' in sys.modules, 'PIL' in sys.modules)\n"
    )
    flags = ["--config.data.name=folder", f"--config.data.path={tmp_path}/nowhere"]
    config = ["--config", "configs/digits_uvit_dia.py", "--workdir", str(tmp_path / "run")]
    ended = subprocess.run(
        [sys.executable, "-c", code, *config, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stdout == "False False\n"
    assert f"data.path: no folder {tmp_path}/nowhere" in ended.stderr
