"""The command line of the page: every mistake is told in a line, before anything heavy."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from uvit_dia.demo import __main__ as demo
from uvit_dia.demo.port import LOOPBACK, bind
from uvit_dia.system.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "digits_uvit_dia_cond"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "demo takes one or two words"),
        (["a", "b", "c"], "demo takes one or two words"),
        (["nowhere"], "demo: no folder nowhere"),
        ([str(MODEL), "--prot", "1"], "unknown flag --prot; did you mean port"),
        ([str(MODEL), "--port", "70000"], "--port 70000: allowed is 0"),
        ([str(MODEL), "--port=x"], "port"),
        ([str(MODEL), "nowhere"], "demo: no folder nowhere"),
    ],
)
def test_a_wrong_command_line(
    words: list[str], told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(demo, "check_packages", lambda: None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=told):
        demo.main(["demo", *words])


def test_without_gradio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"gradio is not installed; pip install 'uvit_dia\[demo\]"):
        demo.main(["demo", str(MODEL)])


def test_a_taken_port_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "check_packages", lambda: None)
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"--port {port}: Address already in use; give anoth"):
            demo.main(["demo", str(MODEL), f"--port={port}"])


def test_a_bound_port_is_of_the_loopback_and_not_open_yet() -> None:
    with bind(0) as listener:
        host, port = listener.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, port), timeout=5)


def test_help_needs_neither_torch_nor_gradio() -> None:
    code = (
        "import sys; from uvit_dia.demo import __main__ as demo\n"
        "try: demo.main(['uvit-dia demo', '--help'])\n"
        "except SystemExit: pass\n"
        "print([n for n in ('torch', 'gradio', 'numpy', 'PIL') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "uvit-dia demo RUN|DIR|ID [RUN2]" in done.stdout
    assert done.stdout.endswith("[]\n")
