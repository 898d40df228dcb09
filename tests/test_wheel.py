"""The wheel, in an empty folder: train, sample, evaluate, export, sweep, report."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("uvit_dia", "configs", "pyproject.toml", "README.md", "LICENSE")
TINY = {"model.embed_dim": 16, "model.depth": 2, "model.num_heads": 2, "optimizer.warmup_steps": 3}
SWEEP = '''"""Two cells of 20 steps."""

from configs.sweeps.digits_batch_size import get_config as ours


def get_config():
    config = ours()
    for name in [n for n in config.variants if n not in ("uvit", "dia_lstm")]:
        del config.variants[name]
    config.batch_sizes, config.seeds, config.budget_amount = (8,), (0,), 20
    config.overrides.update({"model": {"embed_dim": 16, "depth": 2, "num_heads": 2}})
    config.eval.update(num_images=100, num_steps=4, num_repeats=1)
    return config
'''


class Installed:
    """The package as it is installed from its wheel, and an empty folder to work in."""

    def __init__(self, place: Path, folder: Path) -> None:
        self.folder = folder
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(place),
            "UVIT_DIA_CACHE": str(folder.parent / "cache"),
            "OMP_NUM_THREADS": "1",
        }

    def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the console command; a run in a clone would find other files than the wheel's."""
        done = subprocess.run(
            [sys.executable, "-m", "uvit_dia", *words],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Build the wheel from a copy of the sources, and install it into a folder of its own."""
    pytest.importorskip("setuptools", minversion="77.0.3")
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    sources.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, sources / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    wheel = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(sources)]
    subprocess.run([*pip, *wheel], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    install = ["install", "--no-deps", "--no-index", "--target", str(folder / "place"), str(built)]
    subprocess.run([*pip, *install], check=True, capture_output=True)
    shutil.rmtree(sources)
    empty = folder / "empty"
    empty.mkdir()
    return Installed(folder / "place", empty)


def test_a_run_from_the_wheel(installed: Installed) -> None:
    changes = [f"--config.{key}={value}" for key, value in TINY.items()]
    few = ["--config.train.num_steps=20", "--config.train.tracker=none"]
    trained = installed.run("train", "--config", "digits_uvit_dia", *changes, *few)
    assert "uvit-dia sample --checkpoint runs/digits_uvit_dia" in trained.stdout
    run = "runs/digits_uvit_dia"
    steps = ["--checkpoint", run, "--num_steps", "4"]
    installed.run("sample", *steps, "--num_images", "4", "--output", "grid.png")
    assert (installed.folder / "grid.png").read_bytes().startswith(b"\x89PNG")
    measured = installed.run("eval", *steps, "--num_images", "100")
    record = json.loads(measured.stdout)
    assert record["metric"] == "fd" and record["value"] > 0
    assert record["versions"]["uvit-dia"] == "0.2.0"
    installed.run("export", run, "exported")
    installed.run(
        "sample", "--checkpoint", "exported", "--num_images", "4", "--output", "again.png"
    )
    shown = installed.run("data", "--config", "digits_uvit_dia")
    assert "1797 images" in shown.stdout


def test_a_sweep_and_its_report_from_the_wheel(installed: Installed) -> None:
    (installed.folder / "mine.py").write_text(SWEEP)
    sweep = ["sweep", "--config", "mine.py", "--workdir", "swept"]
    shown = installed.run(*sweep, "--dry_run", "--commands").stdout
    assert "-m uvit_dia train --workdir swept/cells/uvit-b0008-s0" in shown
    installed.run(*sweep)
    cells = [
        json.loads(path.read_text()) for path in installed.folder.glob("swept/cells/*/cell.json")
    ]
    assert [cell["state"] for cell in cells] == ["done", "done"]
    installed.run("report", "swept")
    assert (installed.folder / "swept" / "report" / "report.html").is_file()


def test_configs_of_sweeps_are_named_too(installed: Installed) -> None:
    shown = installed.run("sweep", "--config=digits_batch_size", "--workdir=none", "--dry_run")
    assert "dia_lstm_identity-b0064-s2" in shown.stdout
    refused = installed.run("sweep", "--config=digits_batch", "--workdir=none", code=2)
    assert refused.stderr.endswith("did you mean digits_batch_size?\n")
