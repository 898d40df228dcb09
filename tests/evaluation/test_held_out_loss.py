"""The held-out loss: known answers, common random numbers, images that are never trained on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

import eval_fid
from tests.support.forked import start_ranks
from tests.support.runs import command, tiny_config, train, train_arguments
from uvit_dia.data.images import ImageSet
from uvit_dia.data.sources import load_test_images, load_training_images
from uvit_dia.evaluation.held_out_loss import HeldOutLoss
from uvit_dia.system.errors import InputError


def noise_set(count: int) -> ImageSet:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return ImageSet("noise", images)


class Spy(nn.Module):
    """Predicts zeros, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.x_t: list[Tensor] = []
        self.timesteps: list[Tensor] = []

    def forward(self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor | None = None) -> Tensor:
        self.x_t.append(x_t)
        self.timesteps.append(timesteps)
        return torch.zeros_like(x_t)


def measure(count: int, batch_size: int) -> tuple[dict, Spy]:
    spy = Spy()
    config = tiny_config({"diffusion.prediction_type": "epsilon"})
    loss = HeldOutLoss(noise_set(count), config, batch_size=batch_size)
    return loss.measure(spy, Accelerator(cpu=True)), spy


def test_a_network_that_says_zero_has_the_power_of_the_noise() -> None:
    """Its squared error is the mean of eps squared: 1, to three standard errors."""
    values, _ = measure(300, 64)
    buckets = [values[f"held_out_loss_{bucket}"] for bucket in range(10)]
    assert values["held_out_loss"] == pytest.approx(sum(buckets) / 10, abs=1e-12)
    assert all(abs(each - 1) < 3 * (2 / (300 * 16)) ** 0.5 for each in buckets)
    assert (values["held_out_num_images"], values["held_out_num_draws"]) == (300, 3000)


@pytest.mark.parametrize(("count", "draws"), [(7, 10), (999, 10), (1001, 9), (10_000, 1)])
def test_every_bucket_is_asked_alike_and_its_timesteps_lie_within(count: int, draws: int) -> None:
    values, spy = measure(count, 2000)
    assert values["held_out_num_draws"] == count * draws
    timesteps = torch.cat(spy.timesteps)
    buckets = (torch.arange(count * draws) % count + torch.arange(count * draws) // count) % 10
    assert torch.equal(timesteps // 100, buckets)  # T = 1000
    counts = buckets.bincount(minlength=10)
    assert counts.max() - counts.min() <= draws
    if count > 100:  # spread over the whole bucket
        within = timesteps % 100
        assert within.min() < 5 and within.max() > 94


def test_networks_are_asked_the_same_whatever_the_batch() -> None:
    (one, first), (other, second) = measure(50, 7), measure(50, 500)
    assert torch.equal(torch.cat(first.x_t), torch.cat(second.x_t))
    assert one["held_out_loss"] == pytest.approx(other["held_out_loss"], rel=1e-6)


def test_larger_sets_are_thinned_evenly() -> None:
    loss = HeldOutLoss(noise_set(25_000), tiny_config(), batch_size=100)
    assert (len(loss.rows), loss.draws_per_image) == (10_000, 1)
    assert loss.rows[0] == 0 and loss.rows.diff().unique().tolist() == [2, 3]


def test_held_out_images_are_never_trained_on() -> None:
    config = tiny_config({"data.held_out_images": 360})
    train = load_training_images(config, show_progress=False)
    test = load_test_images(config, show_progress=False)
    assert test is not None
    assert (len(train), len(test)) == (1437, 360)
    whole = load_training_images(tiny_config(), show_progress=False)
    ids = {
        image.numpy().tobytes(): label
        for image, label in zip(whole.images, whole.labels, strict=True)
    }
    for part in (train, test):
        for image, label in zip(part.images, part.labels, strict=True):
            assert ids[image.numpy().tobytes()] == label  # labels follow their images
    together = torch.cat([train.images, test.images]).flatten(1)
    assert torch.equal(
        together.float().sort(dim=0).values, whole.images.flatten(1).float().sort(dim=0).values
    )
    assert "360 more held out" in train.summary()
    other_seed = tiny_config({"data.held_out_images": 360, "seed": 5})
    again = load_test_images(other_seed, show_progress=False)
    assert again is not None and torch.equal(again.images, test.images)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train.held_out_every_steps": 5}, "set data.held_out_images, such as 360"),
        ({"eval.metrics": ("fid", "held_out_loss")}, "set data.held_out_images, such as 360"),
        ({"eval.metrics": ("held_out_loss",)}, "with one of the first four at least"),
        ({"data.held_out_images": -1}, "data.held_out_images"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        tiny_config(changes)


def test_a_set_that_is_held_out_whole_is_refused() -> None:
    config = tiny_config({"data.held_out_images": 1797})
    with pytest.raises(InputError, match="leaves nothing of 1797 images"):
        load_training_images(config, show_progress=False)


LOGGED: dict[str, Any] = {
    "train.num_steps": 4,
    "train.held_out_every_steps": 2,
    "train.checkpoint_every_steps": 4,
    "data.held_out_images": 20,
}


def logged(run: Path) -> dict[int, dict]:
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if "held_out_loss" in line}


def test_training_and_eval_fid_measure_the_averaged_weights_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, LOGGED).exit_code == 0
    found = logged(tmp_path)
    assert sorted(found) == [2, 4]
    capsys.readouterr()
    flags = ["--num_images=20", "--num_steps=4", "--allow_few_images", "--held_out_loss"]
    eval_fid.main(["eval_fid.py", f"--checkpoint={tmp_path}", *flags])
    line = json.loads(capsys.readouterr().out)
    for name in ("held_out_loss", *(f"held_out_loss_{bucket}" for bucket in range(10))):
        assert found[4][name] == pytest.approx(line[name], rel=1e-6)
    assert line["held_out_num_images"] == 20 and len(line["held_out_sha256"]) == 64


@pytest.mark.multiprocess
def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    """Images of a block are computed together, and each process has whole blocks."""
    assert train(tmp_path / "one", LOGGED).exit_code == 0
    arguments = train_arguments(tmp_path / "two", LOGGED)
    finished = [child.wait() for child in start_ranks(2, command, "train", arguments)]
    assert [done.exit_code for done in finished] == [0, 0], finished
    one, two = (logged(tmp_path / name)[4] for name in ("one", "two"))
    assert two["held_out_loss"] == pytest.approx(one["held_out_loss"], rel=1e-4)
    assert two["held_out_num_draws"] == 200
