"""A run with classes, from the first step to its FID.

Trained, resumed, sampled, measured, analysed.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import eval_fid
import sample
import train
import uvit_dia
from tests.support.runs import step_folder, tiny_trainer, train_arguments, weights
from uvit_dia.analysis.__main__ import main as analyse
from uvit_dia.data.images import ImageSet
from uvit_dia.data.sources import load_training_images
from uvit_dia.runs.checkpoint import verify
from uvit_dia.runs.data_identity import DataIdentity
from uvit_dia.runs.folder import RunFolder
from uvit_dia.system.errors import InputError

CHANGES: dict[str, object] = {
    "model.num_classes": 11,
    "train.label_dropout": 0.2,
    "optimizer.learning_rate": 0.02,
    "train.sample_every_steps": 12,
    "sample.num_steps": 4,
    "sample.grid_images": 25,
    "sample.batch_size": 20,
    "eval.num_images": 64,
    "data.held_out_images": 100,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("conditional") / "run"
    train.main(["train.py", *train_arguments(path, CHANGES)])
    return path


def test_a_resumed_run_is_the_same_run(tmp_path: Path) -> None:
    whole = tiny_trainer(tmp_path / "whole", CHANGES)
    whole.fit()
    first = tiny_trainer(tmp_path / "run", CHANGES)
    while first.step < 8:
        first.train_step()
    first.save()
    second = tiny_trainer(tmp_path / "run", CHANGES)
    assert second.resume() and second.step == 8
    second.fit()
    for name, weight in weights(whole).items():
        assert torch.equal(weight, weights(second)[name]), name


def test_the_network_learns_from_the_classes(tmp_path: Path) -> None:
    """Every label that a batch holds moves its own row of the embedding, "no class" among them."""
    trainer = tiny_trainer(tmp_path, CHANGES)
    before = weights(trainer)["label_emb.weight"]
    seen = set()
    for step in range(3):
        seen |= set(trainer.batches.class_labels(step, range(8)).tolist())
        trainer.train_step()
    moved = (weights(trainer)["label_emb.weight"] != before).any(dim=1)
    assert set(moved.nonzero()[:, 0].tolist()) == seen
    assert 10 in seen


def test_a_checkpoint_knows_its_classes_and_a_preview_has_a_row_each(run: Path) -> None:
    data = DataIdentity.saved_in(verify(step_folder(run, 12)))
    assert data is not None and data.class_names == tuple("0123456789")
    with Image.open(run / "samples" / "step_00000012.png") as preview:
        assert preview.size == (3 * 34 + 2, 10 * 34 + 2)  # 25 images of 10 classes


def test_classes_and_scale_of_the_command_are_those_of_python(run: Path, tmp_path: Path) -> None:
    flags = ["--class_labels=3,7", "--guidance_scale=2.5", "--guidance_interval=100,900"]
    output = tmp_path / "x.npz"
    sample.main(
        ["sample.py", f"--checkpoint={run}", "--num_images=6", f"--output={output}", *flags]
    )
    model = uvit_dia.load(run)
    settings = {"class_labels": [3, 7], "guidance_scale": 2.5, "guidance_interval": (100, 900)}
    images = model.sample(6, output_type="np", **settings)
    assert np.array_equal(np.load(output)["arr_0"], images)
    plain = model.sample(6, output_type="np", **{**settings, "guidance_scale": 1.0})
    assert not np.array_equal(images, plain)
    others = model.sample(6, output_type="np", **{**settings, "class_labels": [7, 3]})
    assert not np.array_equal(images, others)


def test_a_folder_goes_on_with_the_same_classes_only(run: Path, tmp_path: Path) -> None:
    command = ["sample.py", f"--checkpoint={run}", f"--output={tmp_path / 'out'}"]
    sample.main([*command, "--num_images=3", "--class_labels=4"])
    sample.main([*command, "--num_images=5", "--class_labels=4"])
    assert json.loads((tmp_path / "out" / "samples.json").read_text())["class_labels"] == "4"
    with pytest.raises(InputError, match="other settings"):
        sample.main([*command, "--num_images=6", "--class_labels=5"])


def test_the_record_tells_scale_and_labels(run: Path) -> None:
    flags = ["--allow_few_images", "--guidance_scale=2", "--held_out_loss"]
    eval_fid.main(["eval_fid.py", f"--checkpoint={run}", *flags])
    record = json.loads((run / "eval.jsonl").read_text().splitlines()[-1])
    assert record["class_labels"] == "as in the training set"
    assert (record["guidance_scale"], record["nfe"]) == (2.0, 8)
    assert 0.1 < record["held_out_loss"] < 10


def test_the_held_out_loss_is_that_of_the_true_classes(tmp_path: Path) -> None:
    from uvit_dia.evaluation.held_out_loss import make_held_out_loss

    trainer = tiny_trainer(tmp_path, CHANGES)
    held_out = make_held_out_loss(trainer.config)
    told = []

    def model(x_t: torch.Tensor, timesteps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        told.append(labels)
        return x_t

    held_out.measure(model, trainer.accelerator)  # type: ignore[arg-type]
    assert held_out._labels is not None
    wanted = held_out._labels[held_out.rows].repeat(held_out.draws_per_image)
    assert torch.equal(torch.cat(told), wanted)
    assert (wanted < 10).all()


@pytest.mark.parametrize("command", ["gates", "gradients", "cost"])
def test_an_analysis_tells_the_network_its_classes(run: Path, tmp_path: Path, command: str) -> None:
    few = ["--num_images=16"] if command != "cost" else ["--batch_size=4", "--num_rounds=2"]
    words = ["analyse", command, f"--checkpoint={run}", f"--output={tmp_path}", *few]
    analyse(words)
    assert (tmp_path / f"{command}.json").is_file()


def test_other_labels_of_the_same_images_are_other_data(run: Path) -> None:
    trained = uvit_dia.load(run).trained
    images = load_training_images(trained.config, show_progress=False)
    trained.check_images(images, allow_other_data=False)
    assert images.labels is not None
    moved = ImageSet(images.name, images.images, images.labels.roll(1), images.class_names)
    with pytest.raises(InputError, match="whose labels differ; --allow_other_data"):
        trained.check_images(moved, allow_other_data=False)


def test_labels_are_nothing_to_a_run_without_classes() -> None:
    images = ImageSet("made", torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.arange(4))
    other = ImageSet("made", images.images, torch.zeros(4).long())
    assert not DataIdentity.of(images).has_other_images(DataIdentity.of(other))
    told = [DataIdentity.of(each, with_labels=True) for each in (images, other)]
    assert told[0].has_other_images(told[1])
    assert "class_names" not in DataIdentity.of(images).as_dict()  # as in older checkpoints


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--class_labels=ten"], "--class_labels 'ten': allowed is 0 to 9"),
        (["--guidance_scale=-1"], "--guidance_scale -1"),
        (["--guidance_interval=5"], "allowed is LOW,HIGH"),
        (["--guidance_interval=9,5"], "allowed is 0 <= LOW <= HIGH"),
    ],
)
def test_wrong_flags_are_refused_and_nothing_is_written(
    run: Path, tmp_path: Path, flags: list[str], said: str
) -> None:
    output = tmp_path / "grid.png"
    with pytest.raises(InputError, match=said.replace(".", r"\.")):
        sample.main(["sample.py", f"--checkpoint={run}", f"--output={output}", *flags])
    assert not output.exists()


def test_a_set_of_other_classes_is_refused_before_training(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for index in range(10):
            Image.new("L", (8, 8), 10 * index).save(folder / name / f"{index}.png")
    changes = {**CHANGES, "data.name": "folder", "data.path": str(folder)}
    changes["data.held_out_images"] = 0
    with pytest.raises(InputError, match=r"stands for 10 classes, and one .* has 2"):
        train.main(["train.py", *train_arguments(tmp_path / "run", changes)])
    assert not RunFolder(tmp_path / "run").path.joinpath("checkpoints").exists()
