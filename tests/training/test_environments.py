"""Machines that lack something: a training does without it, or says in one line what is missing."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.forked import Child, Finished, free_port, start_ranks
from tests.support.runs import (
    ROOT,
    Changes,
    command,
    log_lines,
    status,
    train_arguments,
    tree,
)
from uvit_dia.system.errors import EXIT_BAD_INPUT, EXIT_IO_ERROR, EXIT_OK

pytestmark = pytest.mark.faults

SHORT: dict[str, object] = {"train.num_steps": 2, "train.checkpoint_every_steps": 2}


def train_in(environment: dict[str, str], path: Path, changes: Changes, *flags: str) -> Finished:
    arguments = [*train_arguments(path, changes), *flags]
    return Child(command, "train", arguments, environment=environment).wait()


def only_line(finished: Finished, exit_code: int = EXIT_BAD_INPUT) -> str:
    """Return the one line in which a command ended."""
    assert finished.exit_code == exit_code, finished.stderr
    (line,) = finished.stderr.splitlines()
    return line


# ---------------------------------------------------------------- compiler


@pytest.mark.parametrize(
    "environment", [{"CXX": ""}, {"CXX": "/nowhere/g++"}, {"PATH": "/nowhere"}]
)
def test_without_a_compiler_nothing_is_begun(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
) -> None:
    empty = str(tmp_path_factory.mktemp("images"))  # whose reading is refused later
    changes = {**SHORT, "train.compile": True, "data.name": "folder", "data.path": empty}
    line = only_line(train_in(environment, tmp_path / "run", changes))
    assert (
        "train.compile = True: there is no C++ compiler here" in line
    )  # before data is looked for
    assert "--config.train.compile=False" in line
    assert tree(tmp_path) == {}


def _train_with_compiler(arguments: list[str], error: Exception) -> None:
    """Train as where a compiler is there but fails."""
    from uvit_dia.training.trainer import Trainer

    def fail(self: object, batch: object) -> None:
        raise error

    Trainer._backward = fail  # type: ignore[method-assign,assignment]
    command("train", arguments)


class CppCompileError(RuntimeError):
    """Stands for torch's, which is told by its name."""


def test_a_compiler_that_fails_is_told_in_one_line(tmp_path: Path) -> None:
    error = CppCompileError(
        "C++ compile error\n\nCommand:\ng++ x.cpp\n\nOutput:\n" + "x.cpp: error\n" * 99
    )
    arguments = train_arguments(tmp_path, {**SHORT, "train.compile": True})
    ended = Child(_train_with_compiler, arguments, error).wait()
    line = only_line(ended)
    assert "train.compile = True: the compiler failed (C++ compile error)" in line
    assert "compiling the network" in ended.stdout
    assert status(tmp_path)["state"] == "failed"


# ---------------------------------------------------------------- packages and folders


def _train_with_tensorboard(arguments: list[str], kind: type[Exception], folder: str) -> None:
    """Train as where the package is there but does not work."""
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        del sys.modules[name]
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        del sys.modules[name]
    package = Path(folder) / "tensorboard"
    package.mkdir()
    (package / "__init__.py").write_text(f"raise {kind.__name__}('Descriptors cannot be made')\n")
    sys.path.insert(0, folder)
    command("train", arguments)


@pytest.mark.parametrize("kind", [ImportError, TypeError])
def test_a_training_does_without_tensorboard(tmp_path: Path, kind: type[Exception]) -> None:
    arguments = train_arguments(tmp_path / "run", {**SHORT, "train.tracker": "tensorboard"})
    ended = Child(_train_with_tensorboard, arguments, kind, str(tmp_path)).wait()
    assert only_line(ended, EXIT_OK) == (
        f"warning: train.tracker = tensorboard does not work here ({kind.__name__}: Descriptors "
        "cannot be made); metrics.jsonl has the log"
    )
    assert [line["step"] for line in log_lines(tmp_path / "run")] == [2]


def run_script(script: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_names_that_are_no_utf8_are_trained_under(tmp_path: Path) -> None:
    """In the C locale Python hands them on as they are; TensorBoard cannot write to such a path."""
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import train
from uvit_dia.system.commands import run_command
sys.argv[0] = "train.py"
run_command(train.main)
"""
    run = tmp_path / "übung-猫"
    arguments = train_arguments(run, {**SHORT, "train.tracker": "tensorboard"})
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run_script(script, *arguments, **locale)
    assert done.returncode == EXIT_OK, done.stderr
    assert "train.tracker = tensorboard does not work here (UnicodeEncodeError" in done.stderr
    assert "\\udcc3\\udcbcbung" in done.stdout
    assert status(run)["state"] == "done"


def test_a_folder_that_was_deleted_is_named(tmp_path: Path) -> None:
    script = """
import os, sys
from uvit_dia.system.commands import run_command
os.chdir(sys.argv[1])
os.rmdir(sys.argv[1])
sys.argv[0] = "train.py"
run_command(lambda argv: None)
"""
    (tmp_path / "gone").mkdir()
    ended = run_script(script, str(tmp_path / "gone"))
    assert ended.returncode == EXIT_BAD_INPUT
    assert ended.stderr == "train.py: the current folder was deleted; change to another one\n"


def test_without_temporary_files_that_is_said() -> None:
    script = """
import sys, tempfile
from uvit_dia.system.commands import run_command
tempfile._candidate_tempdir_list = lambda: ["/proc/nowhere"]
sys.argv[0] = "train.py"
run_command(lambda argv: tempfile.gettempdir())
"""
    ended = run_script(script)
    assert ended.returncode == EXIT_BAD_INPUT
    assert "TMPDIR" in ended.stderr and ended.stderr.count("\n") == 1


# ---------------------------------------------------------------- processes that do not meet

QUICK = "--process_timeout_minutes=0.05"


def alone_of_two(path: Path, **changes: str | None) -> Finished:
    """Start the first of two processes; the second one never comes."""
    environment: dict[str, str | None] = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        **changes,
    }
    told = {name: value for name, value in environment.items() if value is not None}
    return train_in(told, path, SHORT, QUICK)


@pytest.fixture
def port_in_use() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_a_port_in_use_is_named(tmp_path: Path, port_in_use: int) -> None:
    line = only_line(alone_of_two(tmp_path / "run", MASTER_PORT=str(port_in_use)))
    assert f"MASTER_PORT = {port_in_use} is in use on this machine" in line


def test_a_process_that_never_comes_is_told(tmp_path: Path) -> None:
    line = only_line(alone_of_two(tmp_path / "run"), EXIT_IO_ERROR)
    assert "the processes of the launch did not all meet at 127.0.0.1:" in line
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"MASTER_ADDR": None}, "MASTER_ADDR is missing"),
        ({"RANK": "2"}, "RANK = 2"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT = 'http'"),
    ],
)
def test_a_launch_that_cannot_work_is_refused(
    tmp_path: Path, changes: dict[str, str | None], words: str
) -> None:
    assert words in only_line(alone_of_two(tmp_path / "run", **changes))


@pytest.mark.parametrize(
    ("environment", "exit_code"),
    [
        ({"ACCELERATE_USE_CPU": "perhaps"}, EXIT_BAD_INPUT),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, EXIT_BAD_INPUT),
    ],
)
def test_other_launches_that_fail_are_one_line(
    tmp_path: Path, environment: dict[str, str], exit_code: int
) -> None:
    changes: dict[str, str | None] = {"RANK": "1", "LOCAL_RANK": "0", **environment}
    only_line(alone_of_two(tmp_path / "run", **changes), exit_code)


@pytest.mark.parametrize("address", ["no-such-machine.invalid", "127.0.0.1"])
def test_a_first_process_that_cannot_be_reached_is_one_line(tmp_path: Path, address: str) -> None:
    environment = {"RANK": "1", "MASTER_ADDR": address}
    line = only_line(alone_of_two(tmp_path / "run", **environment), EXIT_IO_ERROR)
    assert f"the processes of the launch did not all meet at {address}:" in line


# ---------------------------------------------------------------- one process alone is refused


def _train_on_machines(folder: str, changes: dict[int, dict[str, object]]) -> None:
    """Train as on machines that see other files and may be told another config."""
    rank = int(os.environ["RANK"])
    os.environ["LOCAL_RANK"] = "0"
    os.chdir(Path(folder) / f"machine{rank}")
    given = {**SHORT, **changes.get(rank, {})}
    command(
        "train", [*train_arguments(Path(folder) / "run", given), "--process_timeout_minutes=0.2"]
    )


def on_machines(folder: Path, changes: dict[int, dict[str, object]]) -> list[Finished]:
    for rank in range(2):
        (folder / f"machine{rank}").mkdir(exist_ok=True)
    return [child.wait() for child in start_ranks(2, _train_on_machines, str(folder), changes)]


def write_images(folder: Path) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for number in range(8):
        Image.new("L", (8, 8), 30 * number).save(folder / f"{number}.png")


@pytest.mark.multiprocess
@pytest.mark.parametrize("missing", [0, 1])
def test_data_on_one_machine_only(tmp_path: Path, missing: int) -> None:
    images: dict[str, object] = {"data.name": "folder", "data.path": "images"}
    for rank in range(2):
        (tmp_path / f"machine{rank}").mkdir()
    write_images(tmp_path / f"machine{1 - missing}" / "images")
    changes = dict.fromkeys(range(2), images)
    ended = [child.wait() for child in start_ranks(2, _train_on_machines, str(tmp_path), changes)]
    for rank, end in enumerate(ended):  # once a machine
        line = only_line(end)
        assert line.startswith("train.py: " if rank == 0 else "train.py [rank 1]: ")
        assert f"process {missing}: " in line
        assert "no folder images" in line
    assert list((tmp_path / "run").glob("*.json")) == []


@pytest.mark.multiprocess
def test_images_that_do_not_do_for_the_batch_on_one_machine(tmp_path: Path) -> None:
    ended = on_machines(tmp_path, {1: {"train.batch_size": 2000}})
    for end in ended:
        assert "process 1: train.batch_size = 2000 is larger than the data set" in only_line(end)


@pytest.mark.multiprocess
def test_a_wrong_flag_on_another_machine_is_told_there(tmp_path: Path) -> None:
    """Before the processes met: the first one learns only that the other is gone."""
    first, second = on_machines(tmp_path, {1: {"train.num_steps": 0}})
    line = only_line(second)
    assert line.startswith("train.py [rank 1]: ")
    assert "train.num_steps = 0" in line
    assert first.exit_code == EXIT_IO_ERROR
    assert "did not all meet" in first.last_line
