"""How commands end: exit codes, one line for what is foreseen, and streams that never end them."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.forked import Finished, start_ranks
from tests.support.runs import ROOT
from uvit_dia.system.commands import run_command
from uvit_dia.system.errors import (
    EXIT_BAD_INPUT,
    EXIT_BUG,
    EXIT_DIVERGED,
    EXIT_IO_ERROR,
    EXIT_STOPPED_EARLY,
    CommandError,
    DivergedError,
    InputError,
    MemoryShortageError,
    StoppedEarly,
    StorageError,
)


class OutOfMemoryError(RuntimeError):
    """Stands for torch's, which is told by its name."""


class DistError(RuntimeError):
    """Stands for the base class of torch.distributed's errors, which is told by its name."""


class DistStoreError(DistError):
    """Stands for one of torch.distributed's errors."""


def ending(
    main: Callable[[list[str]], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    rank: str | None = None,
) -> tuple[object, str]:
    """Return exit code and stderr of a command."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/train.py"])
    if rank is None:
        monkeypatch.delenv("RANK", raising=False)
    else:
        monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit) as caught:
        run_command(main)
    return caught.value.code, capsys.readouterr().err


def raiser(error: BaseException) -> Callable[[list[str]], None]:
    def main(argv: list[str]) -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (InputError("wrong\n  key"), EXIT_BAD_INPUT, "wrong key"),
        (DivergedError("loss is nan"), EXIT_DIVERGED, "loss is nan"),
        (StorageError("disk"), EXIT_IO_ERROR, "disk"),
        (StoppedEarly("stopped"), EXIT_STOPPED_EARLY, "stopped"),
        (CommandError("odd"), EXIT_BUG, "odd"),
        (MemoryShortageError("of the GPU"), EXIT_BAD_INPUT, "of the GPU"),
        (OutOfMemoryError("CUDA out of\nmemory."), EXIT_BAD_INPUT, "of memory: CUDA out of mem"),
        (MemoryError(), EXIT_BAD_INPUT, "out of memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            EXIT_BAD_INPUT,
            "out of memory: [enforce",
        ),
        (KeyboardInterrupt(), EXIT_STOPPED_EARLY, "interrupted"),
        (OSError(28, "No space left on device", "x.bin"), EXIT_IO_ERROR, "no space left"),
        (OSError(122, "Disk quota exceeded", "x.bin"), EXIT_IO_ERROR, "x.bin"),
        (OSError(errno.EMFILE, "Too many open files"), EXIT_BAD_INPUT, "ulimit -n"),
        (RuntimeError("can't start new thread"), EXIT_BAD_INPUT, "ulimit -u"),
        (DistStoreError("Timed out after 13 seconds"), EXIT_IO_ERROR, "lost contact"),
        (
            RuntimeError(
                "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:535] closed by peer"
            ),
            EXIT_IO_ERROR,
            "lost contact with another process",
        ),
    ],
)
def test_foreseen_errors_are_one_line_with_their_exit_code(
    error: BaseException,
    code: int,
    text: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, stderr = ending(raiser(error), capsys, monkeypatch)
    assert found == code
    assert stderr.startswith("train.py: ") and text in stderr
    assert stderr.count("\n") == 1 and stderr.endswith("\n")


def test_exit_codes_are_those_that_schedulers_know() -> None:
    codes = (EXIT_BUG, EXIT_BAD_INPUT, EXIT_DIVERGED, EXIT_IO_ERROR, EXIT_STOPPED_EARLY)
    assert codes == (1, 2, 3, 74, 75)


@pytest.mark.parametrize("error", [RuntimeError("bug"), OSError(5, "Input/output error")])
def test_a_bug_keeps_its_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(type(error), match=str(error.args[-1])):
        run_command(raiser(error))


def test_a_command_that_returns_ends_with_0(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ending(lambda argv: None, capsys, monkeypatch) == (0, "")


def test_a_line_cannot_steer_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = InputError("no folder \x1b[2J\x07\udcff and\r\nmore")
    _, line = ending(raiser(error), capsys, monkeypatch)
    assert line == "train.py: no folder \ufffd[2J\ufffd\ufffd and more\n"


# ---------------------------------------------------------------- several processes

RANKS = 3


def _end(errors: dict[int, CommandError]) -> None:
    """End as a rank's command does, with the error that it meets, if any."""
    sys.argv = ["train.py"]
    error = errors.get(int(os.environ["RANK"]))
    run_command(raiser(error) if error is not None else lambda argv: None)


def ends_of_ranks(errors: dict[int, CommandError]) -> list[Finished]:
    return [child.wait() for child in start_ranks(RANKS, _end, errors)]


@pytest.mark.faults
def test_what_all_processes_refuse_is_told_once_a_machine() -> None:
    ended = ends_of_ranks(dict.fromkeys(range(RANKS), InputError("wrong")))
    assert [end.exit_code for end in ended] == [EXIT_BAD_INPUT] * RANKS
    assert [end.stderr for end in ended] == ["train.py: wrong\n", "", ""]


@pytest.mark.faults
@pytest.mark.parametrize("ranks", [(1,), (1, 2)])
def test_what_only_others_than_the_first_refuse_is_told_once_with_its_rank(
    ranks: tuple[int, ...],
) -> None:
    for _ in range(2):  # started again, it is told again
        ended = ends_of_ranks(dict.fromkeys(ranks, InputError("wrong")))
        assert [end.exit_code for end in ended] == [2 if r in ranks else 0 for r in range(RANKS)]
        told = [end.stderr for end in ended if end.stderr]
        assert len(told) == 1
        assert told[0] in [f"train.py [rank {rank}]: wrong\n" for rank in ranks]


@pytest.mark.faults
def test_each_different_refusal_is_told() -> None:
    ended = ends_of_ranks({0: InputError("no a"), 1: InputError("no b"), 2: InputError("no b")})
    told = "".join(end.stderr for end in ended)
    assert "train.py: no a\n" in told
    assert told.count("no b") == 1


def test_each_process_tells_its_own_failure() -> None:
    """One process may meet it alone; the others end for another reason."""
    errors: dict[int, CommandError] = {1: DivergedError("nan"), 2: MemoryShortageError("full")}
    ended = ends_of_ranks(errors)
    assert [end.stderr for end in ended] == [
        "",
        "train.py [rank 1]: nan\n",
        "train.py [rank 2]: full\n",
    ]
    assert [end.exit_code for end in ended] == [0, EXIT_DIVERGED, EXIT_BAD_INPUT]


@pytest.mark.faults
def test_refusals_are_told_where_no_file_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    from uvit_dia.system import telling

    def none_usable() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(telling.tempfile, "gettempdir", none_usable)
    with telling.told_once_a_machine("wrong") as tells:
        assert tells


# ---------------------------------------------------------------- streams

WORK = """
import sys
from uvit_dia.system.commands import run_command
from uvit_dia.system.errors import InputError

def main(argv):
    for number in range(20_000):
        print("Übung 猫 \\udcff", number)
    print("a warning: Übung 猫", file=sys.stderr)
    sys.stdout.flush()
    open(argv[1], "w").close()  # the work, which counts
    if len(argv) > 2:
        raise InputError("wrong: Übung 猫")

run_command(main)
"""
UTF8 = {"PYTHONIOENCODING": "utf-8"}


def work(
    folder: Path, redirection: str, environment: dict[str, str], *words: str
) -> subprocess.CompletedProcess[bytes]:
    """Do some work in a process whose streams a shell redirects.

    Its exit code is that of the work alone.
    """
    script = folder / "work.py"
    script.write_text(WORK, encoding="utf-8")
    arguments = " ".join([f"{sys.executable} {script} {folder / 'done'}", *words])
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {arguments} {redirection}"],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        check=False,
        timeout=60,
    )


C_LOCALE = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
STREAMS = {
    "ascii": ("", {"PYTHONIOENCODING": "ascii"}),
    "latin-1": ("", {"PYTHONIOENCODING": "latin-1"}),
    "C locale": ("", C_LOCALE),
    "unknown locale": ("", {"LC_ALL": "xx_YY.KOI8-R", "PYTHONUTF8": "0"}),
    "strict": ("", {"PYTHONIOENCODING": "utf-8:strict"}),
    "head": ("| head -1", UTF8),
    "stderr to head": ("2>&1 >/dev/null | true", UTF8),
    "stdout closed": (">&-", UTF8),
    "stderr closed": ("2>&-", UTF8),
    "all closed": ("<&- >&- 2>&-", UTF8),
    "unbuffered": ("| head -1", {**UTF8, "PYTHONUNBUFFERED": "1"}),
}


@pytest.mark.faults
@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("words", [(), ("refuse",)], ids=["done", "refused"])
def test_streams_do_not_decide_how_a_command_ends(
    tmp_path: Path, name: str, words: tuple[str, ...]
) -> None:
    redirection, environment = STREAMS[name]
    ended = work(tmp_path, redirection, environment, *words)
    assert ended.returncode == (EXIT_BAD_INPUT if words else 0), ended.stderr
    assert (tmp_path / "done").exists()
    assert b"Traceback" not in ended.stderr
    assert b"Exception" not in ended.stderr
    if words and name in ("ascii", "C locale"):
        assert b"work.py: wrong: \\xdcbung \\u732b\n" in ended.stderr


@pytest.mark.faults
def test_a_terminal_that_was_closed_does_not_end_a_command(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(WORK, encoding="utf-8")
    main, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, tmp_path / "work.py", tmp_path / "done"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    os.read(main, 10)
    os.close(main)
    assert process.wait(timeout=60) == 0
    assert (tmp_path / "done").exists()


@pytest.mark.faults
def test_no_file_gets_the_descriptor_of_a_closed_stream(tmp_path: Path) -> None:
    """A stray print of a library would be written into it."""
    script = """
import os, sys
from uvit_dia.system.commands import run_command

def main(argv):
    with open(argv[1], "w") as file:
        os.write(1, b"printed by a library")
        file.write(str(file.fileno() > 2))

run_command(main)
"""
    (tmp_path / "work.py").write_text(script)
    subprocess.run(
        ["bash", "-c", f"{sys.executable} {tmp_path / 'work.py'} {tmp_path / 'done'} <&- >&- 2>&-"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert (tmp_path / "done").read_text() == "True"
