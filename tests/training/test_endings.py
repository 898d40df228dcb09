"""What a training says at its ends and shows in TensorBoard; that its columns are explained."""

import json
import re
import signal
from pathlib import Path

import pytest

from tests.support.forked import Child
from tests.support.runs import (
    ROOT,
    Fault,
    command,
    status,
    step_folder,
    train,
)
from uvit_dia.system.errors import EXIT_OK

pytestmark = pytest.mark.faults

CONSTANT = {"optimizer.lr_schedule": "constant"}


def next_commands(stdout: str) -> list[list[str]]:
    """Return the commands that a training says come next, without the interpreter."""
    lines = stdout.splitlines()
    after = lines[lines.index("next:") + 1 :]
    return [line.split()[1:] for line in after if line.startswith("  python ")]


def test_a_training_ends_with_what_was_made_and_what_comes_next(tmp_path: Path) -> None:
    run = tmp_path / "run"
    ended = train(run)
    lines = ended.stdout.splitlines()
    loss = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["loss"]
    assert lines[0].startswith("data: digits: 1797 images")
    assert lines[1] == f"starting: {run}, 1 process(es) on cpu, float32, not compiled"
    assert f"done: 12 steps, loss {loss:.4f}; weights in {step_folder(run, 12)}" in lines
    commands = next_commands(ended.stdout)
    assert [words[0] for words in commands] == ["sample.py", "eval_fid.py"]
    extra = {"sample.py": ["--num_images=2"], "eval_fid.py": ["--num_images=8"]}
    for script, *words in commands:  # they work as they stand there, here with fewer images
        quick = [*extra[script], "--num_steps=2", "--allow_few_images"]
        flags = quick if script == "eval_fid.py" else quick[:-1]
        done = Child(command, script.removesuffix(".py"), [*words, *flags]).wait()
        assert done.exit_code == EXIT_OK, done.stderr
    assert (run / "grid.png").is_file()


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        (CONSTANT, "to train it further, give --config.train.num_steps above 12"),
        ({}, "its learning rate ends there: a longer training needs another --workdir"),
    ],
    ids=["constant", "cosine"],
)
def test_a_finished_run_says_that_it_is_finished(
    tmp_path: Path, changes: dict[str, object], advice: str
) -> None:
    first = train(tmp_path, changes)
    again = train(tmp_path, changes)
    assert again.exit_code == EXIT_OK
    assert "going on" not in again.stdout and "done:" not in again.stdout
    assert f"finished: {tmp_path} has all its 12 steps" in again.stdout
    assert str(step_folder(tmp_path, 12)) in again.stdout
    assert advice in again.stdout
    assert next_commands(again.stdout) == next_commands(first.stdout)
    assert status(tmp_path)["state"] == "done"
    if changes:  # the advice works
        longer = train(tmp_path, {**changes, "train.num_steps": 14})
        assert "going on at step 12:" in longer.stdout
        assert "done: 14 steps" in longer.stdout


def test_an_interrupted_training_says_only_how_to_go_on(tmp_path: Path) -> None:
    stopped = train(tmp_path, fault=Fault("draw", 5, signal.SIGTERM))
    assert "next:" not in stopped.stdout and "done:" not in stopped.stdout
    assert len(stopped.stderr.splitlines()) == 1


def test_paths_in_the_next_commands_are_quoted(tmp_path: Path) -> None:
    run = tmp_path / "a run"
    ended = train(run)
    assert f"--checkpoint '{run}'" in ended.stdout


# ---------------------------------------------------------------- TensorBoard


def test_previews_are_pictures_in_tensorboard(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    changes = {"train.tracker": "tensorboard", "train.sample_every_steps": 6}
    assert train(tmp_path, changes).exit_code == EXIT_OK
    events = EventAccumulator(str(tmp_path / "tensorboard" / "train")).Reload()
    shown = events.Images("samples")
    assert [event.step for event in shown] == [6, 12]
    picture = tmp_path / "shown.png"
    picture.write_bytes(shown[-1].encoded_image_string)
    file = tmp_path / "samples" / "step_00000012.png"
    pixels = [np.asarray(Image.open(path).convert("RGB")) for path in (picture, file)]
    np.testing.assert_array_equal(*pixels)


# ---------------------------------------------------------------- columns


def documented_columns() -> set[str]:
    page = (ROOT / "docs" / "log-columns.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| ([^|]+) \|", page, flags=re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_every_column_that_is_logged_is_explained(tmp_path: Path) -> None:
    changes = {"train.eval_every_steps": 12, "eval.num_images": 64}
    assert train(tmp_path, changes).exit_code == EXIT_OK
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = {key for line in lines for key in line}
    assert {"loss", "noise_scale", "fd", "floor"} <= logged
    assert logged - documented_columns() == set()


def test_columns_of_rare_events_are_explained() -> None:
    """Those that the training writes by name, wherever it does."""
    written = set()
    for path in (ROOT / "uvit_dia" / "training").glob("*.py"):
        written |= set(re.findall(r'"(nonfinite\w*)"', path.read_text(encoding="utf-8")))
    assert written == {"nonfinite", "nonfinite_step", "nonfinite_images"}
    assert written <= documented_columns()


def test_every_variable_of_ours_is_explained() -> None:
    page = (ROOT / "docs" / "environment-variables.md").read_text(encoding="utf-8")
    read = set()
    for path in (ROOT / "uvit_dia").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        read |= set(re.findall(r'environ\.get\("([A-Z_]+)"', source))
        read |= set(re.findall(r'"([A-Z_]+)" (?:not )?in os\.environ', source))
    assert "UVIT_DIA_CACHE" in read
    inherited = {"PYTHONPATH"}  # passed on to the commands of a sweep
    assert {name for name in read - inherited if f"`{name}`" not in page} == set()
