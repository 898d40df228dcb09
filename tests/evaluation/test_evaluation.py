"""Sampling and measuring a trained run: the two commands as a user calls them, in this process."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

import eval_fid
import sample
import train
from tests.support.runs import log_lines, start_train, status, step_folder, train_arguments
from uvit_dia.data.image_grid import GRID_MARGIN
from uvit_dia.evaluation.digits_classifier import load_digits_classifier
from uvit_dia.evaluation.extractor_files import DIGITS_FILE
from uvit_dia.evaluation.metrics import frechet_distance
from uvit_dia.runs.checkpoint import facts_sha256
from uvit_dia.sampling.image_files import PngFolder
from uvit_dia.sampling.sampler import ImageSampler
from uvit_dia.system.errors import (
    EXIT_DIVERGED,
    InputError,
    MemoryShortageError,
    NonFiniteImagesError,
)
from uvit_dia.system.files import sha256_file, write_json

STEPS = ("--sampler", "dpmpp_2m", "--num_steps", "4")
LAST, BEFORE = 12, 8  # the steps whose checkpoints a tiny run keeps
KEYS = {
    *("metric", "value", "fd", "kd", "kd_std", "kd_subset_size", "precision", "recall"),
    *("floor", "floor_std", "floor_draws", "floor_num_images", "floor_split", "floor_rule"),
    *("gaussian_mark", "gaussian_mark_num_images", "gaussian_mark_rule"),
    *("num_images", "nfe", "seconds", "comparable"),
    *("extractor", "extractor_sha256", "reference", "reference_sha256", "reference_num_images"),
    *("sampler", "num_steps", "seed", "eta", "variance_type", "clip_sample", "batch_size"),
    *("weights", "weights_sha256", "step", "versions"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a tiny run that evaluates itself at its end; tests only read it."""
    run = tmp_path_factory.mktemp("trained") / "run"
    changes = {
        "train.eval_every_steps": LAST,
        "sample.num_steps": 4,
        "sample.batch_size": 16,
        "eval.num_images": 64,
        "optimizer.learning_rate": 0.02,
        "ema.decay": 0.5,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UVIT_DIA_CACHE", str(run.parent / "cache"))
        train.main(["train.py", *train_arguments(run, changes)])
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the run that a test may change, with its parent as working folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "run")
    return Path("run")


def call_sample(run: Path, output: str, *flags: str) -> Path:
    sample.main(["sample.py", "--checkpoint", str(run), "--output", output, *STEPS, *flags])
    return Path(output)


def npz_images(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as archive:
        return archive["arr_0"]


def call_eval(run: Path, *flags: str) -> None:
    eval_fid.main(["eval_fid.py", "--checkpoint", str(run), *flags])


@pytest.fixture
def evaluated(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict]:
    """Return a function that calls eval_fid.py and returns the one line that it wrote."""

    def evaluate(run: Path, *flags: str) -> dict:
        capsys.readouterr()
        call_eval(run, *flags)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 1
        return json.loads(lines[0])

    return evaluate


def numbers(values: dict) -> dict:
    return {key: value for key, value in values.items() if key != "seconds"}


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which every image is added that a sampler draws."""
    drawn: list[int] = []
    original = ImageSampler.sample

    def spy(self: ImageSampler, indices: Iterable[int]) -> Iterator[tuple[list[int], Tensor]]:
        for block, images in original(self, indices):
            drawn.extend(block)
            yield block, images

    monkeypatch.setattr(ImageSampler, "sample", spy)
    return drawn


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every sampler end in NaN for image 3."""
    original = ImageSampler._sample_block

    def spoil(self: ImageSampler, indices: range) -> Tensor:
        x_0 = original(self, indices)
        if 3 in indices:
            x_0[3 - indices.start] = torch.nan
        return x_0

    monkeypatch.setattr(ImageSampler, "_sample_block", spoil)


# --- sample.py -----------------------------------------------------------------------------------


def test_grid_npz_and_folder_hold_the_same_images(run: Path) -> None:
    flags = ("--num_images", "10", "--batch_size", "4", "--seed", "5")
    images = npz_images(call_sample(run, "samples.npz", *flags))
    assert images.shape == (10, 8, 8, 1)
    assert images.dtype == np.uint8
    assert len({image.tobytes() for image in images}) == 10
    folder = call_sample(run, "samples", *flags)
    assert sorted(path.name for path in folder.iterdir()) == [
        *(f"{index:06d}.png" for index in range(10)),
        "samples.json",
    ]
    for index, image in enumerate(images):
        found = np.array(Image.open(folder / f"{index:06d}.png"))
        np.testing.assert_array_equal(found, image[:, :, 0])
    grid = np.array(Image.open(call_sample(run, "grid.png", *flags)))
    pitch = 8 * 4 + GRID_MARGIN
    for index, image in enumerate(images):
        y, x = (index // 4) * pitch + GRID_MARGIN, (index % 4) * pitch + GRID_MARGIN
        np.testing.assert_array_equal(grid[y : y + 32 : 4, x : x + 32 : 4], image[:, :, 0])


def test_batch_size_and_number_do_not_change_images(run: Path) -> None:
    first = npz_images(call_sample(run, "a.npz", "--num_images", "9", "--batch_size", "4"))
    other = npz_images(call_sample(run, "b.npz", "--num_images", "12", "--batch_size", "4"))
    np.testing.assert_array_equal(other[:9], first)
    third = npz_images(call_sample(run, "c.npz", "--num_images", "9", "--batch_size", "9"))
    assert np.abs(third.astype(int) - first).max() <= 1  # grey level


def test_settings_change_images(run: Path) -> None:
    flags = ("--num_images", "4")
    images = npz_images(call_sample(run, "a.npz", *flags))
    for change in (("--seed", "1"), ("--num_steps", "5"), ("--sampler", "euler"), ("--nouse_ema",)):
        other = npz_images(call_sample(run, "b.npz", *flags, *change))
        assert not np.array_equal(images, other), change
    np.testing.assert_array_equal(npz_images(call_sample(run, "c.npz", *flags)), images)


def test_interrupted_folder_goes_on_at_the_missing_images(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--num_images", "12", "--batch_size", "4")
    folder = call_sample(run, "samples", *flags)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    lost = [2, 3, 9]
    for index in lost:
        (folder / f"{index:06d}.png").unlink()
    stamps = {path.name: path.stat().st_ino for path in folder.glob("*.png")}
    written: list[int] = []
    original = PngFolder.write

    def spy(self: PngFolder, indices: list[int], images: Tensor) -> None:
        written.extend(indices)
        original(self, indices, images)

    monkeypatch.setattr(PngFolder, "write", spy)
    call_sample(run, "samples", *flags)
    assert written == lost
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert all((folder / name).stat().st_ino == inode for name, inode in stamps.items())
    call_sample(run, "samples", *flags)
    assert written == lost


def test_folder_grows(run: Path, sampled: list[int]) -> None:
    folder = call_sample(run, "samples", "--num_images", "6", "--batch_size", "4")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    sampled.clear()
    call_sample(run, "samples", "--num_images", "9", "--batch_size", "4")
    assert sampled == [6, 7, 8]
    assert before.items() <= {path.name: path.read_bytes() for path in folder.iterdir()}.items()


@pytest.mark.parametrize("change", [("--seed", "1"), ("--nouse_ema",), ("--batch_size", "3")])
@pytest.mark.reliability("G18", "measurements of the wrong thing: refused")
def test_folder_of_other_samples_is_refused(
    run: Path, sampled: list[int], change: tuple[str, ...]
) -> None:
    folder = call_sample(run, "samples", "--num_images", "4", "--batch_size", "4")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    sampled.clear()
    flags = ("--num_images", "8", "--batch_size", "4", *change)
    with pytest.raises(InputError, match="samples of another checkpoint or other settings"):
        call_sample(run, "samples", *flags)
    with pytest.raises(InputError, match="samples of another checkpoint or other settings"):
        call_sample(step_folder(run, BEFORE), "samples", *flags[:4])
    assert sampled == []
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["grid.png", "images.npz", "folder"])
def test_no_file_is_made_of_images_that_are_not_finite(
    run: Path, spoilt: None, name: str, tmp_path: Path
) -> None:
    with pytest.raises(NonFiniteImagesError, match=r"dpmpp_2m in 4 steps .* image 3 of seed"):
        call_sample(run, name, "--num_images", "8", "--batch_size", "4")
    assert not list(tmp_path.glob("*.png")) + list(tmp_path.glob("*.npz"))
    assert not list(tmp_path.glob("folder/*.png"))


def test_sample_says_what_it_did(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call_sample(run, "grid.png", "--num_images", "4", "--nouse_ema")
    line = "grid.png: 4 images, dpmpp_2m, 4 steps, seed 0, model weights of step 12\n"
    assert capsys.readouterr().out == line


# --- eval_fid.py ---------------------------------------------------------------------------------


@pytest.mark.reliability("G18", "results that say what they depend on")
def test_eval_prints_one_line_with_all_that_the_numbers_depend_on(
    run: Path, evaluated: Callable[..., dict]
) -> None:
    values = evaluated(run, *STEPS, "--seed", "3", "--batch_size", "30")
    assert set(values) == KEYS
    facts = {
        "metric": "fd",
        "value": values["fd"],
        "num_images": 64,
        "nfe": 4,
        "comparable": True,
        "extractor": "digits",
        "extractor_sha256": sha256_file(DIGITS_FILE),
        "reference": "digits",
        "reference_num_images": 1797,
        "floor_split": "train",
        "floor_num_images": 64,
        "sampler": "dpmpp_2m",
        "num_steps": 4,
        "seed": 3,
        "eta": 0.0,
        "variance_type": "fixed_large",
        "clip_sample": True,
        "batch_size": 30,
        "weights": "ema",
        "weights_sha256": sha256_file(step_folder(run, LAST) / "ema.safetensors"),
        "step": LAST,
    }
    assert facts.items() <= values.items()
    assert {"torch", "torch-fidelity", "diffusers"} <= set(values["versions"])
    assert 0 < values["floor"] < values["fd"]  # real digits are nearer to the digits than noise is
    assert values["seconds"] > 0


def test_eval_measures_the_images_that_sample_writes(
    run: Path, evaluated: Callable[..., dict]
) -> None:
    """Once more by hand.

    Images from sample.py, features from the classifier itself, the digits from scikit-learn.
    """
    values = evaluated(run, *STEPS, "--seed", "3", "--batch_size", "30")
    flags = ("--num_images", "64", "--seed", "3", "--batch_size", "30")
    images = npz_images(call_sample(run, "samples.npz", *flags)).transpose(0, 3, 1, 2)
    digits = np.round(load_digits().images * 255 / 16).astype(np.uint8)[:, None]
    classifier = load_digits_classifier(DIGITS_FILE)
    with torch.no_grad():
        ours, real = (classifier(torch.from_numpy(part.copy())) for part in (images, digits))
    assert values["fd"] == pytest.approx(frechet_distance(ours, real), rel=1e-4)


def test_eval_repeats_itself_and_keeps_a_log(
    run: Path, evaluated: Callable[..., dict], capsys: pytest.CaptureFixture[str]
) -> None:
    first = evaluated(run, *STEPS)
    call_eval(run, *STEPS)
    captured = capsys.readouterr()
    again = json.loads(captured.out)
    assert numbers(again) == numbers(first)
    lines = (run / "eval.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [first, again]
    assert f"fd@64 = {first['fd']:.4g}" in captured.err
    assert f"{first['floor']:.4g}" in captured.err
    assert "compare only with numbers from as many" in captured.err


def test_evaluation_while_training_is_that_of_eval_fid(
    run: Path, evaluated: Callable[..., dict]
) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (logged,) = [row for row in rows if "fd" in row]
    assert logged["step"] == LAST
    values = evaluated(run)
    for name in ("fd", "kd", "precision", "recall", "floor", "num_images", "nfe"):
        assert logged[name] == pytest.approx(values[name], rel=1e-6), name


def test_no_distance_is_measured_of_images_that_are_not_finite(run: Path, spoilt: None) -> None:
    with pytest.raises(NonFiniteImagesError) as caught:
        call_eval(run, *STEPS, "--num_images", "64")
    assert caught.value.exit_code == EXIT_DIVERGED
    assert not (run / "eval.jsonl").exists()


def test_training_goes_on_where_its_samples_are_not_finite(
    tmp_path: Path, spoilt: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    changes = {"train.sample_every_steps": 4, "train.eval_every_steps": LAST}
    monkeypatch.setenv("UVIT_DIA_CACHE", str(tmp_path / "cache"))
    train.main(["train.py", *train_arguments(tmp_path / "run", {**changes, "eval.num_images": 64})])
    rows = [row for row in log_lines(tmp_path / "run") if "nonfinite_images" in row]
    assert rows == [{"step": step, "nonfinite_images": 1} for step in (4, 8, 12, 12)]
    assert status(tmp_path / "run")["state"] == "done"
    assert not list((tmp_path / "run").glob("samples/*.png"))
    told = capsys.readouterr().err
    assert told.count("warning: step ") == 4
    assert "warning: step 12: dpmpp_2m in 20 steps ended in values that are not finite" in told


def test_out_of_memory_is_told_with_the_flag_that_may_help(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: ImageSampler, indices: range) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")

    monkeypatch.setattr(ImageSampler, "_sample_block", fail)
    wanted = r"^out of memory with 16 images at a time; give a lower --batch_size$"
    for output in ("grid.png", "folder"):
        with pytest.raises(MemoryShortageError, match=wanted):
            call_sample(run, output, "--num_images", "32")
    with pytest.raises(MemoryShortageError, match=wanted):
        call_eval(run, *STEPS, "--num_images", "64")


def test_what_a_bf16_run_samples_is_what_the_commands_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluated: Callable[..., dict]
) -> None:
    """Weights are kept whole; images and distances are computed in float32 on every device."""
    monkeypatch.setenv("UVIT_DIA_CACHE", str(tmp_path / "cache"))
    run = tmp_path / "run"
    changes = {
        "train.mixed_precision": "bf16",
        "train.sample_every_steps": LAST,
        "train.eval_every_steps": LAST,
        "optimizer.learning_rate": 0.02,
        "ema.decay": 0.5,
        "sample.num_steps": 4,
        "sample.grid_images": 16,
        "sample.batch_size": 16,
        "eval.num_images": 64,
    }
    assert start_train(run, changes).wait().exit_code == 0  # a precision is for a whole process
    grid = tmp_path / "grid.png"
    sample.main(
        ["sample.py", "--checkpoint", str(run), "--num_images", "16", "--output", str(grid)]
    )
    assert sha256_file(run / "samples" / f"step_{LAST:08d}.png") == sha256_file(grid)
    (logged,) = [row for row in log_lines(run) if "fd" in row]
    assert logged["fd"] == pytest.approx(evaluated(run)["fd"], rel=1e-6)


def test_eval_of_the_raw_weights_is_another(run: Path, evaluated: Callable[..., dict]) -> None:
    averaged, raw = evaluated(run, *STEPS), evaluated(run, *STEPS, "--use_ema=False")
    assert (averaged["weights"], raw["weights"]) == ("ema", "model")
    assert averaged["weights_sha256"] != raw["weights_sha256"]
    assert averaged["fd"] != raw["fd"]
    assert averaged["floor"] == raw["floor"]


def test_a_step_folder_is_a_checkpoint_too(
    run: Path, tmp_path: Path, evaluated: Callable[..., dict]
) -> None:
    of_run = evaluated(run, *STEPS)
    of_last = evaluated(step_folder(run, LAST), *STEPS)
    of_before = evaluated(step_folder(run, BEFORE), *STEPS)
    assert numbers(of_last) == numbers(of_run)
    assert of_before["step"] == BEFORE
    assert of_before["fd"] != of_run["fd"]
    assert len((run / "eval.jsonl").read_text().splitlines()) == 3
    alone = tmp_path / "alone" / step_folder(run, LAST).name
    shutil.copytree(step_folder(run, LAST), alone)
    assert numbers(evaluated(alone, *STEPS)) == numbers(of_run)
    assert not list((tmp_path / "alone").rglob("eval.jsonl"))


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_damaged_newest_checkpoint_is_passed_over_with_a_warning(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(step_folder(run, LAST) / "ema.safetensors")
    call_eval(run, *STEPS)
    captured = capsys.readouterr()
    assert json.loads(captured.out)["step"] == BEFORE
    assert "warning: " in captured.err
    assert "trying the checkpoint before it" in captured.err
    with pytest.raises(InputError, match="is damaged"):
        call_eval(step_folder(run, LAST), *STEPS)
    damage(step_folder(run, BEFORE) / "model.safetensors")
    with pytest.raises(InputError, match="undamaged"):
        call_eval(run, *STEPS)


@pytest.mark.reliability("G18", "measurements of the wrong thing: refused")
def test_fewer_images_than_features_are_refused_unless_wanted(
    run: Path, evaluated: Callable[..., dict], sampled: list[int]
) -> None:
    with pytest.raises(InputError, match=r"has 64 features .* --allow_few_images"):
        call_eval(run, *STEPS, "--num_images", "63")
    assert sampled == []
    values = evaluated(run, *STEPS, "--num_images", "63", "--allow_few_images")
    assert sampled == list(range(63))
    assert values["num_images"] == 63
    assert values["comparable"] is False
    assert evaluated(run, *STEPS, "--num_images", "64")["comparable"] is True


def test_the_fewest_images_of_all_can_be_measured(
    run: Path, evaluated: Callable[..., dict]
) -> None:
    values = evaluated(run, *STEPS, "--num_images", "4", "--allow_few_images")
    assert values["num_images"] == values["kd_subset_size"] == values["batch_size"] == 4


def test_other_commands_find_the_reference_in_the_cache(
    run: Path, own_cache: Path, evaluated: Callable[..., dict]
) -> None:
    first = evaluated(run, *STEPS)
    (file,) = (own_cache / "features").iterdir()
    stamp = file.stat().st_mtime_ns
    second = evaluated(step_folder(run, BEFORE), *STEPS)
    assert file.stat().st_mtime_ns == stamp
    assert second["reference_sha256"] == first["reference_sha256"]


# --- wrong input ---------------------------------------------------------------------------------


def rewrite_config(folder: Path, **model: object) -> None:
    """Change a checkpoint's config behind its back, and its manifest with it."""
    config = json.loads((folder / "config.json").read_text())
    config["model"].update(model)
    write_json(folder / "config.json", config)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["config.json"] = {
        "bytes": (folder / "config.json").stat().st_size,
        "sha256": sha256_file(folder / "config.json"),
    }
    manifest.pop("manifest_sha256")
    facts = facts_sha256(manifest)
    write_json(folder / "manifest.json", {**manifest, "manifest_sha256": facts})


def assert_refused(main: Callable[[list[str]], None], argv: list[str], said: str) -> None:
    with pytest.raises(InputError) as caught:
        main(argv)
    message = " ".join(str(caught.value).split())  # as the command prints it
    assert said in message
    assert len(message) <= 250


@pytest.mark.parametrize("main", [sample.main, eval_fid.main], ids=["sample", "eval_fid"])
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--checkpoint is missing"),
        (["--checkpoint", "nowhere"], "--checkpoint: no folder nowhere"),
        (["--checkpoint", "."], "neither a run nor a step folder"),
        (["--checkpoint", "fresh"], "has no checkpoint yet"),
        (["--checkpoint", "wide"], "of another architecture"),
        (["--checkpoint", "odd"], "model.depth = 3 is odd"),
        (["--checkpoint", "run", "--sampler", "dpm"], "--sampler 'dpm': unknown"),
        (["--checkpoint", "run", "--num_images", "0"], "--num_images 0: allowed is 1"),
        (["--checkpoint", "run", "--num_images=-3"], "--num_images -3: allowed is 1"),
        (["--checkpoint", "run", "--num_images", "many"], "num_images"),
        (["--checkpoint", "run", "--num_steps", "0"], "--num_steps 0: allowed is 1"),
        (["--checkpoint", "run", "--num_steps", "1000"], "--num_steps 1000: allowed is 1 to 999"),
        (["--checkpoint", "run", "--num_steps", "7", "--sampler", "ddim"], "needs a divisor"),
        (["--checkpoint", "run", "--batch_size", "0"], "--batch_size 0: allowed is 1"),
        (["--checkpoint", "run", "--seed=-1"], "--seed -1: allowed is 0"),
        (["--checkpoint", "run", "--num_image", "4"], "did you mean num_images?"),
        (["--checkpoint", "run", "more"], "unexpected word 'more'"),
    ],
)
@pytest.mark.reliability("G5", "malformed inputs refused in one line")
def test_wrong_input_is_told_in_one_line(
    run: Path,
    sampled: list[int],
    main: Callable[[list[str]], None],
    flags: list[str],
    said: str,
) -> None:
    for name, change in (("wide", {"embed_dim": 32}), ("odd", {"depth": 3})):
        shutil.copytree(step_folder(run, LAST), name)
        rewrite_config(Path(name), **change)
    Path("fresh").mkdir()
    shutil.copy(run / "config.json", "fresh")
    before = sorted(os.walk("."))
    assert_refused(main, ["command", *flags], said)
    assert sampled == []
    assert sorted(os.walk(".")) == before  # nothing was written


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--output", "nowhere/grid.png"], "must be a file in a folder that is there"),
        (["--output", "nowhere/samples.npz"], "must be a file in a folder that is there"),
        (["--output", "folder.png"], "must be a file in a folder that is there"),
        (["--output", "mine"], "holds other files, such as thesis.txt"),
        (["--output", "run/config.json/samples"], "cannot make the folder"),
        (["--output", "run"], "holds other files"),
    ],
)
@pytest.mark.reliability("G5", "malformed inputs refused in one line")
def test_wrong_output_is_refused_before_any_sampling(
    run: Path, sampled: list[int], flags: list[str], said: str
) -> None:
    Path("folder.png").mkdir()
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("mine")
    before = sorted(os.walk("."))
    assert_refused(sample.main, ["sample.py", "--checkpoint", str(run), *flags], said)
    assert sampled == []
    assert sorted(os.walk(".")) == before


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--num_images", "1"], "--num_images 1: these metrics need at least 4"),
        (["--num_images", "3", "--allow_few_images"], "--num_images 3"),
        (["--extractor", "vgg19"], "--extractor 'vgg19': unknown"),
        (["--extractor", "pt2:features.pt2"], "no file features.pt2"),
        (["--extractor", "pt2:run/config.json"], "no readable torch.export program"),
        (["--extractor", "digits", "--weights", "w.pth"], "--weights goes with"),
        (
            ["--extractor", "inception-v3-compat", "--weights", "w.pth"],
            "no Inception weights at w.pth",
        ),
        (
            ["--extractor", "inception-v3-compat", "--weights", "run/config.json"],
            "is not the expected file",
        ),
    ],
)
@pytest.mark.reliability("G18", "measurements of the wrong thing: refused")
def test_wrong_measurement_is_refused_before_any_sampling(
    run: Path,
    sampled: list[int],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    said: str,
) -> None:
    def unread(*args: object, **kwargs: object) -> None:
        raise AssertionError("no image is read for a measurement that cannot be")

    monkeypatch.setattr("uvit_dia.data.sources.load_image_set", unread)
    assert_refused(eval_fid.main, ["eval_fid.py", "--checkpoint", str(run), *flags], said)
    assert sampled == []
    assert not (run / "eval.jsonl").exists()


def test_extractor_that_does_not_fit_the_images_is_refused_before_any_sampling(
    run: Path, sampled: list[int]
) -> None:
    class Rgb(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.float().mean((2, 3))

    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(Rgb(), (images,), dynamic_shapes=({0: batch},))
    torch.export.save(program, "rgb.pt2")
    argv = ["eval_fid.py", "--checkpoint", str(run), "--extractor", "pt2:rgb.pt2"]
    assert_refused(eval_fid.main, argv, "does not take images of shape (1, 8, 8)")
    assert sampled == []
