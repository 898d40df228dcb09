"""Push to the Hub, and load by id, against a stand-in of its HTTP API on the loopback."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import train
import uvit_dia
from tests.support.hub import Hub, serving
from tests.support.runs import train_arguments
from uvit_dia.runs.sources import find_source
from uvit_dia.system.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hub") / "run"
    train.main(["train.py", *train_arguments(path, {"sample.num_steps": 4})])
    return path


def command(hub_url: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command with the Hub at another place, which is read when its library is imported."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": hub_url,
        "HF_HOME": str(folder / "hf"),
        "HF_TOKEN": "hf_test",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "UVIT_DIA_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *words],
        check=False,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_pushed_and_pulled_it_is_the_same_model(run: Path, tmp_path: Path) -> None:
    with serving() as hub:
        pushed = command(
            hub.url,
            tmp_path,
            *("-m", "uvit_dia.export", str(run), "out", "--push=someone/a-model", "--private"),
        )
        assert pushed.returncode == 0, pushed.stderr
        assert f"{hub.url}/someone/a-model" in pushed.stdout
        assert hub.private["someone/a-model"]
        uploaded = hub.repositories["someone/a-model"]
        here = {
            path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
            for path in (tmp_path / "out").rglob("*")
            if path.is_file()
        }
        assert {path: uploaded[path] for path in here} == here
        sampled = command(
            hub.url,
            tmp_path,
            *("-m", "uvit_dia", "sample", "--checkpoint=someone/a-model", "--num_images=3"),
            "--output=x.npz",
        )
        assert sampled.returncode == 0, sampled.stderr
        fetched = {path for _, path in hub.fetched}
        assert fetched and not any(path.endswith(".py") for path in fetched)
    wanted = uvit_dia.load(run).sample(3, output_type="np")
    assert np.array_equal(np.load(tmp_path / "x.npz")["arr_0"], wanted)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("-m", "uvit_dia", "sample", "--checkpoint=someone/nothing"),
            "no folder someone/nothing, and the Hugging Face Hub gives no such model",
        ),
        (("-m", "uvit_dia", "sample", "--checkpoint=someone/other"), "is no model of uvit_dia"),
    ],
)
def test_what_the_hub_has_not_is_one_line(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    with serving() as hub:
        hub.repositories["someone/other"] = {"config.json": b"{}"}
        finished = command(hub.url, tmp_path, *words)
    assert finished.returncode == 2
    assert said in finished.stderr.splitlines()[-1], finished.stderr
    assert "Traceback" not in finished.stderr and not (tmp_path / "grid.png").exists()


def test_without_a_network_it_is_one_line(run: Path, tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9"  # the port of discard, where nothing listens
    loaded = command(nobody, tmp_path, "-m", "uvit_dia", "sample", "--checkpoint=someone/a-model")
    pushed = command(
        nobody, tmp_path, "-m", "uvit_dia.export", str(run), "out", "--push=someone/a-model"
    )
    for finished in (loaded, pushed):
        assert finished.returncode == 2, finished.stderr
        assert "Traceback" not in finished.stderr
    assert "the Hub did not take it" in pushed.stderr.splitlines()[-1]
    assert (tmp_path / "out" / "model_index.json").is_file()  # the folder is whole


def test_a_path_that_was_to_lie_here_is_never_looked_for_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(name: str, flag: str) -> Path:
        raise AssertionError(name)

    monkeypatch.setattr("uvit_dia.runs.sources._fetch", fetch)
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    for text in ("runs/quickstrat", "quickstart", "a/b/c", "/nowhere/run", "../some/run"):
        with pytest.raises(InputError, match="no folder"):
            find_source(Path(text), has_config=False)
    with pytest.raises(AssertionError, match="someone/a-model"):
        find_source(Path("someone/a-model"), has_config=False)


def test_a_stand_in_forgets() -> None:
    with serving() as first, serving() as second:
        first.repositories["a/b"] = {"x": b"1"}
        assert isinstance(second, Hub) and second.repositories == {}
