"""What `uvit-dia demo` refuses before it loads anything; none of it needs Gradio."""

import re
import socket
import subprocess
import sys

import pytest

from tests.demo.test_unfolding import MODEL
from uvit_dia.demo import __main__ as command
from uvit_dia.demo.server import check_port
from uvit_dia.system.errors import InputError


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "demo takes one or two models"),
        (["a", "b", "c"], "demo takes one or two models"),
        ([str(MODEL), "--port=0"], "--port 0: allowed is 1 to 65535"),
        (["no_such_run"], "demo: no folder no_such_run|demo: .*no_such_run"),
        ([str(MODEL), "--prot=1"], "unknown flag --prot; did you mean port"),
    ],
)
def test_a_wrong_command_line_is_refused(words: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        command.main(["demo", *words])


def test_without_gradio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'uvit_dia\[demo\]'"):
        command.main(["demo", str(MODEL)])


def test_a_taken_port_is_refused_and_a_free_one_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port {port}: Address already in use") as caught:
            check_port(port)
    free = re.search(r"(\d+) is free", str(caught.value))
    assert free
    check_port(int(free[1]))


def test_the_command_answers_without_torch_and_gradio() -> None:
    code = (
        "import sys, uvit_dia.demo.__main__ as d\n"
        "try: d.main(['demo', '--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'gradio', 'PIL', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
