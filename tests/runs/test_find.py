"""Data, runs and step folders that moved, and paths that are not what a flag takes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import eval_fid
import sample
from tests.runs.test_data_identity import EVALUATE, make_images, of
from tests.support.forked import Child, Finished
from tests.support.runs import ROOT, command, result, step_folder, train, train_arguments
from uvit_dia.analysis.__main__ import main as analyse
from uvit_dia.config.files import read_config_json
from uvit_dia.runs.find import check_checkpoint, check_output
from uvit_dia.runs.trained_model import load_run
from uvit_dia.system import notices
from uvit_dia.system.errors import EXIT_BAD_INPUT, InputError

pytestmark = pytest.mark.faults

NAMES = "abcdefgh"
GOES_ON = {"optimizer.lr_schedule": "constant"}
HEAVY = ("torch", "numpy", "diffusers", "accelerate", "PIL", "sklearn")


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_told", set())


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """Return two working folders; images lie in the first one."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    make_images(tmp_path / "here" / "images", *NAMES)
    return tmp_path / "here", tmp_path / "there"


def _train_in(folder: Path, arguments: list[str]) -> None:
    os.chdir(folder)
    command("train", arguments)


def train_in(folder: Path, run: Path, **changes: object) -> Finished:
    arguments = train_arguments(run, of(Path("images"), **{**GOES_ON, **changes}))
    return Child(_train_in, folder, arguments).wait()


@pytest.fixture
def run(tmp_path: Path, places: tuple[Path, Path]) -> Path:
    """Return a run of 4 steps that was started in the first folder with a relative path."""
    finished = train_in(places[0], tmp_path / "run", **{"train.num_steps": 4})
    assert finished.exit_code == 0, finished.stderr
    return tmp_path / "run"


def evaluate(*flags: str) -> None:
    eval_fid.main(["eval_fid.py", *EVALUATE, *flags])


# ---------------------------------------------------------------- a relative path, another folder


def test_a_relative_path_stays_as_it_was_written(run: Path, places: tuple[Path, Path]) -> None:
    for path in (run / "config.json", step_folder(run, 4) / "config.json"):
        assert json.loads(path.read_text())["data"]["path"] == "images"
    env = json.loads((run / "env.json").read_text())
    assert env["paths"] == {"data.path": str(places[0] / "images")}


def test_a_run_resumes_from_another_folder(
    run: Path, places: tuple[Path, Path], tmp_path: Path
) -> None:
    here, there = places
    for _ in range(2):  # and is found a second time
        finished = train_in(there, run)
        assert finished.exit_code == 0, finished.stderr
        assert f"data.path = 'images' is not in {there}; using {here / 'images'}" in finished.stderr
        assert finished.stderr.count("warning: ") == 1
    assert json.loads((run / "config.json").read_text())["data"]["path"] == "images"
    assert train_in(here, tmp_path / "whole").exit_code == 0
    assert result(run) == result(tmp_path / "whole")


def test_a_path_that_is_there_goes_before_the_one_that_was(
    run: Path, places: tuple[Path, Path]
) -> None:
    here, there = places
    shutil.copytree(here / "images", there / "images")
    finished = train_in(there, run)
    assert finished.exit_code == 0, finished.stderr
    assert "warning" not in finished.stderr
    env = json.loads((run / "env.json").read_text())
    assert env["paths"] == {"data.path": str(there / "images")}


def test_other_images_under_the_same_relative_path_are_refused(
    run: Path, places: tuple[Path, Path]
) -> None:
    make_images(places[1] / "images", *"stuvwxyz")
    finished = train_in(places[1], run)
    assert finished.exit_code == EXIT_BAD_INPUT
    assert "was trained on 8 images" in finished.last_line


def test_images_that_are_nowhere_are_refused(run: Path, places: tuple[Path, Path]) -> None:
    shutil.rmtree(places[0] / "images")
    finished = train_in(places[1], run)
    assert finished.exit_code == EXIT_BAD_INPUT
    assert "data.path" in finished.last_line and "images" in finished.last_line


@pytest.mark.parametrize("where", ["run", "step folder"])
def test_a_run_is_measured_from_another_folder(
    run: Path,
    places: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    where: str,
) -> None:
    monkeypatch.chdir(places[1])
    evaluate("--checkpoint", str(run if where == "run" else step_folder(run, 4)))
    assert f"using {places[0] / 'images'}, where the run found it" in capsys.readouterr().err
    analyse(["analysis", "gates", "--checkpoint", str(run), "--num_images", "4"])
    assert (run / "analysis" / "gates.json").is_file()


def test_an_extractor_is_found_from_another_folder(
    run: Path, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = places
    program = "pt2:features.pt2"
    changes: dict[str, object] = {"eval.extractor": program, "eval.weights": "weights.pth"}
    (here / "features.pt2").write_bytes(b"")
    (here / "weights.pth").write_bytes(b"")
    assert train_in(here, run, **changes, **{"train.num_steps": 4}).exit_code == 0
    monkeypatch.chdir(there)
    config = load_run(run).config
    assert config.eval.extractor == f"pt2:{here / 'features.pt2'}"
    assert config.eval.weights == str(here / "weights.pth")
    monkeypatch.chdir(here)
    assert load_run(run).config.eval.extractor == program


@pytest.mark.parametrize(
    "env",
    ["", "null", "[]", "{}", '{"paths": 1}', '{"paths": {"data.path": 1}}', "[" * 100_000],
    ids=lambda text: text[:30],
)
def test_a_damaged_env_remembers_nothing(
    run: Path, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, env: str
) -> None:
    monkeypatch.chdir(places[1])
    (run / "env.json").write_text(env)
    assert load_run(run).config.data.path == "images"


# ---------------------------------------------------------------- data that lie elsewhere now


def test_the_config_of_the_run_goes_before_that_of_the_step(
    run: Path, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (places[0] / "images").rename(places[1] / "moved")
    changes = of(places[1] / "moved", **GOES_ON, **{"train.num_steps": 4, "sample.num_steps": 7})
    assert train(run, changes).exit_code == 0  # which has no step left to do
    monkeypatch.chdir(run.parent)
    for checkpoint in (run, step_folder(run, 4)):
        config = load_run(checkpoint).config
        assert config.data.path == str(places[1] / "moved")
        assert config.sample.num_steps == 7
        evaluate("--checkpoint", str(checkpoint))


def test_a_config_of_another_run_changes_nothing(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "config.json"
    config = json.loads(path.read_text())
    config["data"]["path"] = "elsewhere"
    config["seed"] = 7
    path.write_text(json.dumps(config))
    loaded = load_run(run).config
    assert (loaded.seed, Path(loaded.data.path).name) == (0, "images")
    path.write_text("{")
    assert load_run(run).config == loaded
    told = capsys.readouterr().err
    assert "config.json is of another run" in told
    assert "is not JSON" in told


def test_a_flag_says_where_the_images_lie(
    run: Path, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (places[0] / "images").rename(places[1] / "moved")
    monkeypatch.chdir(places[1])
    with pytest.raises(InputError, match=r"data\.path"):
        evaluate("--checkpoint", str(run))
    evaluate("--checkpoint", str(run), "--data_path", "moved")
    shutil.copytree(step_folder(run, 4), places[1] / "best")  # a step folder without its run
    evaluate("--checkpoint", "best", "--data_path", "moved")
    analysis = ["analysis", "gradients", "--checkpoint", str(run), "--data_path", "moved"]
    analyse([*analysis, "--num_images", "4", "--compare", str(run)])
    assert (run / "analysis" / "gradients.json").is_file()
    assert read_config_json(run / "config.json").data.path == "images"  # nothing was changed


def test_a_flag_without_effect_is_refused(tmp_path: Path) -> None:
    assert train(tmp_path / "digits").exit_code == 0
    with pytest.raises(InputError, match=r"--data_path: .*'digits' reads no files"):
        evaluate("--checkpoint", str(tmp_path / "digits"), "--data_path", "images")


def test_a_run_that_moved_is_the_same_run(
    run: Path, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run.rename(places[1] / "moved run")
    monkeypatch.chdir(places[1])
    evaluate("--checkpoint", "moved run")
    finished = train_in(places[0], places[1] / "moved run")
    assert finished.exit_code == 0, finished.stderr
    assert "going on at step 4" in finished.stdout


# ---------------------------------------------------------------- what a path is


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "--checkpoint: no folder nowhere"),
        ("file.txt", "--checkpoint: file.txt is a file; it takes a run's folder or a step folder"),
        ("file.txt/run", "--checkpoint: no folder file.txt/run"),
        ("x" * 5000, "--checkpoint: no folder xxx"),
        ("nul\0byte", "--checkpoint: no folder nul"),
        ("empty", "--checkpoint: empty is neither a run nor a step folder"),
        ("fresh", "--checkpoint: the run fresh has no checkpoint yet"),
        ("fresh/checkpoints", "is neither a run nor a step folder; its run is fresh"),
        (".", "is neither a run nor a step folder; did you mean fresh?"),
        ("sweep", "but a sweep; its runs are cells/uvit-b0032-s0 and so on"),
    ],
)
def test_a_wrong_checkpoint_is_named_for_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file.txt").write_text("mine")
    for folder in ("empty", "fresh/checkpoints", "sweep/cells/uvit-b0032-s0"):
        Path(folder).mkdir(parents=True)
    Path("fresh/config.json").write_text("{}")
    Path("sweep/sweep.json").write_text("{}")
    with pytest.raises(InputError) as caught:
        check_checkpoint(Path(path))
    assert message in str(caught.value)
    with pytest.raises(InputError, match="--compare: "):
        check_checkpoint(Path(path), "--compare")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere/grid.png", "must be a file in a folder that is there"),
        ("folder.png", "must be a file in a folder that is there"),
        ("file.txt/grid.png", "must be a file in a folder that is there"),
        ("file.txt/samples", "cannot make the folder file.txt/samples: file.txt is no folder"),
        ("file.txt", "cannot make the folder file.txt: file.txt is no folder"),
        ("link/samples", "cannot make the folder"),
    ],
)
def test_a_wrong_output_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file.txt").write_text("mine")
    Path("folder.png").mkdir()
    Path("link").symlink_to("nowhere")
    with pytest.raises(InputError) as caught:
        check_output(Path(path), (".png", ".npz"))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "path", ["grid.png", "here/grid.npz", "samples", "here/more/samples", "here"]
)
def test_a_right_output_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    check_output(Path(path), (".png", ".npz"))
    check_output(tmp_path / path, (".png", ".npz"))
    assert [each.name for each in tmp_path.iterdir()] == ["here"]  # nothing is made


def test_a_folder_that_may_not_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    for name in ("grid.png", "samples"):
        with pytest.raises(InputError, match=f"--output {tmp_path / name}: cannot write to"):
            check_output(tmp_path / name, (".png", ".npz"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sample", "--checkpoint=nowhere"], "no folder nowhere"),
        (["sample", "--checkpoint=run", "--output=nowhere/x.png"], "must be a file in a folder"),
        (["sample", "--checkpoint=run", "--output=file/x"], "cannot make the folder"),
        (["eval_fid", "--checkpoint=nowhere"], "no folder nowhere"),
        (["uvit_dia.analysis", "gates", "--checkpoint=nowhere"], "no folder nowhere"),
        (
            ["uvit_dia.analysis", "gradients", "--checkpoint=run", "--compare=file"],
            "--compare: file is a file",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_path_is_told_before_torch_is_imported(
    tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "run" / "checkpoints" / "step_00000004").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "file").write_text("mine")
    module, *flags = words
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['x.py', *{flags!r}]\n"
        f"try:\n    runpy.run_module({module!r}, run_name='__main__')\n"
        f"finally:\n    print(*sorted(set(sys.modules) & set({HEAVY!r})))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == EXIT_BAD_INPUT, done.stderr
    assert message in done.stderr
    assert done.stdout.strip() == ""


def test_sampling_needs_no_images(
    run: Path, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(places[0] / "images")
    monkeypatch.chdir(places[1])
    sample.main(["sample.py", "--checkpoint", str(run), "--num_images", "1", "--num_steps", "2"])
    assert Path("grid.png").is_file()
