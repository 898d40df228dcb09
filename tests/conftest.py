"""What all tests share."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.figures import Figures, RecordFigure

# The tensors of tests are tiny: threads would wait for each other longer than they work.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--figures", metavar="FILE", help="print the figures of reliability, and write them as JSON"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Figures(config.getoption("--figures")), "figures")


@pytest.fixture
def record_figure(request: pytest.FixtureRequest) -> RecordFigure:
    """Return a function that records a figure, and fails the test where its limit does not hold."""
    figures: Figures = request.config.pluginmanager.get_plugin("figures")
    return figures.recorder(request.node)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what the package downloads or derives out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("UVIT_DIA_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def nothing_told_to_later_processes() -> Iterator[None]:
    """Forget the modules that a command of this test told its child processes to import."""
    yield
    os.environ.pop("UVIT_DIA_IMPORT", None)


@pytest.fixture(autouse=True)
def fresh_accelerator_state() -> Iterator[None]:
    """Let each test make an Accelerator of its own: their state is global to a process."""
    yield
    if "accelerate.state" in sys.modules:
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(True)
        GradientState._reset_state()


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """Return the folder `shared` beside the project: real images and an extractor for them."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("there is no folder shared beside the project")
    return folder


@pytest.fixture(scope="session")
def random_inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an Inception weight file of random weights."""
    from tests.support.inception import write_random_inception

    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    write_random_inception(path)
    return path


@pytest.fixture
def inception_weights(random_inception: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the same file, and let it pass for the real one."""
    from uvit_dia.evaluation import extractor_files
    from uvit_dia.system.files import sha256_file

    monkeypatch.setattr(extractor_files, "INCEPTION_SHA256", sha256_file(random_inception))
    return random_inception
