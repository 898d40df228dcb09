"""Several commands in one Python process, as in a notebook: each works as it does alone."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.support.forked import Child
from tests.support.runs import ROOT, before_draw, result, train, train_arguments

pytestmark = pytest.mark.faults

BF16 = {"train.mixed_precision": "bf16"}


def _like_a_notebook(top: str) -> None:
    """Train in two precisions, stop, resume, sample and evaluate, all in this process."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    import torch

    import eval_fid
    import sample
    import train as script
    from uvit_dia.system.errors import StoppedEarly
    from uvit_dia.training import step as training_step

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def train_here(name: str, changes: dict[str, object]) -> None:
        script.main(["train.py", *train_arguments(Path(top) / name, changes)])

    train_here("float32", {})
    train_here("bf16", dict(BF16))
    draw = training_step.draw_batch
    before_draw(lambda step: signal.raise_signal(signal.SIGTERM) if step == 5 else None)
    try:
        train_here("stopped", {})
        raise AssertionError("the signal was not heard")
    except StoppedEarly as error:
        kept = error  # with its traceback, which holds on to all that the training made
    training_step.draw_batch = draw
    train_here("stopped", {})  # the folder is free again
    del kept
    paths = ["--checkpoint", f"{top}/bf16", "--num_steps", "2"]
    sample.main(["sample.py", *paths, "--num_images", "4", "--output", f"{top}/grid.png"])
    eval_fid.main(["eval_fid.py", *paths, "--num_images", "8", "--allow_few_images"])
    facts = {
        "handlers": all(signal.getsignal(n) == handler for n, handler in handlers.items()),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "threads": torch.get_num_threads(),
    }
    (Path(top) / "facts.json").write_text(json.dumps(facts))


def test_one_after_the_other_they_do_what_they_do_alone(tmp_path: Path) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    together.mkdir()
    ended = Child(_like_a_notebook, str(together)).wait()
    assert ended.exit_code == 0, ended.stderr
    for name, changes in (("float32", {}), ("bf16", BF16), ("stopped", {})):
        run = train(alone / name, changes)
        assert run.exit_code == 0, run.stderr
        assert result(together / name) == result(alone / name), name
    assert (together / "grid.png").is_file()
    assert json.loads((together / "bf16" / "eval.jsonl").read_text())["num_images"] == 8
    facts = json.loads((together / "facts.json").read_text())
    assert facts == {"handlers": True, "tf32": False, "threads": 1}


def _train_after_a_refusal(top: str) -> None:
    """Correct a mistake and go on, without restarting."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    import train as script
    from uvit_dia.system.errors import InputError

    wrong = [
        ({"MASTER_ADDR": "", "WORLD_SIZE": "2", "RANK": "0"}, {}),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, {}),
        ({"CXX": "/nowhere/g++"}, {"train.compile": True}),
        ({}, {"train.batch_size": 2000}),
    ]
    for environment, changes in wrong:
        before = dict(os.environ)
        os.environ.update(environment)
        try:
            script.main(["train.py", *train_arguments(Path(top) / "run", changes)])
            raise AssertionError(f"not refused: {environment} {changes}")
        except InputError:
            os.environ.clear()
            os.environ.update(before)
    shutil.rmtree(Path(top) / "run", ignore_errors=True)
    script.main(["train.py", *train_arguments(Path(top) / "run")])


def test_a_refusal_leaves_nothing_behind_in_the_process(tmp_path: Path) -> None:
    ended = Child(_train_after_a_refusal, str(tmp_path)).wait()
    assert ended.exit_code == 0, ended.stderr
    assert train(tmp_path / "alone").exit_code == 0
    assert result(tmp_path / "run") == result(tmp_path / "alone")
