"""Samples as they form, and rows between samples: their ends and their frames are the samples."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.support.configs import diffusion_config
from tests.support.denoisers import settings_of
from tests.support.forked import start_ranks
from tests.support.runs import command
from uvit_dia.data.image_grid import image_grid
from uvit_dia.sampling import command as sample
from uvit_dia.sampling.animation import MAX_FRAMES, WatchedChain, write_animation
from uvit_dia.sampling.chain import Chain
from uvit_dia.sampling.interpolation import InterpolatedNoise, between, check_interpolation
from uvit_dia.sampling.sampler import SeededNoise
from uvit_dia.system.errors import InputError

MODEL = Path(__file__).resolve().parents[2] / "models" / "digits_uvit_dia_cond"
FLAGS = ["--checkpoint", str(MODEL), "--num_steps", "6", "--batch_size", "4"]


def sampled(output: Path, *flags: str) -> Path:
    sample.main(["sample.py", *FLAGS, "--output", str(output), *flags])
    return output


def images_of(path: Path) -> np.ndarray:
    return np.load(path)["arr_0"]


def frames_of(path: Path) -> list[np.ndarray]:
    with Image.open(path) as picture:
        frames = []
        for index in range(picture.n_frames):
            picture.seek(index)
            frames.append(np.array(picture.convert("L")))
    return frames


# ---------------------------------------------------------------- animation


@pytest.mark.parametrize("name", ["a.webp", "a.GIF"])
def test_an_animation_ends_with_the_grid(tmp_path: Path, name: str) -> None:
    frames = frames_of(sampled(tmp_path / name, "--num_images", "10", "--guidance_scale", "2"))
    grid = sampled(tmp_path / "grid.png", "--num_images", "10", "--guidance_scale", "2")
    assert len(frames) == 6 + 1
    np.testing.assert_array_equal(frames[-1], np.array(Image.open(grid).convert("L")))
    # noise at first, nearer and nearer to the images
    far = [np.abs(frame.astype(float) - frames[-1]).mean() for frame in frames]
    assert far[0] > 50 and far[0] > far[2] > far[4] > far[5]


def test_frames_are_what_the_network_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of("ddim", 5)
    shown: list[Tensor] = []

    def denoiser(x_t: Tensor, timesteps: Tensor) -> Tensor:
        shown.append(x_t.clone())
        return 0.5 * x_t

    noise = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    plain, _ = Chain(settings, diffusion_config()).run(denoiser, noise, [])
    shown.clear()
    watched = WatchedChain(Chain(settings, diffusion_config()), settings.num_steps)
    x_0, nfe = watched.run(denoiser, noise, [])
    assert nfe == 5
    assert torch.equal(x_0, plain)
    expected = [((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8) for x in shown]
    assert len(watched.frames) == 5
    for frame, wanted in zip(watched.frames, expected, strict=True):
        assert torch.equal(frame, wanted)


@pytest.mark.parametrize(("steps", "count"), [(59, 59), (60, 60), (61, 31), (1000, 59)])
def test_of_many_calls_some_are_frames(steps: int, count: int) -> None:
    settings = settings_of("euler", steps)
    watched = WatchedChain(Chain(settings, diffusion_config()), steps)
    watched.run(lambda x_t, timesteps: x_t, torch.zeros(1, 1, 2, 2), [])
    assert len(watched.frames) == count <= MAX_FRAMES


def test_an_animation_rests_at_its_end_and_starts_anew(tmp_path: Path) -> None:
    frames = torch.randint(256, (3, 4, 3, 8, 8), dtype=torch.uint8)
    write_animation(tmp_path / "a.webp", frames)
    with Image.open(tmp_path / "a.webp") as picture:
        assert picture.info["loop"] == 0
        durations = []
        for index in range(3):
            picture.seek(index)
            picture.load()
            durations.append(picture.info["duration"])
            grid = image_grid(frames[index]).permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(np.array(picture.convert("RGB")), grid)
    assert durations == [60, 60, 2500]


@pytest.mark.multiprocess
def test_two_processes_make_the_same_animation(tmp_path: Path) -> None:
    arguments = ["sample.py", *FLAGS, "--num_images", "10", "--output"]
    alone, both = tmp_path / "one.webp", tmp_path / "two.webp"
    sample.main([*arguments, str(alone)])
    for child in start_ranks(2, command, "sample", [*arguments[1:], str(both)]):
        finished = child.wait()
        assert finished.exit_code == 0, finished.stderr
    for one, two in zip(frames_of(alone), frames_of(both), strict=True):
        np.testing.assert_array_equal(one, two)


# ---------------------------------------------------------------- interpolation


def test_rows_begin_with_the_samples_and_end_with_the_next_ones(tmp_path: Path) -> None:
    flags = ["--class_labels", "3"]
    samples = images_of(sampled(tmp_path / "a.npz", "--num_images", "4", *flags))
    rows = images_of(
        sampled(tmp_path / "b.npz", "--num_images", "3", "--interpolate", "5", *flags)
    ).reshape(3, 5, 8, 8, 1)
    for row in range(3):
        assert np.abs(rows[row, 0].astype(int) - samples[row]).max() <= 1
        assert np.abs(rows[row, -1].astype(int) - samples[row + 1]).max() <= 1
    middle = rows[:, 1:-1].astype(int)
    assert np.abs(middle - rows[:, :1]).mean() > 5  # and between them lies something else
    assert np.abs(middle - rows[:, -1:]).mean() > 5


def test_a_row_has_the_class_of_its_first_image(tmp_path: Path) -> None:
    rows = images_of(sampled(tmp_path / "b.npz", "--num_images", "3", "--interpolate", "2"))
    for label in range(3):
        alone = images_of(
            sampled(tmp_path / f"{label}.npz", "--num_images", "4", "--class_labels", str(label))
        )
        assert np.abs(rows[2 * label].astype(int) - alone[label]).max() <= 1
        assert np.abs(rows[2 * label + 1].astype(int) - alone[label + 1]).max() <= 1


def test_a_grid_has_a_row_a_sample(tmp_path: Path) -> None:
    grid = Image.open(sampled(tmp_path / "b.png", "--num_images", "1", "--interpolate", "7"))
    assert grid.size == (7 * 34 + 2, 34 + 2)


def test_a_folder_knows_that_it_holds_rows(tmp_path: Path) -> None:
    folder = sampled(tmp_path / "rows", "--num_images", "2", "--interpolate", "3")
    assert json.loads((folder / "samples.json").read_text())["interpolate"] == 3
    assert len(list(folder.glob("*.png"))) == 6
    with pytest.raises(InputError, match="holds samples of another checkpoint or other settings"):
        sampled(folder, "--num_images", "2")


def test_noise_in_between_is_as_long_and_as_far_as_it_should_be() -> None:
    """On the great circle (Shoemake 1985): equal angles, and norms of Gaussian draws."""
    noise = InterpolatedNoise(0, (3, 32, 32), 5)
    row, _ = noise.of(range(5))
    ends, _ = SeededNoise(0, (3, 32, 32)).of(range(2))
    assert torch.equal(row[0], ends[0]) and torch.equal(row[-1], ends[1])
    norms = row.flatten(1).norm(dim=1) / math.sqrt(row[0].numel())
    assert norms.min() > 0.95 and norms.max() < 1.05
    unit = torch.nn.functional.normalize(row.flatten(1).double(), dim=1)
    angles = torch.arccos((unit[1:] * unit[:-1]).sum(dim=1))
    torch.testing.assert_close(angles, angles[:1].expand(4), rtol=0.02, atol=0)


def test_a_block_alone_has_the_same_noise() -> None:
    noise = InterpolatedNoise(3, (1, 2, 2), 4)
    whole, _ = noise.of(range(12))
    part, generators = noise.of([6, 7, 8])
    assert torch.equal(part, whole[6:9])
    assert len(generators) == 3


def test_equal_ends_have_nothing_between_them() -> None:
    x = torch.randn(1, 2, 2)
    torch.testing.assert_close(between(x, x, 0.3), x)
    assert torch.isfinite(between(x, -x, 0.5)).all()


@pytest.mark.parametrize("name", ["ddpm", "dpmpp_2m_sde", "euler_maruyama"])
def test_samplers_that_draw_noise_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"--interpolate: --sampler {name} draws noise"):
        check_interpolation(settings_of(name, 5))


def test_ddim_goes_by_its_eta() -> None:
    check_interpolation(settings_of("ddim", 5))
    with pytest.raises(InputError, match="--eta above 0"):
        check_interpolation(settings_of("ddim", 5, eta=0.5))


@pytest.mark.parametrize("length", ["1", "0", "-2", "1001"])
def test_a_row_has_two_images_or_more(tmp_path: Path, length: str) -> None:
    with pytest.raises(InputError, match=f"--interpolate {length}: allowed is 2 to 1000"):
        sampled(tmp_path / "b.png", "--interpolate", length)
    assert not list(tmp_path.iterdir())
