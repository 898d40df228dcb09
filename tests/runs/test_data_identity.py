"""The images of a run: recorded in its checkpoints, and never others without a word."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import eval_fid
from tests.runs.test_checkpoint import forge
from tests.support.forked import Finished, start_ranks
from tests.support.runs import command, result, step_folder, train, train_arguments
from uvit_dia.analysis.__main__ import main as analyse
from uvit_dia.data.images import ImageSet
from uvit_dia.runs.checkpoint import verify
from uvit_dia.runs.data_identity import DataIdentity
from uvit_dia.runs.trained_model import load_run
from uvit_dia.system.errors import EXIT_BAD_INPUT, InputError

pytestmark = pytest.mark.faults

EVALUATE = ("--num_images", "8", "--num_steps", "2", "--allow_few_images")


def make_images(folder: Path, *names: str) -> Path:
    """Write grey images of 8x8 pixels that depend on their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        pixels = np.random.default_rng(list(name.encode())).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def of(folder: Path, **changes: object) -> dict[str, object]:
    """Return the changes of a config that train on a folder of images."""
    return {"data.name": "folder", "data.path": str(folder), **changes}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_images(tmp_path / "images", *"abcdefgh")


@pytest.fixture
def others(tmp_path: Path) -> Path:
    return make_images(tmp_path / "others", *"abcdefgx")


def refused(finished: Finished) -> str:
    assert finished.exit_code == EXIT_BAD_INPUT, finished.stderr
    return finished.last_line


# ---------------------------------------------------------------- what is recorded


def test_a_checkpoint_records_images_and_labels(tmp_path: Path, images: Path) -> None:
    assert train(tmp_path / "run", of(images)).exit_code == 0
    data = DataIdentity.saved_in(verify(step_folder(tmp_path / "run", 12)))
    assert data is not None
    assert data.num_images == 8
    assert data.labels_sha256 is None
    trained = load_run(tmp_path / "run")
    assert trained.data == data
    assert trained.data_fingerprint == data.images_sha256
    assert train(tmp_path / "digits").exit_code == 0
    labelled = DataIdentity.saved_in(verify(step_folder(tmp_path / "digits", 12)))
    assert labelled is not None
    assert labelled.labels_sha256 is not None
    assert labelled.num_images == 1797


def test_labels_are_told_apart_from_images() -> None:
    pixels = torch.arange(64, dtype=torch.uint8).reshape(4, 1, 4, 4)
    plain = DataIdentity.of(ImageSet("x", pixels))
    one, two = (
        DataIdentity.of(ImageSet("x", pixels, torch.tensor(labels)))
        for labels in ([0, 1, 0, 1], [1, 0, 1, 0])
    )
    assert len({plain.labels_sha256, one.labels_sha256, two.labels_sha256}) == 3
    assert plain.images_sha256 == one.images_sha256 == two.images_sha256
    assert not one.has_other_images(two)
    assert one.has_other_images(DataIdentity.of(ImageSet("x", pixels + 1)))


def test_images_are_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    images = ImageSet("x", torch.zeros(4, 1, 4, 4, dtype=torch.uint8))
    first = images.fingerprint()
    monkeypatch.setattr(
        "uvit_dia.data.images.sha256_of", lambda tensor: pytest.fail("hashed again")
    )
    assert images.fingerprint() == first


@pytest.mark.parametrize(
    "data",
    [None, [], "x", {}, {"num_images": "8", "images_sha256": "0"}, {"num_images": 8}],
    ids=repr,
)
def test_what_is_no_identity_is_none(tmp_path: Path, images: Path, data: object) -> None:
    run = tmp_path / "run"
    assert train(run, of(images)).exit_code == 0
    forge(step_folder(run, 12), data=data)
    assert DataIdentity.saved_in(verify(step_folder(run, 12))) is None
    assert load_run(run).data_fingerprint is None


# ---------------------------------------------------------------- resuming


@pytest.fixture
def half(tmp_path: Path, images: Path) -> Path:
    """Return a run on the images that has done 4 of its steps."""
    run = tmp_path / "run"
    changes = of(images, **{"optimizer.lr_schedule": "constant", "train.num_steps": 4})
    assert train(run, changes).exit_code == 0
    return run


def go_on(run: Path, folder: Path, *flags: str) -> Finished:
    return train(run, of(folder, **{"optimizer.lr_schedule": "constant"}), *flags)


@pytest.mark.parametrize("change", ["more", "fewer", "another", "renamed"])
def test_other_images_are_refused(half: Path, images: Path, change: str) -> None:
    if change == "more":
        make_images(images, "i")
    elif change == "fewer":
        (images / "a.png").unlink()
        make_images(images, "b")  # so that a batch of 8 needs others
        make_images(images, "i", "j")
    elif change == "another":
        make_images(images.parent / "new", "z")
        shutil.copy(images.parent / "new" / "z.png", images / "a.png")
    else:
        (images / "a.png").rename(images / "z.png")  # the order decides the batches
    before = sorted(half.rglob("*"))
    message = refused(go_on(half, images))
    assert "step 4 was trained on 8 images (" in message
    assert "--allow_other_data" in message
    assert "..." not in message  # nothing is cut
    assert sorted(half.rglob("*")) == before


def test_other_images_may_be_allowed_and_both_are_recorded(half: Path, others: Path) -> None:
    first = load_run(half).data
    finished = go_on(half, others, "--allow_other_data")
    assert finished.exit_code == 0, finished.stderr
    assert "was trained on 8 images (" in finished.stderr
    manifest = verify(step_folder(half, 12)).manifest
    second = load_run(half).data
    assert first is not None and second is not None
    assert first.images_sha256 != second.images_sha256
    assert manifest["earlier_data"] == [{**first.as_dict(), "until_step": 4}]
    longer = of(others, **{"optimizer.lr_schedule": "constant", "train.num_steps": 16})
    again = train(half, longer)  # without the flag: these are the run's images now
    assert again.exit_code == 0, again.stderr
    assert verify(step_folder(half, 16)).manifest["earlier_data"] == manifest["earlier_data"]


def test_the_same_images_elsewhere_are_the_same(half: Path, images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "copy")
    finished = go_on(half, tmp_path / "copy")
    assert finished.exit_code == 0, finished.stderr
    assert "warning" not in finished.stderr


def test_a_checkpoint_from_before_resumes_with_a_line(
    half: Path, images: Path, tmp_path: Path
) -> None:
    forge(step_folder(half, 4), data=...)
    finished = go_on(half, images)
    assert finished.exit_code == 0, finished.stderr
    told = [line for line in finished.stderr.splitlines() if line.startswith("warning: ")]
    assert len(told) == 1
    assert "does not record its training images; from now on 8 images (" in told[0]
    assert go_on(tmp_path / "whole", images).exit_code == 0
    assert result(half) == result(tmp_path / "whole")
    assert load_run(half).data is not None


# ---------------------------------------------------------------- several processes


def _train_on_own_images(arguments: list[str], folders: list[str]) -> None:
    folder = folders[int(os.environ["RANK"])]
    command("train", [*arguments, f"--config.data.path={folder}"])


@pytest.mark.multiprocess
def test_processes_with_other_images_are_refused(
    tmp_path: Path, images: Path, others: Path
) -> None:
    shutil.copytree(images, tmp_path / "copy")
    arguments = train_arguments(tmp_path / "run", {"data.name": "folder"})
    for second, codes in ((others, [2, 2]), (tmp_path / "copy", [0, 0])):
        folders = [str(images), str(second)]
        finished = [
            child.wait() for child in start_ranks(2, _train_on_own_images, arguments, folders)
        ]
        assert [done.exit_code for done in finished] == codes, finished
        if codes == [2, 2]:
            assert "process 1 reads 8 images (" in finished[0].last_line
            assert "process 0 8 images (" in finished[0].last_line
            assert "the same images on all machines" in finished[0].last_line
            assert not (tmp_path / "run" / "checkpoints").exists()


# ---------------------------------------------------------------- evaluating and analysing


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def test_other_images_are_not_measured_against(
    half: Path, others: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ["eval_fid.py", "--checkpoint", str(half), *EVALUATE, "--data_path", str(others)]
    with pytest.raises(InputError, match="step 4 was trained on 8 images") as caught:
        eval_fid.main(told)
    assert "--allow_other_data" in str(caught.value)
    assert not (half / "eval.jsonl").exists()
    eval_fid.main([*told, "--allow_other_data"])
    shown = capsys.readouterr()
    assert "warning: step 4 was trained on 8 images" in shown.err
    measured = json.loads((half / "eval.jsonl").read_text())
    assert measured["reference_sha256"] != load_run(half).data_fingerprint


@pytest.mark.parametrize("command", ["gates", "sensitivity"])
def test_other_images_are_not_analysed(half: Path, others: Path, here: Path, command: str) -> None:
    told = ["analysis", command, "--checkpoint", str(half), "--num_images", "8"]
    told += ["--data_path", str(others)]
    told += ["--num_steps", "2"] if command == "sensitivity" else []
    with pytest.raises(InputError, match="was trained on 8 images"):
        analyse(told)
    assert not (half / "analysis").exists()
    analyse([*told, "--allow_other_data"])
    assert (half / "analysis" / f"{command}.json").is_file()


def test_a_checkpoint_from_before_is_measured_with_a_line(
    half: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forge(step_folder(half, 4), data=...)
    eval_fid.main(["eval_fid.py", "--checkpoint", str(half), *EVALUATE])
    assert "does not record its training images" in capsys.readouterr().err
