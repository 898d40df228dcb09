"""Every command of README.md, CONTRIBUTING.md and docs/ exists, and so do its flags and keys.

Here each goes through the parser of the command itself, which ends before anything is done;
nothing is started.
`make docs-commands` really runs them (`test_commands_run.py`).
"""

import argparse
import importlib
import re
import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.documents import ROOT, Command, all_commands
from uvit_dia import cli
from uvit_dia.__main__ import COMMANDS
from uvit_dia.system.errors import InputError

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))

# Where each command stops: the first thing that it does after its command line is read, by module
# and name. Others stop as soon as their flags are read.
STOPS = {
    "train": ("runs.folder.RunFolder", "runs.find.find_paths"),
    "sample": ("sampling.command.with_source",),
    "eval": ("evaluation.command.with_source", "evaluation.command.find_reference"),
    "sweep": ("sweep.__main__.make_plan", "sweep.__main__.show_status"),
    "report": ("report.__main__.check_packages",),
    "analyse": ("analysis.__main__.find_source",),
}
# What a sentence leaves out because its paragraph has said it.
LEFT_OUT = {
    "train": {"--config": "configs/cifar10_uvit_dia.py"},
    "sample": {"--checkpoint": "RUN"},
    "sweep": {"--config": "configs/sweeps/digits_batch_size.py", "--workdir": "runs/sweep"},
    "analyse": {"--checkpoint": "RUN"},
}
PLACEHOLDERS = {"COMMAND": "gates", "my_module:MyUnit": "examples.own_unit:Strongest"}
# Lines of shell scripts that are no program of ours.
SHELL_LINES = re.compile(
    r"code=\$\?|if \[ |exit |grep -q |while true|case |\d+[|)]|\*\) exit|esac$|done$"
    r"|\. \.venv/bin/activate$|git clone https://github\.com/uvit-dia/uvit_dia$|cd uvit_dia$"
)


class Parsed(Exception):
    """A command line was read to its end."""


def stop(*_: object, **__: object) -> None:
    raise Parsed


def parse_and_stop(
    values: object, argv: object, usage: object, parse: Callable[..., None] = cli.parse_flags
) -> None:
    parse(values, argv, usage)
    raise Parsed


def ways() -> list[Command]:
    """Return the commands that start a program of ours."""
    return [command for command in all_commands() if command.ours() is not None]


def completed(name: str, words: list[str]) -> list[str]:
    """Return a command's words with what its sentence left out, and with names for placeholders."""
    if "--help" in words or words[-1:] == ["--checkpoint"]:  # the flag by itself, in a sentence
        words = [word for word in words if word != "--checkpoint"]
    words = [PLACEHOLDERS.get(word, word) for word in words]
    words = [word.replace("my_module:MyUnit", PLACEHOLDERS["my_module:MyUnit"]) for word in words]
    missing = {
        flag: value
        for flag, value in LEFT_OUT.get(name, {}).items()
        if not any(word.split("=")[0] == flag for word in words)
    }
    if name == "eval" and not {"--images", "--reference"} & set(words):
        missing |= {} if "--checkpoint" in words else {"--checkpoint": "RUN"}
    first = words[:1] if name == "analyse" else []
    return first + [word for pair in missing.items() for word in pair] + words[len(first) :]


def parse(name: str, words: list[str], patch: Callable[[str, object], None]) -> None:
    """Let a command read its command line.

    Args:
        name: the console command.
        words: its arguments.
        patch: sets an attribute, named by its dotted path, for the time of the test.

    Raises:
        InputError: as the command does.
    """
    for target in STOPS.get(name, ()):
        patch(f"uvit_dia.{target}", stop)
    if name not in STOPS:
        patch("uvit_dia.cli.parse_flags", parse_and_stop)
    module = importlib.import_module(f"uvit_dia.{COMMANDS[name][0]}")
    try:
        module.main([name, *words])
    except Parsed:
        return
    except SystemExit as end:
        assert end.code == 0, words  # --help
        return
    raise AssertionError(f"{name} did not reach the end of its command line: {words}")


@pytest.mark.parametrize("command", ways(), ids=str)
def test_flags_and_keys_exist(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = command.ours()
    assert found is not None
    for place in ("configs", "examples"):
        (tmp_path / place).symlink_to(ROOT / place)
    monkeypatch.chdir(tmp_path)
    parse(found[0], completed(*found), monkeypatch.setattr)


@pytest.mark.parametrize(
    ("name", "words", "told"),
    [
        ("train", "--config configs/digits_uvit_dia.py --config.train.nm_steps=3", "nm_steps"),
        ("train", "--config configs/digits_uvit_dia.py --config.train.num_steps=x", "num_steps"),
        ("train", "--config configs/none.py", "none.py"),
        ("sample", "--checkpoint RUN --sampler dpm", "dpm"),
        ("eval", "--images A --references B", "references"),
        ("sweep", "--workdir A --statuss", "statuss"),
        ("report", "A --outputs B", "outputs"),
        ("analyse", "gate --checkpoint A", "gate"),
        ("no_stop_of_its_own", "--checkpoint A --sampler ddmp --no_such_flag 1", "no_such_flag"),
    ],
)
def test_a_wrong_command_is_seen(
    name: str, words: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(COMMANDS, "no_stop_of_its_own", COMMANDS["sample"])
    with pytest.raises(InputError, match=told):
        parse(name, words.split(), monkeypatch.setattr)


def launcher_flags(words: list[str]) -> tuple[str, list[str]]:
    """Return which launcher a command begins with, and the launcher's own flags."""
    words = [word for word in words if "=" not in word or word.startswith("-")] or [""]
    if words[0] == "srun":
        words = [word for word in words[1:] if not word.startswith("--ntasks")]
    end = next((i for i, word in enumerate(words) if word.endswith(".py")), len(words))
    if words[:2] == ["accelerate", "launch"]:
        return "accelerate", [*words[2:end], "train.py"]
    return words[0], [*words[1:end], "train.py"]


def test_flags_of_launchers_exist() -> None:
    from accelerate.commands.launch import launch_command_parser
    from torch.distributed.run import get_args_parser

    parsers: dict[str, argparse.ArgumentParser] = {
        "accelerate": launch_command_parser(),
        "torchrun": get_args_parser(),
    }
    seen = set()
    for command in all_commands():
        name, words = launcher_flags(command.words())
        if name in parsers:
            known, _ = parsers[name].parse_known_args(words)
            script = getattr(known, "training_script", None)
            # else an unknown flag took its place
            assert re.fullmatch(r"train\.py|examples\.\w+", str(script)), str(command)
            seen.add(name)
    assert seen == set(parsers)


def problem_of(command: Command) -> str | None:
    """Return what is wrong with a command that is no program of ours, by its first word."""
    words = [word for word in command.words() if not re.match(r"[A-Z_]+=", word)]
    program = Path(words[0]).name if words else ""
    if program == "make":
        unknown = [word for word in words[1:] if "=" not in word and word not in TARGETS]
        return f"no such target: {unknown}" if unknown else None
    if program == "pip":
        extra = re.fullmatch(r"(?:\.|uvit_dia)\[(\w+)\]", words[-1])
        return None if extra and extra[1] in EXTRAS else "no such extra"
    if program in ("python", "python3") and words[1:2] == ["-m"]:
        return None if find_spec(words[2]) else f"no module {words[2]}"
    if program in ("python", "python3") and words[1:2] and words[1].endswith(".py"):
        return None if (ROOT / words[1]).is_file() else f"no file {words[1]}"
    if words[:2] == ["hf", "upload"]:
        return None if len(words) > 3 else "hf upload takes an id and a folder"
    if program in ("accelerate", "torchrun") or SHELL_LINES.match(command.text):
        return None
    return "a command that the tests do not know; teach them, or list it"


@pytest.mark.parametrize(
    "command", [command for command in all_commands() if command.ours() is None], ids=str
)
def test_other_commands_exist(command: Command) -> None:
    assert problem_of(command) is None


@pytest.mark.parametrize(
    "text",
    [
        "make quickstrat",
        "pip install -e '.[sweeps]'",
        "python -m uvit_dia.swep",
        "python .ci/releases.py v1",
        "docker run x",
        "hf upload OWNER/NAME",
        "git clone https://github.com/elsewhere",
    ],
)
def test_an_unknown_command_is_seen(text: str) -> None:
    assert problem_of(Command("page", 1, text, in_block=True)) is not None


def test_there_are_commands_to_look_at() -> None:
    names = [found[0] for command in ways() if (found := command.ours())]
    assert set(STOPS) <= set(names) <= set(COMMANDS)
    assert len(names) > 60
