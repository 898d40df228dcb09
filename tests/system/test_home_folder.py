"""`~` is the home folder in every path that a user gives, and never the name of a new folder."""

import os
import pwd
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import eval_fid
import sample
import train
from tests.runs.test_data_identity import EVALUATE, make_images, of
from tests.support.runs import CONFIG, ROOT, TINY, step_folder, train_arguments
from tests.support.sweeps import sweep, write_sweep
from tests.support.synthetic_sweeps import make_sweep
from uvit_dia.analysis.__main__ import main as analyse
from uvit_dia.report.__main__ import main as report
from uvit_dia.runs.trained_model import load_run
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import cache_folder, expand_home, user_path

pytestmark = [
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),  # of ml_collections
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a home folder; the working folder is another, empty one, and no `~` appears in it."""
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield tmp_path / "home"
    assert list(here.iterdir()) == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a tiny run on a folder of images; tests only read it."""
    folder = tmp_path_factory.mktemp("trained")
    images = make_images(folder / "images", *"abcdefgh")
    train.main(["train.py", *train_arguments(folder / "run", of(images))])
    return folder


@pytest.fixture
def run(trained: Path, home: Path) -> Path:
    """Return a run and its images in the home folder."""
    shutil.copytree(trained, home, dirs_exist_ok=True)
    return home / "run"


def test_what_a_tilde_stands_for(home: Path) -> None:
    user = pwd.getpwuid(os.getuid())
    assert user_path("~", "--x") == home
    assert user_path("~/a/~b", "--x") == home / "a" / "~b"
    assert user_path(f"~{user.pw_name}/a", "--x") == Path(user.pw_dir) / "a"
    for text in ("", "a", "a/~", "./~", "./~/b", "/~"):
        assert expand_home(text, "--x") == text


@pytest.mark.parametrize("text", ["~nobodyhere", "~nobodyhere/run", "~no such user/x"])
def test_a_home_of_nobody_is_refused(home: Path, text: str) -> None:
    name = text.partition("/")[0]
    with pytest.raises(InputError, match=f"--workdir: no home folder is known for {name} of"):
        user_path(text, "--workdir")


def test_where_no_home_is_known_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: object) -> None:
        raise KeyError("uid not found")

    for name in ("HOME", "UVIT_DIA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(InputError, match="--x: no home folder is known for ~"):
        user_path("~/a", "--x")
    with pytest.raises(InputError, match="no home folder is known"):
        cache_folder()


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"UVIT_DIA_CACHE": "~/cache"}, "cache"),
        ({"XDG_CACHE_HOME": "~/xdg"}, "xdg/uvit_dia"),
        ({}, ".cache/uvit_dia"),
    ],
)
def test_the_cache_lies_at_home(
    home: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], place: str
) -> None:
    for name in ("UVIT_DIA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == home / place


# ---------------------------------------------------------------- flags and keys


@pytest.mark.parametrize("words", [["--config=~/c.py"], ["--config", "~/c.py"]])
def test_train(home: Path, words: list[str]) -> None:
    make_images(home / "images", *"abcdefgh")
    shutil.copy(CONFIG, home / "c.py")
    changes = {**TINY, "train.num_steps": 2, "data.name": "folder", "data.path": "~/images"}
    overrides = [f"--config.{key}={value}" for key, value in changes.items()]
    train.main(["train.py", *words, *overrides, "--workdir=~/run"])
    assert step_folder(home / "run", 2).is_dir()
    assert '"path": "~/images"' in (home / "run" / "config.json").read_text()
    assert load_run(home / "run").config.data.path == str(home / "images")


def test_sample(run: Path, home: Path) -> None:
    flags = ["--checkpoint=~/run", "--num_images=2", "--num_steps=2"]
    sample.main(["sample.py", *flags, "--output=~/grid.png"])
    sample.main(["sample.py", *flags, "--output", "~/samples"])
    assert (home / "grid.png").is_file()
    assert (home / "samples" / "000001.png").is_file()


def test_eval_fid(run: Path, home: Path) -> None:
    (home / "images").rename(home / "moved")
    eval_fid.main(["eval_fid.py", "--checkpoint=~/run", *EVALUATE, "--data_path=~/moved"])
    assert (run / "eval.jsonl").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--extractor=pt2:~/nowhere.pt2"], "no file {home}/nowhere.pt2"),
        (
            ["--extractor=inception-v3-compat", "--weights=~/nowhere.pth"],
            "no Inception weights at {home}/nowhere.pth",
        ),
    ],
)
def test_extractors_of_eval_fid(run: Path, home: Path, flags: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        eval_fid.main(["eval_fid.py", "--checkpoint=~/run", *EVALUATE, *flags])
    assert message.format(home=home) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("eval.weights", "~/nowhere.pth", "no Inception weights at {home}/nowhere.pth"),
        ("eval.extractor", "pt2:~/nowhere.pt2", "no file {home}/nowhere.pt2"),
    ],
)
def test_keys_of_a_config(home: Path, key: str, value: str, message: str) -> None:
    changes: dict[str, object] = {"train.eval_every_steps": 12, key: value}
    if key == "eval.weights":
        changes["eval.extractor"] = "inception-v3-compat"
    with pytest.raises(InputError) as caught:
        train.main(["train.py", *train_arguments(home / "run", changes)])
    assert message.format(home=home) in str(caught.value)


def test_analysis(run: Path, home: Path) -> None:
    (home / "images").rename(home / "moved")
    flags = ["--checkpoint=~/run", "--num_images=4", "--data_path=~/moved"]
    analyse(["analysis", "gradients", *flags, "--compare=~/run", "--output=~/results"])
    assert (home / "results" / "gradients.json").is_file()


def test_sweep(home: Path) -> None:
    base = home / "base.py"
    shutil.copy(CONFIG, base)
    write_sweep(home, base="~/base.py").rename(home / "sweep.py")
    sweep(Path("~/sweep.py"), Path("~/sweep"), "--dry_run")
    assert not (home / "sweep").exists()


def test_report(home: Path) -> None:
    make_sweep(home / "sweep")
    report(["report", "~/sweep", "--output=~/report"])
    assert (home / "report" / "report.html").is_file()


COMMANDS: dict[str, Callable[[str], None]] = {
    "--config": lambda path: train.main(["train.py", f"--config={path}"]),
    "--workdir": lambda path: train.main(["train.py", f"--config={CONFIG}", "--workdir", path]),
    "--checkpoint": lambda path: sample.main(["sample.py", "--checkpoint", path]),
    "--output": lambda path: sample.main(
        ["sample.py", "--checkpoint", str(ROOT), "--output", path]
    ),
    "--extractor": lambda path: eval_fid.main(
        ["eval_fid.py", "--checkpoint", str(ROOT), f"--extractor=pt2:{path}"]
    ),
    "--weights": lambda path: eval_fid.main(
        ["eval_fid.py", "--checkpoint", str(ROOT), "--weights", path]
    ),
    "--compare": lambda path: analyse(
        ["analysis", "gradients", "--checkpoint", str(ROOT), "--compare", path]
    ),
    "DIR": lambda path: report(["report", path]),
    "base": lambda path: sweep(write_sweep(Path.home(), base=path), Path.home(), "--dry_run"),
    "data.path": lambda path: train.main(
        ["train.py", *train_arguments(Path.home() / "run", of(Path(path)))]
    ),
}


@pytest.mark.parametrize("origin", COMMANDS)
def test_each_names_itself_where_there_is_no_such_user(home: Path, origin: str) -> None:
    with pytest.raises(InputError) as caught:
        COMMANDS[origin]("~nobodyhere/x")
    message = str(caught.value)
    assert message.startswith(f"{origin}: no home folder is known for ~nobodyhere")
    assert len(message) < 180
