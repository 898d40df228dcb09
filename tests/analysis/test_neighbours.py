"""The training images nearest to samples: against sorting by hand, and copies that were planted."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

import train
from tests.support.hub import serving
from tests.support.runs import ROOT, train_arguments, tree
from uvit_dia.analysis import __main__ as analysis
from uvit_dia.analysis import neighbours as module
from uvit_dia.analysis.neighbours import nearer_share, nearest
from uvit_dia.data.digits import read_digits
from uvit_dia.export.__main__ import main as export
from uvit_dia.sampling.sampler import ImageSampler
from uvit_dia.system.errors import InputError

FLAGS = ["--num_images", "40", "--sampler", "dpmpp_2m", "--num_steps", "2"]
CHANGES: dict[str, object] = {"train.num_steps": 3, "sample.batch_size": 16}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train.main(["train.py", *train_arguments(folder, CHANGES)])
    return folder


def found_in(run: Path, output: Path) -> dict[str, Any]:
    words = ["neighbours", "--checkpoint", str(run), "--output", str(output), *FLAGS]
    analysis.main(["analysis.py", *words])
    return json.loads((output / "neighbours.json").read_text())


@pytest.mark.parametrize("chunk", [7, 4096])
def test_neighbours_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    draw = np.random.default_rng(0)
    training = draw.integers(0, 255, (50, 12)).astype(np.uint8)
    points = draw.normal(128, 60, (9, 12)).astype(np.float32)
    wanted = NearestNeighbors(n_neighbors=4).fit(training.astype(np.float64))
    distances, indices = wanted.kneighbors(points)
    found = nearest(torch.from_numpy(points), torch.from_numpy(training), 4)
    np.testing.assert_array_equal(found.indices.numpy(), indices)
    np.testing.assert_allclose(found.distances.numpy(), distances, rtol=1e-6)


def test_an_image_is_not_its_own_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)
    training = torch.randint(255, (10, 6), generator=torch.Generator().manual_seed(0))
    own = torch.tensor([3, 4, 9])
    found = nearest(training[own].float(), training, 1, own=own)
    assert (found.distances > 0).all()
    others = torch.cdist(training[own].double(), training.double())
    others[torch.arange(3), own] = torch.inf
    assert torch.equal(found.indices[:, 0], others.argmin(dim=1))


def test_an_exact_copy_has_the_distance_zero() -> None:
    """The shortcut by products gives 1e-2 or so for images of large values."""
    training = torch.randint(255, (100, 3072), generator=torch.Generator().manual_seed(0))
    found = nearest(training[40:41].float(), training.to(torch.uint8), 1)
    assert found.distances.item() == 0 and found.indices.item() == 40


def test_the_share_of_nearer_samples() -> None:
    unseen = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert nearer_share(torch.zeros(5), unseen) == 1
    assert nearer_share(torch.full((5,), 9.0), unseen) == 0
    assert nearer_share(unseen, unseen) == 0.5
    assert nearer_share(torch.tensor([2.0, 2.5]), unseen) == (2.5 + 2) / 8


def test_a_run_that_learnt_nothing_copies_nothing(run: Path, tmp_path: Path) -> None:
    record = found_in(run, tmp_path)
    for space in ("pixels", "features"):
        result = record["results"][space]
        assert result["identical"] == 0
        assert result["nearer_share"] < 0.2
        assert np.shape(result["neighbours"]) == (40, 5)
        assert len(result["distances"]) == len(result["compared_distances"]) == 40
    assert record["compared_with"] == "training images, themselves left out"
    assert (tmp_path / "neighbours.png").stat().st_size > 10_000


@pytest.mark.parametrize("held_out", [0, 60])
def test_planted_copies_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_out: int
) -> None:
    run = tmp_path / "run"
    train.main(["train.py", *train_arguments(run, {**CHANGES, "data.held_out_images": held_out})])
    from uvit_dia.config.files import read_config_json
    from uvit_dia.data.sources import load_training_images

    training = load_training_images(
        read_config_json(run / "config.json"), show_progress=False
    ).images

    def copies(self: ImageSampler, indices: Any) -> Any:
        wanted = list(indices)
        yield wanted, training[torch.tensor(wanted) + 100]

    monkeypatch.setattr(ImageSampler, "sample", copies)
    record = found_in(run, tmp_path / "out")
    for space in ("pixels", "features"):
        result = record["results"][space]
        assert result["identical"] == 40
        assert result["nearer_share"] == 1
        assert [row[0] for row in result["neighbours"]] == list(range(100, 140))
    expected = "held-out images" if held_out else "training images, themselves left out"
    assert record["compared_with"] == expected
    assert len(training) == 1797 - held_out


def test_pixels_are_compared_in_the_unit_range(run: Path, tmp_path: Path) -> None:
    record = found_in(run, tmp_path)
    training = read_digits().images
    first = record["results"]["pixels"]["compared_distances"]
    assert min(first) > 0 and max(first) < 0.5
    index = record["results"]["pixels"]["neighbours"][0][0]
    assert 0 <= index < len(training)


def test_an_exported_folder_and_its_id_give_the_numbers_of_the_run(
    run: Path, tmp_path: Path
) -> None:
    wanted = found_in(run, tmp_path / "of the run")
    exported = tmp_path / "exported"
    export(["export", str(run), str(exported)])
    before = tree(exported)
    found = found_in(exported, tmp_path / "of the folder")
    assert found["results"] == wanted["results"] and found["step"] == wanted["step"]
    with pytest.raises(InputError, match="--output is missing: an exported folder stays as it is"):
        analysis.main(["analysis.py", "neighbours", "--checkpoint", str(exported), *FLAGS])
    assert tree(exported) == before
    with serving() as hub:
        hub.repositories["someone/a-model"] = {
            path.relative_to(exported).as_posix(): path.read_bytes()
            for path in exported.rglob("*")
            if path.is_file()
        }
        words = ["neighbours", "--checkpoint=someone/a-model", "--output=of_the_id", *FLAGS]
        finished = subprocess.run(
            [sys.executable, "-m", "uvit_dia.analysis", *words],
            check=False,
            cwd=tmp_path,
            env={
                **os.environ,
                "HF_ENDPOINT": hub.url,
                "HF_HOME": str(tmp_path / "hf"),
                "PYTHONPATH": str(ROOT),
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert finished.returncode == 0, finished.stderr
    record = json.loads((tmp_path / "of_the_id" / "neighbours.json").read_text())
    assert record["results"] == wanted["results"]


def test_weights_alone_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(b"x")
    with pytest.raises(InputError, match="--checkpoint") as refused:
        found_in(tmp_path / "x.pth", tmp_path)
    assert "--config" not in str(refused.value) and "\n" not in str(refused.value)
