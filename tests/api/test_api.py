"""The package from Python: the same images, numbers and runs as the commands give."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import eval_fid
import sample
import train
import uvit_dia
from tests.support.runs import TINY, result, status, step_folder, tiny_config, train_arguments
from uvit_dia.config.any_config import read_any_config
from uvit_dia.runs.folder import RunFolder
from uvit_dia.system.errors import InputError
from uvit_dia.system.progress import in_notebook, progress_bar
from uvit_dia.system.signals import STOP_SIGNALS
from uvit_dia.training import trainer
from uvit_dia.training.log import TrainLog

CHANGES: dict[str, object] = {
    "optimizer.learning_rate": 0.05,  # so that a few steps part the weights from their average
    "sample.num_steps": 4,
    "sample.batch_size": 16,
    "eval.num_images": 64,
}
SETTINGS = [
    {"seed": 3},
    {"sampler": "ddpm", "num_steps": 5, "variance_type": "fixed_small"},
    {"sampler": "ddim", "num_steps": 4, "eta": 0.5, "batch_size": 3, "clip_sample": False},
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a tiny run by the command; tests only read it."""
    path = tmp_path_factory.mktemp("api") / "run"
    train.main(["train.py", *train_arguments(path, CHANGES)])
    return path


@pytest.fixture
def handlers() -> Iterator[None]:
    """Fail where a training leaves another handler of a stop signal behind than it found."""
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    yield
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


# ---------------------------------------------------------------- sampling


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_images_are_those_of_the_command(run: Path, tmp_path: Path, settings: dict) -> None:
    flags = [f"--{name}={value}" for name, value in settings.items()]
    path = tmp_path / "images.npz"
    sample.main(["sample.py", f"--checkpoint={run}", "--num_images=5", f"--output={path}", *flags])
    with np.load(path, allow_pickle=False) as archive:
        wanted = archive["arr_0"]
    model = uvit_dia.load(run)
    array = model.sample(5, output_type="np", **settings)
    assert isinstance(array, np.ndarray) and array.dtype == np.uint8
    assert np.array_equal(array, wanted)
    tensor = model.sample(5, output_type="pt", **settings)
    assert isinstance(tensor, torch.Tensor)
    assert np.array_equal(tensor.permute(0, 2, 3, 1).numpy(), wanted)
    pictures = model.sample(5, **settings)
    assert all(isinstance(each, Image.Image) and each.mode == "L" for each in pictures)
    assert np.array_equal(np.stack([np.asarray(each) for each in pictures])[..., None], wanted)


def test_a_step_folder_and_raw_weights_are_loaded_too(run: Path) -> None:
    newest = uvit_dia.load(run)
    folder = uvit_dia.load(str(step_folder(run, 12)))
    raw = uvit_dia.load(run, use_ema=False)
    assert "ema weights of step 12" in repr(newest)
    assert folder.trained.sha256 == newest.trained.sha256 != raw.trained.sha256
    assert not np.array_equal(newest.sample(2, output_type="np"), raw.sample(2, output_type="np"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_images": 0}, "--num_images 0: allowed is 1"),
        ({"num_images": 2.0}, "--num_images 2.0"),
        ({"num_steps": "20"}, "--num_steps 20"),
        ({"seed": True}, "--seed True"),
        ({"sampler": "dpm2m"}, "did you mean dpmpp_2m?"),
        ({"sampler": 3}, "--sampler '3': unknown"),
        ({"eta": 2}, "--eta 2"),
        ({"steps": 20}, "unknown setting 'steps'"),
        ({"output_type": "jpg"}, "output_type = 'jpg'; allowed is pil, np, pt"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(run: Path, arguments: dict, said: str) -> None:
    with pytest.raises(InputError, match=said.replace("?", r"\?")):
        uvit_dia.load(run).sample(**arguments)


def test_wrong_sources_are_refused(run: Path, tmp_path: Path) -> None:
    for source in (tmp_path / "nothing", tmp_path):
        with pytest.raises(InputError) as caught:
            uvit_dia.load(source)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"has its own"):
        uvit_dia.load(run, config="digits_uvit_dia")


def test_names_at_the_top_are_found_late() -> None:
    assert {"load", "train", "share_attention"} <= set(dir(uvit_dia))
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        uvit_dia.lod  # noqa: B018


# ---------------------------------------------------------------- measuring


def test_numbers_are_those_of_the_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    eval_fid.main(["eval_fid.py", f"--checkpoint={run}", "--num_images=64", "--seed=2"])
    wanted = json.loads(capsys.readouterr().out)
    log = (run / "eval.jsonl").read_text()
    found = uvit_dia.load(run).evaluate(64, seed=2)
    assert {**found, "seconds": 0} == {**wanted, "seconds": 0}
    assert (run / "eval.jsonl").read_text() == log  # a look from Python is no entry of the run's
    assert capsys.readouterr().out == ""
    with pytest.raises(InputError, match="pt2:PATH"):
        uvit_dia.load(run).evaluate(64, extractor="nope")


# ---------------------------------------------------------------- training


def test_trainings_of_one_process_leave_nothing_behind(
    run: Path, tmp_path: Path, handlers: None
) -> None:
    """One in other precision and with another seed between two that must equal the command's."""
    environment = dict(os.environ)
    generator = torch.get_rng_state()
    values = tiny_config(CHANGES).to_dict()
    first = uvit_dia.train(values, tmp_path / "first")
    uvit_dia.train(
        "digits_uvit_dia",
        tmp_path / "other",
        changes={**TINY, "seed": 5, "train.mixed_precision": "bf16", "train.num_steps": 3},
    )
    again = uvit_dia.train(tiny_config(CHANGES), str(tmp_path / "again"))
    assert result(tmp_path / "first") == result(tmp_path / "again") == result(run)
    assert first.trained.sha256 == again.trained.sha256
    assert not first.trained.model.training
    assert torch.equal(torch.get_rng_state(), generator)
    assert dict(os.environ) == environment
    assert not torch.is_autocast_enabled("cpu")
    RunFolder(tmp_path / "first").lock()  # nobody holds it


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_leaves_a_run_that_goes_on(
    run: Path, tmp_path: Path, handlers: None, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Once: the state of the step is saved. Twice: the call ends at once, and the process lives."""
    draw = trainer.draw_batch

    def interrupted(*arguments: object, step: int, **named: object) -> object:
        if step == 5:
            signal.raise_signal(signal.SIGINT)
            if times == 2:
                time.sleep(1.1)
                signal.raise_signal(signal.SIGINT)
        return draw(*arguments, step=step, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "draw_batch", interrupted)
        with pytest.raises(KeyboardInterrupt) as caught:
            uvit_dia.train(tiny_config(CHANGES), tmp_path / "run")
    if times == 1:
        assert "stopped by SIGINT at step 7, state saved" in str(caught.value)
        assert status(tmp_path / "run")["state"] == "preempted"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    uvit_dia.train(tiny_config(CHANGES), tmp_path / "run")
    assert result(tmp_path / "run") == result(run)


def test_a_config_is_taken_in_any_form() -> None:
    by_name = read_any_config("digits_uvit_dia")
    from configs.digits_uvit_dia import get_config

    forms = [get_config(), get_config().to_dict(), by_name, Path("configs/digits_uvit_dia.py")]
    assert all(read_any_config(form) == by_name for form in forms[:3])
    assert read_any_config(by_name, {"train.num_steps": 7}).train.num_steps == 7
    values = get_config().to_dict()
    read_any_config(values, {"train.num_steps": 7})
    assert values == get_config().to_dict()


@pytest.mark.parametrize(
    ("config", "changes", "said"),
    [
        ("digit_uvit_dia", {}, "did you mean digits_uvit_dia"),
        ("nowhere.py", {}, "cannot use nowhere.py"),
        ({"model": {}}, {}, "config"),
        (3, {}, "config: a int"),
        ("digits_uvit_dia", {"train.num_step": 3}, "train.num_step"),
        ("digits_uvit_dia", {"trian.num_steps": 3}, "trian.num_steps"),
        ("digits_uvit_dia", {"train.num_steps": 0}, "train.num_steps = 0"),
    ],
)
def test_a_wrong_config_is_refused(
    config: object, changes: dict, said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        uvit_dia.train(config, tmp_path / "run", changes=changes)  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- notebooks


def test_bars_are_those_of_a_notebook_in_a_notebook_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def log() -> TrainLog:
        accelerator = SimpleNamespace(is_main_process=True)
        folder = SimpleNamespace(path=tmp_path)
        return TrainLog(accelerator, folder, batch_size=1, num_steps=1, show_progress=True)  # type: ignore[arg-type]

    assert not in_notebook()
    assert type(progress_bar(disable=True)).__module__ == "tqdm.std"
    assert log()._prints_lines
    shells = [SimpleNamespace(), SimpleNamespace(kernel=object())]
    for shell, is_notebook in zip(shells, [False, True], strict=True):
        fake = SimpleNamespace(get_ipython=lambda shell=shell: shell)
        monkeypatch.setitem(sys.modules, "IPython", fake)
        assert in_notebook() == is_notebook == log()._has_bar
    import tqdm.auto

    assert type(progress_bar(disable=True)) is tqdm.auto.tqdm
