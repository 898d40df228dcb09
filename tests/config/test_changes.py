"""What may change in the config of a run that is resumed."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import pytest

from tests.support.configs import changed, with_value
from uvit_dia.config.checks import make_config
from uvit_dia.config.files import forbidden_changes
from uvit_dia.config.schema import RULES

KEYS = sorted(RULES)
ANOTHER: dict[type, Callable[[Any], object]] = {
    bool: lambda v: not v,
    int: lambda v: v + 1,
    float: lambda v: v / 3 + 0.001,
    str: lambda v: v + "x",
    tuple: lambda v: v[:1],
}
ALLOWED = {
    "train.num_steps",
    "train.log_every_steps",
    "train.checkpoint_every_steps",
    "train.keep_checkpoints",
    "train.sample_every_steps",
    "train.eval_every_steps",
    "train.held_out_every_steps",
    "train.tracker",
    "data.path",
    "data.vae",
    "data.on_device",
    *(key for key in KEYS if key.startswith(("sample.", "eval."))),
}


@pytest.mark.parametrize("key", KEYS)
def test_changes_of_a_resumed_run(key: str) -> None:
    saved = make_config(changed({"optimizer.lr_schedule": "constant"}))
    old: object = reduce(getattr, key.split("."), saved)
    new = ANOTHER[type(old)](old)
    found = forbidden_changes(saved, with_value(saved, key, new))
    if key in ALLOWED:
        assert found == []
    else:
        value = list(new) if isinstance(new, tuple) else new
        before = list(old) if isinstance(old, tuple) else old
        assert found == [f"{key}: {before!r} -> {value!r}"]


def test_under_a_cosine_the_number_of_steps_may_not_change() -> None:
    saved = make_config(changed())
    wanted = make_config(changed({"train.num_steps": 9000, "train.log_every_steps": 7}))
    assert saved.optimizer.lr_schedule == "cosine"
    assert forbidden_changes(saved, wanted) == [f"train.num_steps: {saved.train.num_steps} -> 9000"]


def test_all_forbidden_changes_are_listed() -> None:
    changes = {"train.batch_size": 32, "seed": 1, "model.attention_options.reduction": 8}
    wanted = make_config(changed(changes))
    assert sorted(forbidden_changes(make_config(changed()), wanted)) == [
        "model.attention_options.reduction: 4 -> 8",
        "seed: 0 -> 1",
        "train.batch_size: 64 -> 32",
    ]
