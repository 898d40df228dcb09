"""Ctrl-C and a closed window, in a real terminal.

As the shell's job in the foreground, with and without a launcher.
"""

import os
import pty
import select
import signal
import sys
import termios
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.runs import ROOT, status, step_folder, train_arguments
from uvit_dia.system.errors import EXIT_STOPPED_EARLY

pytestmark = pytest.mark.faults

LONG: dict[str, object] = {
    "train.num_steps": 100_000,
    "optimizer.lr_schedule": "constant",
    "train.checkpoint_every_steps": 90_000,
}
PYTHON = [sys.executable]
LAUNCHER = [
    *(sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"),
    *("--num_processes=1", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"),
]
CTRL_C = b"\x03"


@dataclass
class Terminal:
    """A command in the foreground of a terminal of its own.

    Attributes:
        pid: of the command.
        keyboard: what is written there is typed; what is read from there was shown.
        shown: all that was read.
    """

    pid: int
    keyboard: int
    shown: bytes = b""

    @classmethod
    def run(cls, command: list[str], path: Path, changes: dict[str, object]) -> "Terminal":
        """Start a training."""
        words = [*command, "train.py", *train_arguments(path, changes)]
        pid, keyboard = pty.fork()
        if pid == 0:
            os.chdir(ROOT)
            for number in (signal.SIGHUP, signal.SIGQUIT):  # which tests under nohup ignore
                signal.signal(number, signal.SIG_DFL)
            os.environ.update(ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(path.parent / "inductor")
            os.execv(words[0], words)
        termios.tcsetwinsize(keyboard, (24, 100))
        return cls(pid, keyboard)

    def read(self, seconds: float) -> bool:
        """Read what is shown within some seconds; say whether the terminal is still open."""
        if not select.select([self.keyboard], [], [], seconds)[0]:
            return True
        try:
            part = os.read(self.keyboard, 2**16)
        except OSError:  # nobody has it open any more
            return False
        self.shown += part
        return bool(part)

    def wait_for(self, words: str, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while words.encode() not in self.shown:
            assert time.monotonic() < end and self.read(0.2), self.shown.decode()

    def wait_until_over(self, seconds: float = 60) -> int:
        """Read to the end, which comes when the last process has it closed.

        Return the command's exit code.
        """
        end = time.monotonic() + seconds
        while self.read(0.2):
            assert time.monotonic() < end, self.shown.decode()
        _, state = os.waitpid(self.pid, 0)
        os.close(self.keyboard)
        return os.waitstatus_to_exitcode(state)

    def lines(self, word: str) -> list[str]:
        """Return the shown lines that have a word."""
        return [line for line in self.shown.decode().splitlines() if word in line]


def trainings(path: Path) -> list[int]:
    """Return the processes that train in a folder."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if f"--workdir={path}" in (process.info["cmdline"] or [])
    ]


def test_ctrl_c_ends_a_training_in_one_line(tmp_path: Path) -> None:
    terminal = Terminal.run(PYTHON, tmp_path / "run", LONG)
    terminal.wait_for("loss ")
    os.write(terminal.keyboard, CTRL_C)
    assert terminal.wait_until_over() == EXIT_STOPPED_EARLY
    found = status(tmp_path / "run")
    assert found["state"] == "preempted"
    assert step_folder(tmp_path / "run", found["step"]).is_dir()
    (line,) = terminal.lines("train.py: ")
    assert f"stopped by SIGINT at step {found['step']}, state saved" in line
    assert "Traceback" not in terminal.shown.decode()


def test_ctrl_c_under_a_launcher_ends_the_training_too(tmp_path: Path) -> None:
    """Accelerate shows a traceback of its own.

    The training saves all the same, and leaves no process behind.
    """
    terminal = Terminal.run(LAUNCHER, tmp_path / "run", LONG)
    terminal.wait_for("loss ")
    os.write(terminal.keyboard, CTRL_C)
    terminal.wait_until_over()
    found = status(tmp_path / "run")
    assert found["state"] == "preempted"
    assert step_folder(tmp_path / "run", found["step"]).is_dir()
    assert len(terminal.lines("stopped by SIGINT at step")) == 1
    assert trainings(tmp_path / "run") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_a_launcher_that_is_killed_leaves_no_training_behind(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Its training is told twice, in either order: by the end of its parent, and by the terminal.

    The launcher leads the terminal's session here, so that the kernel hangs up as it ends.
    """
    terminal = Terminal.run(LAUNCHER, tmp_path / "run", LONG)
    terminal.wait_for("loss ")
    os.kill(terminal.pid, number)
    assert terminal.wait_until_over() == -number
    assert trainings(tmp_path / "run") == []
    found = status(tmp_path / "run")
    assert found["state"] == "preempted"
    reasons = [
        f"stopped by {why} at step {found['step']}, state saved"
        for why in ("the end of its launcher", "SIGHUP")
    ]
    assert any(reason in found["reason"] for reason in reasons)
    assert step_folder(tmp_path / "run", found["step"]).is_dir()


def test_a_window_that_is_closed_saves_the_state(tmp_path: Path) -> None:
    terminal = Terminal.run(PYTHON, tmp_path / "run", LONG)
    terminal.wait_for("loss ")
    os.close(terminal.keyboard)  # SIGHUP, and nothing can be shown any more
    _, state = os.waitpid(terminal.pid, 0)
    assert os.waitstatus_to_exitcode(state) == EXIT_STOPPED_EARLY
    found = status(tmp_path / "run")
    assert found["state"] == "preempted"
    assert "stopped by SIGHUP" in found["reason"]
    assert step_folder(tmp_path / "run", found["step"]).is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["tracing", "compiling"])
@pytest.mark.parametrize("command", [PYTHON, LAUNCHER], ids=["python", "accelerate launch"])
def test_ctrl_c_while_the_network_is_compiled(
    tmp_path: Path, moment: str, command: list[str]
) -> None:
    """The compiler gets it too.

    Neither it nor torch says a word, and nothing waits for the rest of it.
    """
    terminal = Terminal.run(command, tmp_path / "run", {**LONG, "train.compile": True})
    terminal.wait_for("compiling the network", 240)
    end = time.monotonic() + 240
    while moment == "compiling" and not compilers_below(terminal.pid):
        assert time.monotonic() < end and terminal.read(0.05), terminal.shown.decode()
    os.write(terminal.keyboard, CTRL_C)
    asked = time.monotonic()
    code = terminal.wait_until_over()
    assert time.monotonic() - asked < 30
    (line,) = terminal.lines("train.py: ")
    assert "stopped by SIGINT while the network was compiled, at step 0; nothing is lost" in line
    if command is PYTHON:
        assert code == EXIT_STOPPED_EARLY
        assert "Traceback" not in terminal.shown.decode()
        assert terminal.shown.count(b"\n") < 8  # a bar that is drawn again adds no line
    assert status(tmp_path / "run")["state"] == "preempted"
    assert trainings(tmp_path / "run") == []


def compilers_below(pid: int) -> list[psutil.Process]:
    below = psutil.Process(pid).children(recursive=True)
    return [process for process in below if process.name().startswith(("cc1plus", "g++"))]
