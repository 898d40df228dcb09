"""An exported folder: loaded by diffusers without this package, read by us without its code."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

import eval_fid
import sample
import train
import uvit_dia
from tests.support.runs import train_arguments
from uvit_dia.config.schema import SAMPLERS
from uvit_dia.export.__main__ import main as export
from uvit_dia.runs.exported import WEIGHTS
from uvit_dia.system.errors import InputError

TINY: dict[str, object] = {
    "optimizer.learning_rate": 0.02,
    "train.sample_every_steps": 12,
    "sample.num_steps": 4,
    "sample.grid_images": 9,
    "eval.num_images": 64,
}
RUNS: dict[str, dict[str, object]] = {
    "plain": {"model.attention": "none"},
    "conditional": {"model.num_classes": 11, "train.label_dropout": 0.1},
    "flow": {
        "diffusion.process": "flow",
        "diffusion.prediction_type": "sample",
        "sample.sampler": "flow_heun",
    },
    "epsilon": {"diffusion.prediction_type": "epsilon", "sample.sampler": "heun"},
}
# What loads each folder where importing this package fails, and saves it again.
FOREIGN = """
import json, sys
from pathlib import Path

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "uvit_dia":
            raise ImportError(f"{name} is not to be imported here")

sys.meta_path.insert(0, Refuse())
import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

torch.set_num_threads(1)
root = Path(sys.argv[1])
for name, call in json.loads(sys.argv[2]).items():
    pipe = DiffusionPipeline.from_pretrained(root / name, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    images = pipe(num_images=4, seed=3, output_type="np", **call).images
    np.save(root / f"{name}.npy", images)
    pipe.save_pretrained(root / f"{name}_again")
    again = DiffusionPipeline.from_pretrained(root / f"{name}_again", trust_remote_code=True)
    again.set_progress_bar_config(disable=True)
    assert np.array_equal(images, again(num_images=4, seed=3, output_type="np", **call).images)
    if name == "plain":
        pipe.scheduler = DDIMScheduler.from_config(
            pipe.scheduler.config, timestep_spacing="trailing", clip_sample=True
        )
        swapped = pipe(num_images=4, seed=3, output_type="np", num_inference_steps=5).images
        np.save(root / "swapped.npy", swapped)
        steps = []
        def stop(pipe, index, t, given):
            steps.append(index)
            return {"latents": given["latents"] * 0}
        (black,) = pipe(2, callback_on_step_end=stop, num_inference_steps=5, return_dict=False)
        assert steps == [0, 1, 2, 3, 4] and len(black) == 2 and black[0].size == (8, 8)
        for wrong in ({"class_labels": 3}, {"guidance_scale": 2.0}, {"output_type": "jpg"}):
            try:
                pipe(2, num_inference_steps=2, **wrong)
            except ValueError:
                continue
            raise AssertionError(wrong)
assert "uvit_dia" not in sys.modules
"""
CALLS = {
    "plain": {},
    "conditional": {"class_labels": [1, 2, 3, 9], "guidance_scale": 2.5},
    "flow": {},
    "epsilon": {"num_inference_steps": 6},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train four tiny runs, export each, and let diffusers load and save them without us."""
    root = tmp_path_factory.mktemp("export")
    for name, changes in RUNS.items():
        run = root / "runs" / name
        train.main(["train.py", *train_arguments(run, {**TINY, **changes})])
        if name == "conditional":
            eval_fid.main(["eval_fid.py", f"--checkpoint={run}", "--allow_few_images"])
        export(["export", str(run), str(root / name), "--license=apache-2.0"])
    script = root / "foreign.py"
    script.write_text(FOREIGN)
    finished = subprocess.run(
        [sys.executable, str(script), str(root), json.dumps(CALLS)],
        check=False,
        cwd=root,
        env={"PATH": "/usr/bin:/bin", "HF_HOME": str(root / "hf"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return root


def ours(root: Path, name: str, **settings: object) -> np.ndarray:
    """Return the images of `sample.py` from the run itself, in [0, 1]."""
    torch.set_num_threads(1)
    images = uvit_dia.load(root / "runs" / name).sample(4, seed=3, output_type="np", **settings)
    assert isinstance(images, np.ndarray)
    return images / 255


# ---------------------------------------------------------------- by diffusers


@pytest.mark.parametrize("name", RUNS)
def test_the_pipeline_gives_the_images_of_the_command(root: Path, name: str) -> None:
    call = dict(CALLS[name])
    settings = {"num_steps": call.pop("num_inference_steps", 4), **call}
    wanted = ours(root, name, **settings)
    found = np.load(root / f"{name}.npy")
    assert wanted.std() > 0.05
    assert np.abs(found - wanted).max() <= 0.5 / 255 + 1e-6  # ours are rounded to 256 levels


def test_schedulers_swap(root: Path) -> None:
    wanted = ours(root, "plain", sampler="ddim", num_steps=5)
    assert np.abs(np.load(root / "swapped.npy") - wanted).max() <= 0.5 / 255 + 1e-6


# ---------------------------------------------------------------- by us


@pytest.mark.parametrize("suffix", ["", "_again"])
def test_commands_and_python_read_the_folder(root: Path, tmp_path: Path, suffix: str) -> None:
    folder = root / f"conditional{suffix}"
    model = uvit_dia.load(folder)
    assert model.trained.step == 12 and model.trained.class_names == tuple("0123456789")
    wanted = ours(root, "conditional", class_labels="3", guidance_scale=2.0)
    output = tmp_path / "x.npz"
    flags = ["--num_images=4", "--seed=3", "--class_labels=3", "--guidance_scale=2"]
    sample.main(["sample.py", f"--checkpoint={folder}", f"--output={output}", *flags])
    assert np.array_equal(np.load(output)["arr_0"] / 255, wanted)


def test_an_evaluation_of_the_folder_is_that_of_the_run(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = []
    for place in ("plain", "runs/plain"):
        eval_fid.main(["eval_fid.py", f"--checkpoint={root / place}", "--allow_few_images"])
        records.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    for record in records:
        record.pop("seconds")
        record.pop("weights_sha256")  # another file with the same tensors
    assert records[0] == records[1]


def test_the_card_tells_what_was_measured(root: Path) -> None:
    card = ModelCard.load(root / "conditional" / "README.md")
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "diffusers")
    (result,) = card.data.eval_results
    record = json.loads((root / "runs" / "conditional" / "eval.jsonl").read_text())
    assert (result.metric_type, result.metric_value) == ("fd", record["value"])
    for told in (record["extractor_sha256"], "not FID", "samples.png", "guidance_scale=2.0"):
        assert str(told) in card.text
    assert (root / "conditional" / "samples.png").is_file()
    plain = (root / "plain" / "README.md").read_text()
    assert "Nothing was measured" in plain and "guidance" not in plain


def test_no_place_of_this_machine_is_exported(root: Path) -> None:
    for path in root.joinpath("plain").rglob("*"):
        if path.is_file():
            assert str(root).encode() not in path.read_bytes(), path


def copied(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root / "plain", tmp_path / "model"))


def test_altered_code_is_not_run(root: Path, tmp_path: Path) -> None:
    folder, marker = copied(root, tmp_path), tmp_path / "marker"
    for file in (folder / "pipeline_uvit.py", folder / "unet" / "uvit_modeling.py"):
        file.write_text(f"open({str(marker)!r}, 'w')\n" + file.read_text())
    uvit_dia.load(folder).sample(1)
    sample.main(
        ["sample.py", f"--checkpoint={folder}", "--num_images=1", f"--output={tmp_path / 'x.png'}"]
    )
    assert not marker.exists()


def cut(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def without_key(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    tensors.pop("pos_embed")
    save_file(tensors, folder / WEIGHTS)


def index_of_others(folder: Path) -> None:
    (folder / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')


def other_config(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["uvit_dia"]["config"]["model"]["depth"] = 3
    (folder / "model_index.json").write_text(json.dumps(index))


def huge_config(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["uvit_dia"]["config"]["model"]["embed_dim"] = 65536
    (folder / "model_index.json").write_text(json.dumps(index))


def no_json(folder: Path) -> None:
    (folder / "model_index.json").write_text("{" * 50_000)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (cut, "cannot read weights from"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"\x80\x02c"), "cannot read weights from"),
        (lambda folder: (folder / WEIGHTS).unlink(), "no weight file at"),
        (without_key, "it lacks pos_embed"),
        (index_of_others, "another kind of model: it has no 'uvit_dia'"),
        (other_config, "model.depth = 3 is odd"),
        (huge_config, "holds no weights of this network"),
        (no_json, "is not JSON"),
    ],
)
def test_damaged_folders_are_refused_in_one_line(
    root: Path, tmp_path: Path, spoil: object, said: str
) -> None:
    folder, output = copied(root, tmp_path), tmp_path / "x.png"
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(InputError) as refused:
        sample.main(["sample.py", f"--checkpoint={folder}", f"--output={output}"])
    assert said in str(refused.value) and "\n" not in str(refused.value)
    assert not output.exists()


def test_changed_weights_are_told(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    folder = copied(root, tmp_path)
    tensors = {name: 1.01 * each for name, each in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)
    assert uvit_dia.load(folder).trained.sha256 != uvit_dia.load(root / "plain").trained.sha256
    assert "its weights were changed since" in capsys.readouterr().err


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "export takes two words"),
        (["RUN"], "export takes two words"),
        (["nowhere", "x"], "export: no folder nowhere"),
        (["RUN", "FULL"], "is not empty; name a new folder"),
        (["RUN", "FULL", "--push=a/b"], "a new folder, or upload it as it is: hf upload a/b FULL"),
        (["RUN", "FILE"], "is a file; name a new folder"),
        (["RUN", "no/where/x"], "there is no folder"),
        (["RUN", "x", "--push=me"], "--push 'me': allowed is OWNER/NAME"),
        (["w.pth", "x"], "export: no file w.pth"),
        (["RUN", "x", "--config=digits_uvit_dia"], "--config goes with a file of weights"),
    ],
)
def test_wrong_words_are_refused_and_nothing_is_written(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FULL").mkdir()
    Path("FULL", "a").touch()
    Path("FILE").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as refused:
        export(["export", *(str(root / "runs" / "plain") if w == "RUN" else w for w in words)])
    assert said in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_export_that_fails_leaves_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("uvit_dia.export.run.write_card", fail)
    with pytest.raises(OSError, match="No space left"):
        export(["export", str(root / "runs" / "plain"), str(tmp_path / "x")])
    assert list(tmp_path.iterdir()) == []


def test_every_sampler_of_ddpm_has_a_scheduler_that_is_saved(root: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from uvit_dia.export.run import make_pipeline_scheduler

    config = uvit_dia.load(root / "runs" / "plain").config
    for name in SAMPLERS:
        settings = replace(config.sample, sampler=name, num_steps=10)
        scheduler = make_pipeline_scheduler(settings, config)
        scheduler.save_pretrained(tmp_path / name)
        again = type(scheduler).from_pretrained(tmp_path / name)
        for each in (scheduler, again):
            each.set_timesteps(10)
        assert torch.equal(scheduler.timesteps, again.timesteps), name
