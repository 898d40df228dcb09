"""Precision and compilation.

What "auto" means where, and what is said where something asked for does not hold.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from uvit_dia.system import accelerator, compilation
from uvit_dia.system.compilation import check_compiler, compile_errors_told, find_compiler
from uvit_dia.system.errors import InputError
from uvit_dia.system.execution import (
    Execution,
    check_same_precision,
    choose_execution,
    contradictions,
)
from uvit_dia.system.launch import LauncherSettings

pytestmark = pytest.mark.faults

AUTO = Execution("auto", "auto")
FLOAT32, BF16 = Execution("no", False), Execution("bf16", True)
NOTHING = LauncherSettings()


@pytest.fixture(autouse=True)
def compilers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let there be a C and a C++ compiler, and Triton, in a folder of the test's own."""
    for name in ("gcc", "g++"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(compilation.importlib.util, "find_spec", lambda name: object())
    return tmp_path


def choose(
    asked: Execution,
    device: str,
    *,
    begun: Execution | None = None,
    settings: LauncherSettings = NOTHING,
    has_bf16: bool = True,
) -> Execution:
    return choose_execution(asked, begun, settings, device=device, has_bf16=has_bf16)


# ---------------------------------------------------------------- auto


@pytest.mark.parametrize(
    ("device", "has_bf16", "expected"),
    [
        ("cuda", True, BF16),
        ("cuda", False, Execution("no", True)),
        ("cpu", True, FLOAT32),
        ("mps", True, FLOAT32),
    ],
)
def test_auto_follows_the_device(device: str, has_bf16: bool, expected: Execution) -> None:
    assert choose(AUTO, device, has_bf16=has_bf16) == expected


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("asked", [FLOAT32, BF16, Execution("bf16", False), Execution("no", True)])
def test_what_is_asked_for_holds_everywhere(device: str, asked: Execution) -> None:
    launcher = LauncherSettings(mixed_precision="fp16", dynamo_backend="eager")
    assert choose(asked, device, settings=launcher) == asked


@pytest.mark.parametrize(
    ("settings", "device", "expected"),
    [
        (LauncherSettings(mixed_precision="bf16"), "cpu", Execution("bf16", False)),
        (LauncherSettings(mixed_precision="no"), "cuda", Execution("no", True)),
        (LauncherSettings(mixed_precision="fp16"), "cuda", BF16),  # which is not supported
        (LauncherSettings(dynamo_backend="inductor"), "cpu", Execution("no", True)),
        (LauncherSettings(dynamo_backend="no"), "cuda", Execution("bf16", False)),
    ],
)
def test_auto_means_what_the_launcher_asks_for(
    settings: LauncherSettings, device: str, expected: Execution
) -> None:
    assert choose(AUTO, device, settings=settings) == expected


@pytest.mark.parametrize("begun", [FLOAT32, BF16])
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_auto_means_what_the_run_began_with(begun: Execution, device: str) -> None:
    """An interrupted run is the same run, on whatever it goes on."""
    launcher = LauncherSettings(mixed_precision="bf16", dynamo_backend="inductor")
    assert choose(AUTO, device, begun=begun, settings=launcher) == begun


def test_auto_does_without_a_compiler(compilers: Path) -> None:
    (compilers / "gcc").unlink()
    assert choose(AUTO, "cuda") == Execution("bf16", False)
    (compilers / "g++").unlink()
    assert choose(AUTO, "cpu", begun=BF16) == Execution("bf16", False)


def test_a_run_does_not_change_its_precision() -> None:
    check_same_precision(None, BF16)
    check_same_precision(BF16, Execution("bf16", False))
    with pytest.raises(InputError, match=r"train\.mixed_precision = 'no': .* 'bf16' so far"):
        check_same_precision(BF16, FLOAT32)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"mixed_precision": "bf16", "compile": True}, BF16),
        ({"mixed_precision": "no", "compile": False, "device": "cpu"}, FLOAT32),
        ({"mixed_precision": "auto", "compile": "auto"}, None),
        ({"mixed_precision": "bf16"}, None),
        ({"mixed_precision": ["bf16"], "compile": 1}, None),
        ({}, None),
    ],
)
def test_what_a_run_recorded(facts: dict[str, object], expected: Execution | None) -> None:
    assert Execution.recorded(facts) == expected


# ---------------------------------------------------------------- what does not hold


def told(
    asked: Execution,
    holding: Execution,
    settings: LauncherSettings,
    *,
    begun: Execution | None = None,
    accumulation_steps: int | None = 1,
) -> list[str]:
    return contradictions(
        asked,
        holding,
        begun,
        settings,
        accumulation_steps=accumulation_steps,
        max_grad_norm=1.0,
    )


@pytest.mark.parametrize(
    ("settings", "wanted", "held"),
    [
        (
            LauncherSettings(mixed_precision="bf16"),
            "mixed_precision = bf16",
            "train.mixed_precision = no",
        ),
        (
            LauncherSettings(dynamo_backend="inductor"),
            "dynamo_backend = inductor",
            "train.compile = False",
        ),
        (
            LauncherSettings(accumulation_steps=4),
            "gradient_accumulation_steps = 4",
            "train.accumulation_steps = 1",
        ),
        (
            LauncherSettings(max_grad_norm=0.5),
            "gradient_clipping = 0.5",
            "optimizer.max_grad_norm = 1.0",
        ),
    ],
)
def test_what_a_launcher_asks_for_in_vain_is_told_beside_what_holds(
    settings: LauncherSettings, wanted: str, held: str
) -> None:
    line = f"the launcher asks for {wanted}; the config holds: {held}"
    assert told(FLOAT32, FLOAT32, settings) == [line]


def test_all_of_it_is_one_line() -> None:
    settings = LauncherSettings("fp16", "eager", 2, 3.0)
    (line,) = told(FLOAT32, FLOAT32, settings)
    for word in ("fp16", "eager", "accumulation_steps = 2", "gradient_clipping = 3.0"):
        assert word in line


def test_what_agrees_is_not_told() -> None:
    agreeing = LauncherSettings("bf16", "inductor", 1, 1.0)
    assert told(BF16, BF16, agreeing) == []
    assert told(FLOAT32, FLOAT32, NOTHING) == []
    assert told(AUTO, BF16, LauncherSettings(mixed_precision="bf16")) == []


def test_a_command_that_does_not_train_says_how_it_computes() -> None:
    settings = LauncherSettings("bf16", None, 4, 0.5)
    (line,) = told(FLOAT32, FLOAT32, settings, accumulation_steps=None)
    assert line == (
        "the launcher asks for mixed_precision = bf16; this command computes in float32, "
        "not compiled"
    )


def test_compilation_that_the_environment_turns_off_is_told() -> None:
    off = LauncherSettings(compile_disabled_by="TORCHDYNAMO_DISABLE")
    assert choose(BF16, "cpu", settings=off) == Execution("bf16", False)
    (line,) = told(BF16, Execution("bf16", False), off)
    assert line.startswith("TORCHDYNAMO_DISABLE = 1")
    assert told(AUTO, FLOAT32, off) == []


def test_a_run_that_is_compiled_only_now_says_so() -> None:
    (line,) = told(AUTO, FLOAT32, NOTHING, begun=Execution("no", True))
    assert line == "this run was compiled so far; from here on bits may differ"


# ---------------------------------------------------------------- compilers


def test_a_compiler_is_found_as_torch_finds_it(
    compilers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_compiler("cpu") == str(compilers / "g++")
    assert find_compiler("cuda") == str(compilers / "gcc")
    shutil.move(compilers / "gcc", compilers / "clang")
    assert find_compiler("cuda") == str(compilers / "clang")
    monkeypatch.setenv("CXX", "clang --target=x86_64")
    assert find_compiler("cpu") == str(compilers / "clang")


@pytest.mark.parametrize(
    ("device", "name", "value", "words"),
    [
        ("cpu", "PATH", "", "there is no C++ compiler here"),
        ("cpu", "CXX", "icpx-2021", "CXX = 'icpx-2021'"),
        ("cpu", "CXX", "", "CXX = ''"),
        ("cuda", "PATH", "", "no C compiler or no Triton"),
        ("cuda", "CC", "/nowhere/gcc", "CC = '/nowhere/gcc'"),
    ],
)
def test_without_a_compiler_compilation_is_refused(
    monkeypatch: pytest.MonkeyPatch, device: str, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"train\.compile = True") as caught:
        check_compiler(device)
    assert words in str(caught.value)
    with pytest.raises(InputError):
        choose(BF16, device)


def test_a_gpu_needs_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation.importlib.util, "find_spec", lambda name: None)
    assert find_compiler("cuda") is None
    assert find_compiler("cpu") is not None


class InductorError(RuntimeError):
    """Stands for torch's, which is told by its name."""


def failing(error: Exception, cause: Exception | None = None) -> None:
    with compile_errors_told():
        raise error from cause


@pytest.mark.parametrize(
    ("error", "cause", "words"),
    [
        (
            InductorError(
                "CppCompileError: C++ compile error\n\nCommand:\ng++ x.cpp\n\n" + "x\n" * 99
            ),
            None,
            "CppCompileError: C++ compile error",
        ),
        (RuntimeError("backend='inductor' raised:"), InductorError("x"), "backend='inductor'"),
        (PermissionError(13, "Permission denied", "/cache"), None, "Permission denied"),
    ],
)
def test_a_compiler_that_fails_is_one_line(
    error: Exception, cause: Exception | None, words: str
) -> None:
    with pytest.raises(InputError, match=r"train\.compile = True: the compiler failed") as caught:
        failing(error, cause)
    message = str(caught.value)
    assert words in message
    assert "--config.train.compile=False" in message
    assert "\n" not in message and len(message) < 250


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes do not match"),
        MemoryError(),
        RuntimeError("[/gloo/transport/tcp/pair.cc:535] Connection closed by peer"),
    ],
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        failing(error)
    assert caught.value is error


def test_float32_stays_float32_where_a_network_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU Accelerate allows TF32 then; here a stand-in of it does."""
    made = accelerator.Accelerator

    def with_tf32(**arguments: Any) -> object:
        found = made(**arguments)
        torch.backends.cuda.matmul.allow_tf32 = True
        return found

    monkeypatch.setattr(accelerator, "Accelerator", with_tf32)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    accelerator.make_accelerator()
    assert torch.backends.cuda.matmul.allow_tf32 is False
