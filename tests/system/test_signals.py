"""Requests to stop: which signals count, what a second one does, and a launcher that ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.runs import ROOT
from uvit_dia.system import signals
from uvit_dia.system.errors import EXIT_STOPPED_EARLY
from uvit_dia.system.signals import STOP_SIGNALS, StoppedAtOnce, StopRequest


@pytest.fixture(autouse=True)
def handlers_kept() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.faults
@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)
def test_each_signal_is_a_request(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop
        signal.raise_signal(number)
        assert stop
        assert stop.signal_name == number.name
    assert signal.getsignal(number) == before


@pytest.mark.faults
def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert not stop
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal_name == "SIGTERM"
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


SCRIPT = """
import signal, sys, time
from uvit_dia.system import signals
from uvit_dia.system.signals import StopRequest

with StopRequest() as stop:
    for name, pause in zip(sys.argv[1::2], sys.argv[2::2]):
        signal.raise_signal(getattr(signal, name))
        time.sleep(float(pause))
    print("finished", bool(stop), flush=True)
"""


def signalled(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_second_signal_leaves_at_once() -> None:
    ended = signalled("SIGTERM", "1.1", "SIGINT", "0")
    assert ended.returncode == EXIT_STOPPED_EARLY
    assert ended.stdout == ""
    assert ended.stderr == "second signal: leaving without saving\n"


@pytest.mark.faults
@pytest.mark.parametrize(
    "words",
    [
        ("SIGTERM", "0.1", "SIGTERM", "0"),  # passed on twice
        ("SIGTERM", "1.1", "SIGHUP", "0"),  # the terminal goes away behind a request
        ("SIGHUP", "1.1", "SIGHUP", "0"),
    ],
)
def test_what_is_no_second_request(words: tuple[str, ...]) -> None:
    ended = signalled(*words)
    assert (ended.returncode, ended.stdout) == (0, "finished True\n")


@pytest.mark.faults
def test_a_request_in_a_long_step_is_acknowledged(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a second Ctrl-C follows, and takes the steps since the last checkpoint."""
    now = 0.0
    monkeypatch.setattr(signals.time, "monotonic", lambda: now)
    for step_seconds, is_told in ((0.5, False), (5.0, True)):
        with StopRequest() as stop:
            for _ in range(2):
                assert not stop
                now += step_seconds
            signal.raise_signal(signal.SIGINT)
            assert stop
        told = capfd.readouterr().err
        assert bool(told) == is_told
        if is_told:
            assert told == "SIGINT: finishing the step, then saving; again to leave at once\n"


@pytest.mark.faults
def test_where_nothing_would_be_lost_a_request_is_answered_at_once() -> None:
    with StopRequest() as stop:
        with stop.at_once():
            pass
        with pytest.raises(StoppedAtOnce, match="SIGTERM"), stop.at_once():
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("not reached")
        assert stop
        with pytest.raises(StoppedAtOnce), stop.at_once():
            raise AssertionError("not reached")
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)  # outside, it waits for the end of the step
        assert stop


@pytest.mark.faults
def test_another_thread_than_the_main_one_may_train() -> None:
    """It cannot take signals; the program around it has its own."""
    results: list[bool] = []

    def train() -> None:
        with StopRequest() as stop:
            results.append(bool(stop))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert results == [False]


# ---------------------------------------------------------------- launchers

CHILD = """
import os, sys, time
from uvit_dia.system.signals import StopRequest

with StopRequest() as stop:
    print(os.getpid(), flush=True)
    end = time.monotonic() + 30
    while not stop and time.monotonic() < end:
        time.sleep(0.05)
    print(stop.signal_name, flush=True)
"""


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "expected"), [("accelerate", "the end of its launcher"), ("shell", "None")]
)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda n: n.name)
def test_the_end_of_a_launcher_is_a_request_and_that_of_a_shell_is_not(
    tmp_path: object, name: str, expected: str, number: signal.Signals
) -> None:
    child = CHILD if expected != "None" else CHILD.replace("+ 30", "+ 1")
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    # a launcher is known by its name on the command line
    process = subprocess.Popen(
        [sys.executable, "-c", parent, name, "launch"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.send_signal(number)
    process.wait()
    assert process.stdout.readline() == f"{expected}\n"
    while True:  # until it has ended too
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.01)
    process.stdout.close()
