"""Latents: encoded once by an autoencoder that the test makes, trained on, decoded, measured."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import eval_fid
import sample
import train
from tests.support.configs import changed, refusal
from tests.support.latents import encode, write_autoencoder
from tests.support.runs import tiny_config, tiny_trainer, train_arguments, weights
from uvit_dia.config.checks import make_config
from uvit_dia.data import encoding
from uvit_dia.data.__main__ import main as look
from uvit_dia.data.batches import TrainingBatches
from uvit_dia.data.images import ImageSet, to_model_range
from uvit_dia.data.latents import DESCRIPTION, pixel_config
from uvit_dia.data.sources import load_image_set, load_training_images
from uvit_dia.evaluation.held_out_loss import make_held_out_loss
from uvit_dia.rng import normal_rows
from uvit_dia.sampling import decoding
from uvit_dia.system.errors import InputError, StorageError

SCALE, SHIFT = 0.5, 0.1  # of the tiny autoencoder
HELD_OUT = 97
COUNT = 1797 - HELD_OUT
LATENT: dict[str, object] = {
    "data.name": "latents",
    "model.in_chans": 2,
    "model.img_size": 4,
    "sample.clip_sample": False,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an autoencoder `vae` and the digits encoded by it, `latents`."""
    folder = tmp_path_factory.mktemp("made")
    vae = write_autoencoder(folder / "vae")
    encode(folder / "latents", vae, f"--held_out_images={HELD_OUT}", "--batch_size=200")
    return folder


@pytest.fixture
def latents(made: Path, tmp_path: Path) -> Path:
    """Return a copy of the latents that a test may damage."""
    for file in (made / "latents").iterdir():
        (tmp_path / "latents").mkdir(exist_ok=True)
        (tmp_path / "latents" / file.name).write_bytes(file.read_bytes())
    return tmp_path / "latents"


def changes(made: Path, **more: object) -> dict[str, object]:
    return {**LATENT, "data.path": str(made / "latents"), **more}


def read(folder: Path, split: str = "train") -> ImageSet:
    found = load_image_set("latents", str(folder), split, img_size=4, in_chans=2)
    assert found is not None
    return found


def posterior(vae: Path, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of x_0 as diffusers and the definition give them."""
    from diffusers import AutoencoderKL

    network = AutoencoderKL.from_pretrained(vae).eval()
    with torch.no_grad():
        moments = network.quant_conv(network.encoder(images.double().float() / 127.5 - 1))
    mean, log_variance = moments.chunk(2, dim=1)
    return (mean - SHIFT) * SCALE, torch.exp(log_variance.clamp(-30, 20) / 2) * SCALE


# ---------------------------------------------------------------- encoding


def test_latents_are_those_of_the_autoencoder(made: Path) -> None:
    found = read(made / "latents")
    config = make_config(changed({"data.held_out_images": HELD_OUT}))
    images = load_training_images(config, show_progress=False)
    mean, std = posterior(made / "vae", images.images)
    assert found.images.shape == (COUNT, 2, 2, 4, 4) and found.images.dtype == torch.float16
    stored = torch.stack((mean, std), dim=1)
    torch.testing.assert_close(found.images.float(), stored, rtol=1e-3, atol=1e-4)  # of float16
    assert found.labels is not None and torch.equal(found.labels, images.labels)  # type: ignore[arg-type]
    assert found.shape == (2, 4, 4) and found.class_names == images.class_names
    assert len(read(made / "latents", "test")) == HELD_OUT
    assert "4x4 with 2 channels; means and standard deviations in float16" in found.summary()


def test_means_in_float32_with_mirrored_images(made: Path, tmp_path: Path) -> None:
    options = ("--posterior=mean", "--dtype=float32", "--mirrored", "--batch_size=500")
    found = read(encode(tmp_path / "latents", made / "vae", *options))
    images = load_training_images(make_config(changed()), show_progress=False)
    both = torch.cat((images.images, images.images.flip(-1)))
    assert found.images.shape == (2 * 1797, 2, 4, 4) and found.images.dtype == torch.float32
    mean, _ = posterior(made / "vae", both)
    torch.testing.assert_close(found.images, mean, rtol=1e-5, atol=1e-5)
    assert found.labels is not None and torch.equal(found.labels[1797:], found.labels[:1797])
    assert torch.equal(to_model_range(found.images[:5]), found.images[:5])


def test_a_killed_encoding_goes_on(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "BATCHES_A_NOTE", 2)
    flags = (f"--held_out_images={HELD_OUT}", "--batch_size=200")
    original, calls = encoding._encoded, []

    def failing(*arguments: Any, **options: Any) -> torch.Tensor:
        calls.append(arguments)
        if len(calls) == 6:  # 4 are noted, the fifth is written
            raise OSError(28, "No space left on device")
        return original(*arguments, **options)

    monkeypatch.setattr(encoding, "_encoded", failing)
    with pytest.raises(StorageError, match=r"cannot write .*partial: No space left"):
        encode(tmp_path / "latents", made / "vae", *flags)
    assert not (tmp_path / "latents").exists()
    encode(tmp_path / "latents", made / "vae", *flags)
    assert len(calls) == 6 + 9 - 4 + 1  # 9 batches of training images, 1 of the others
    for name in ("train.latents", "train.labels", "test.latents", DESCRIPTION):
        assert (tmp_path / "latents" / name).read_bytes() == (made / "latents" / name).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["latents"]


def test_finished_latents_stay_and_follow_their_images(
    latents: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = (f"--held_out_images={HELD_OUT}",)
    moved = latents.parent / "moved"
    (moved).symlink_to(made / "vae")
    before = (latents / "train.latents").stat().st_mtime_ns
    encode(latents, moved, *flags)
    assert "are there already" in capsys.readouterr().out
    assert json.loads((latents / DESCRIPTION).read_text())["autoencoder"]["name"] == str(moved)
    assert (latents / "train.latents").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="other settings; name another folder"):
        encode(latents, moved, *flags, "--dtype=float32")


# ---------------------------------------------------------------- x_0 of a step


def test_the_posterior_is_drawn_by_position(made: Path) -> None:
    images = read(made / "latents")
    batches = TrainingBatches(images, 40, seed=3, random_flip=False, device="cpu")
    whole = batches.x_0(7, range(40))
    parts = [batches.x_0(7, rows) for rows in (range(20), range(20, 40))]
    assert torch.equal(whole, torch.cat(parts))  # of two processes
    mean, std = images.images[batches.order.indices(7, range(40))].float().unbind(1)
    eps = normal_rows(3, "posterior", 7, range(40), 40, (2, 4, 4))
    torch.testing.assert_close(whole, mean + std * eps, rtol=0, atol=1e-6)
    other = TrainingBatches(images, 40, seed=4, random_flip=False, device="cpu")
    assert not torch.equal(other.x_0(7, range(40)), whole)


def test_the_held_out_loss_takes_means(made: Path) -> None:
    config = tiny_config(changes(made))
    measure = make_held_out_loss(config)
    assert len(measure.rows) == HELD_OUT
    images = measure._images.images[:3]
    assert torch.equal(to_model_range(images), images[:, 0].float())


# ---------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def run(made: Path) -> Path:
    """Train a tiny run on latents, with previews and an evaluation."""
    more = {
        "data.vae": str(made / "vae"),
        "train.sample_every_steps": 12,
        "train.eval_every_steps": 12,
        "sample.num_steps": 3,
        "sample.batch_size": 16,
        "eval.num_images": 64,
        "eval.metrics": ("fid", "held_out_loss"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UVIT_DIA_CACHE", str(made / "cache"))
        train.main(["train.py", *train_arguments(made / "run", changes(made, **more))])
    return made / "run"


def test_samples_are_decoded(run: Path, made: Path, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    from uvit_dia.runs.open_model import open_model
    from uvit_dia.sampling.sampler import make_sampler

    words = ["sample.py", "--checkpoint", str(run), "--num_images=20"]
    sample.main([*words, "--output", str(tmp_path / "out.npz")])
    with np.load(tmp_path / "out.npz") as archive:
        images = torch.from_numpy(archive["arr_0"]).permute(0, 3, 1, 2)
    assert images.shape == (20, 1, 8, 8)
    trained = open_model(run)
    sampler = make_sampler(
        trained.model,
        trained.config,
        trained.config.sample,
        batch_size=16,
        device="cpu",  # type: ignore[arg-type]
    )
    x_0 = torch.cat([sampler._sample_block(range(16 * k, 16 * k + 16)) for k in (0, 1)])[:20]
    vae = AutoencoderKL.from_pretrained(made / "vae").eval()
    with torch.no_grad():
        pixels = vae.decoder(vae.post_quant_conv(x_0 / SCALE + SHIFT))
    expected = ((pixels.clamp(-1, 1) + 1) * 127.5).round()
    assert (images - expected).abs().max() <= 1  # rounding at a half
    assert images.float().std() > 1
    assert (run / "samples" / "step_00000012.png").is_file()
    sample.main([*words, "--output", str(tmp_path / "out.gif"), "--num_steps=3"])
    assert (tmp_path / "out.gif").stat().st_size > 100


def test_samples_are_measured_against_the_images(
    run: Path, made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UVIT_DIA_CACHE", str(made / "cache"))
    capsys.readouterr()
    eval_fid.main(["eval_fid.py", "--checkpoint", str(run)])
    record = json.loads(capsys.readouterr().out)
    images = load_training_images(
        make_config(changed({"data.held_out_images": HELD_OUT})), show_progress=False
    )
    assert record["reference_sha256"] == images.fingerprint()
    assert record["reference_num_images"] == COUNT
    assert record["held_out_num_images"] == HELD_OUT
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    while_training = next(line for line in lines if "held_out_loss" in line)
    assert record["held_out_loss"] == while_training["held_out_loss"]


def test_a_run_on_latents_resumes_exactly(made: Path, tmp_path: Path) -> None:
    more: dict[str, object] = {
        "train.num_steps": 6,
        "train.checkpoint_every_steps": 3,
        "optimizer.lr_schedule": "constant",
    }
    whole = tiny_trainer(tmp_path / "whole", changes(made, **more))
    whole.fit()
    first = tiny_trainer(tmp_path / "parts", changes(made, **{**more, "train.num_steps": 3}))
    first.fit()
    second = tiny_trainer(tmp_path / "parts", changes(made, **more))
    assert second.resume()
    second.fit()
    found, expected = weights(second), weights(whole)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# ---------------------------------------------------------------- what does not fit


def torn(folder: Path) -> None:
    path = folder / "train.latents"
    path.write_bytes(path.read_bytes()[:-5])


def flipped_bit(folder: Path) -> None:
    content = bytearray((folder / "train.latents").read_bytes())
    content[1000] ^= 1
    (folder / "train.latents").write_bytes(content)


def other_labels(folder: Path) -> None:
    content = bytearray((folder / "train.labels").read_bytes())
    content[0] = (content[0] + 1) % 10
    (folder / "train.labels").write_bytes(content)


def no_description(folder: Path) -> None:
    (folder / DESCRIPTION).unlink()


def cut_description(folder: Path) -> None:
    path = folder / DESCRIPTION
    path.write_text(path.read_text()[:100])


def other_keys(folder: Path) -> None:
    values = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps({**values, "splits": {"train": {"a": 1}}}))


def no_file(folder: Path) -> None:
    (folder / "train.latents").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (torn, "train.latents is torn"),
        (flipped_bit, "train.latents was changed"),
        (other_labels, "train.labels was changed"),
        (no_description, "holds no latents, which `uvit-dia encode` writes"),
        (cut_description, "description.json"),
        (other_keys, "description.json was changed"),
        (no_file, "cannot read"),
    ],
)
def test_damaged_latents_are_refused(
    latents: Path, damage: Callable[[Path], None], said: str
) -> None:
    damage(latents)
    with pytest.raises(InputError) as caught:
        read(latents)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_another_size_is_refused(made: Path) -> None:
    with pytest.raises(InputError, match=r"images of shape \(2, 4, 4\); model.in_chans = 4"):
        load_image_set("latents", str(made / "latents"), "train", img_size=4, in_chans=4)


def test_changed_images_are_no_reference(latents: Path, made: Path) -> None:
    values = json.loads((latents / DESCRIPTION).read_text())
    values["source"]["data"]["held_out_images"] = HELD_OUT + 1
    (latents / DESCRIPTION).write_text(json.dumps(values))
    from uvit_dia.evaluation.evaluator import make_evaluator
    from uvit_dia.evaluation.extractor_files import choose_extractor

    config = tiny_config({**LATENT, "data.path": str(latents)})
    evaluator = make_evaluator(
        config, choose_extractor(config.eval), device="cpu", warn=print, names=("fid",)
    )
    with pytest.raises(InputError, match=r"changed since the latents .* were made of them"):
        evaluator.training_images  # noqa: B018


def test_another_autoencoder_does_not_decode(made: Path, tmp_path: Path) -> None:
    write_autoencoder(tmp_path / "other", seed=1)
    config = tiny_config(changes(made, **{"data.vae": str(tmp_path / "other")}))
    with pytest.raises(InputError, match="is not the autoencoder that made the latents"):
        decoding.make_decoder(config, config.sample, torch.device("cpu"))
    config = tiny_config(changes(made, **{"data.path": str(tmp_path)}))
    with pytest.raises(InputError, match=r"without it, data\.vae must name the autoencoder"):
        decoding.make_decoder(config, config.sample, torch.device("cpu"))


def test_latents_on_another_machine_are_not_needed_to_sample(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {"data.path": str(tmp_path / "gone"), "data.vae": str(made / "vae")}
    config = tiny_config(changes(made, **paths))
    decoder = decoding.make_decoder(config, config.sample, torch.device("cpu"))
    assert decoder(torch.zeros(9, 2, 4, 4)).shape == (9, 1, 8, 8)
    assert "nobody knows whether data.vae" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"model\.in_chans = 3: the latents of .* have 2 channels"):
        decoding._autoencoder(str(made / "latents"), "", 3, torch.device("cpu"))


def no_weights(vae: Path) -> None:
    (vae / "diffusion_pytorch_model.safetensors").unlink()


def cut_weights(vae: Path) -> None:
    path = vae / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])


def another_network(vae: Path) -> None:
    config = json.loads((vae / "config.json").read_text())
    (vae / "config.json").write_text(json.dumps({**config, "_class_name": "UNet2DModel"}))


def another_width(vae: Path) -> None:
    config = json.loads((vae / "config.json").read_text())
    (vae / "config.json").write_text(json.dumps({**config, "layers_per_block": 2}))


@pytest.mark.parametrize("damage", [no_weights, cut_weights, another_network, another_width])
def test_what_is_no_autoencoder_is_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    vae = write_autoencoder(tmp_path / "vae")
    damage(vae)
    with pytest.raises(InputError) as caught:
        encode(tmp_path / "latents", vae)
    assert "autoencoder" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "latents").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--in_chans=3"], "--in_chans 3: the autoencoder"),
        (["--img_size=7"], "takes multiples of 2"),
        (["--name=latents"], "--name 'latents': allowed is digits"),
        (["--memory_map"], "--memory_map: only with"),
        (["--vae="], "encode: --vae is missing"),
        (["--dtype=float64"], "float64"),
    ],
)
def test_a_wrong_command_is_refused(
    made: Path, tmp_path: Path, flags: list[str], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        encode(tmp_path / "latents", made / "vae", *flags)
    assert said in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_refused(made: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(InputError, match="holds no latents"):
        encode(tmp_path, made / "vae")
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"data.random_flip": True}, "data.random_flip = True"),
        ({"data.held_out_images": 5}, "data.held_out_images = 5"),
        ({"sample.clip_sample": True}, "sample.clip_sample = True"),
        ({"data.memory_map": True, "data.on_device": False}, "data.memory_map = True"),
        ({"data.name": "digits", "data.vae": "x"}, "data.vae = 'x'"),
        ({"data.path": ""}, "data.path is empty"),
    ],
)
def test_keys_of_pixels_are_refused(values: dict[str, object], said: str) -> None:
    assert said in refusal(changed({**LATENT, "data.path": "x", **values}))


def test_clipping_is_refused_when_sampling(run: Path, tmp_path: Path) -> None:
    words = ["sample.py", "--checkpoint", str(run), "--output", str(tmp_path / "a.png")]
    with pytest.raises(InputError, match="would clip latents"):
        sample.main([*words, "--clip_sample"])


def test_export_is_refused(run: Path, tmp_path: Path) -> None:
    from uvit_dia.export.__main__ import main as export

    with pytest.raises(InputError, match="the pipeline has no autoencoder"):
        export(["export", str(run), str(tmp_path / "out")])


def test_the_look_at_latents(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    look(["data", str(made / "latents")])
    printed = capsys.readouterr().out
    x_0 = read(made / "latents").images[:, 0].double()
    mean = ", ".join(f"{float(value):.2f}" for value in x_0.mean(dim=(0, 2, 3)))
    assert f"x_0: mean {mean}, standard deviation" in printed
    with pytest.raises(InputError, match="latents are no pictures"):
        look(["data", str(made / "latents"), f"--output={made / 'grid.png'}"])


def test_the_pixels_of_images_are_themselves() -> None:
    config = make_config(changed())
    assert pixel_config(config) is config
