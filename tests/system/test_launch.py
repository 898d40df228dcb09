"""What the environment and the launcher say.

Checked before the processes meet, and never overridden in silence.
"""

import pytest

from uvit_dia.system import launch
from uvit_dia.system.errors import InputError

pytestmark = pytest.mark.faults

TWO = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}
LAUNCH = ["/venv/bin/python", "/venv/bin/accelerate", "launch"]


@pytest.fixture(autouse=True)
def no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without a word of any launcher."""
    for name in (*launch.NUMBERS, *launch.COMPILE_SWITCHES, "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("MIXED_PRECISION", "DYNAMO_BACKEND", "GRADIENT_ACCUMULATION_STEPS"):
        monkeypatch.delenv(f"ACCELERATE_{name}", raising=False)
    monkeypatch.delenv("ACCELERATE_GRADIENT_CLIPPING", raising=False)
    monkeypatch.setattr(launch, "launcher_words", list)


def set_all(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


# ---------------------------------------------------------------- ranks


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 0, 1)),
        (TWO | {"RANK": "1", "LOCAL_RANK": "1"}, (1, 1, 2)),
        (TWO | {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}, (5, 1, 8)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 1, 2)),
        (
            {
                "OMPI_COMM_WORLD_RANK": "3",
                "OMPI_COMM_WORLD_LOCAL_RANK": "1",
                "OMPI_COMM_WORLD_SIZE": "4",
            },
            (3, 1, 4),
        ),
    ],
)
def test_ranks_are_those_that_accelerate_finds(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: tuple[int, int, int]
) -> None:
    set_all(monkeypatch, environment)
    assert (launch.rank(), launch.local_rank(), launch.num_launched()) == expected


@pytest.mark.parametrize("environment", [{}, TWO, TWO | {"RANK": "1"}, {"RANK": "0"}])
def test_a_launch_that_works_is_let_through(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    set_all(monkeypatch, environment)
    launch.check_launch()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"MASTER_ADDR": None}, "MASTER_ADDR is missing"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is missing"),
        ({"MASTER_PORT": "many"}, "MASTER_PORT = 'many'"),
        ({"MASTER_PORT": "70000"}, "allowed is 0 to 65535"),
        ({"RANK": None}, "RANK is missing"),
        ({"RANK": "2"}, "RANK = 2 in the environment: allowed is 0 to 1"),
        ({"RANK": "-1"}, "RANK = '-1'"),
        ({"RANK": "one"}, "RANK = 'one'"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE = 'two'"),
        ({"LOCAL_RANK": ""}, "LOCAL_RANK = ''"),
    ],
)
def test_a_launch_that_cannot_work_is_refused(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, str | None], words: str
) -> None:
    set_all(monkeypatch, {k: v for k, v in (TWO | change).items() if v is not None})
    with pytest.raises(InputError) as caught:
        launch.check_launch()
    assert words in str(caught.value)
    assert len(str(caught.value)) < 250


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        ([], {}, {}),
        # what a launcher says that was told nothing
        ([], {"MIXED_PRECISION": "no", "DYNAMO_BACKEND": "NO"}, {}),
        ([], {"MIXED_PRECISION": "BF16"}, {"mixed_precision": "bf16"}),
        ([], {"DYNAMO_BACKEND": "INDUCTOR"}, {"dynamo_backend": "inductor"}),
        ([], {"GRADIENT_ACCUMULATION_STEPS": "4"}, {"accumulation_steps": 4}),
        ([], {"GRADIENT_CLIPPING": "0.5"}, {"max_grad_norm": 0.5}),
        ([], {"GRADIENT_CLIPPING": "auto"}, {}),
        # flags, which Accelerate does not all pass on, and which say what was really asked for
        (["--mixed_precision", "no"], {"MIXED_PRECISION": "no"}, {"mixed_precision": "no"}),
        (["--mixed-precision=fp16"], {"MIXED_PRECISION": "fp16"}, {"mixed_precision": "fp16"}),
        (["--gradient_accumulation_steps", "4"], {}, {"accumulation_steps": 4}),
        (["--gradient-accumulation-steps=8"], {}, {"accumulation_steps": 8}),
        (["--gradient_clipping", "1.0"], {}, {"max_grad_norm": 1.0}),
        # the script's own are not the launcher's
        (["train.py", "--gradient_accumulation_steps", "4"], {}, {}),
    ],
)
def test_what_a_launcher_asks_for_is_known(
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    environment: dict[str, str],
    expected: dict[str, object],
) -> None:
    set_all(monkeypatch, {f"ACCELERATE_{name}": value for name, value in environment.items()})
    words = [*LAUNCH, "--num_processes", "1", *flags, "train.py", "--config", "c.py"]
    monkeypatch.setattr(launch, "launcher_words", lambda: words if flags else [])
    assert launch.launcher_settings() == launch.LauncherSettings(**expected)


def test_a_number_of_the_launcher_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "some")
    with pytest.raises(InputError, match="'some'"):
        launch.launcher_settings()


def test_a_switch_that_turns_compilation_off_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in launch.COMPILE_SWITCHES:
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            assert launch.launcher_settings().compile_disabled_by == name
            patch.setenv(name, "0")
            assert launch.launcher_settings().compile_disabled_by is None
