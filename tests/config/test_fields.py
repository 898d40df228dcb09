"""Keys that are newer than the first runs, groups of allowed values only, flags of all kinds."""

from dataclasses import dataclass, replace

import pytest
from ml_collections import ConfigDict

from tests.support.configs import LINEAR, changed
from uvit_dia.config.checks import make_config
from uvit_dia.config.fields import check_tree, flat_rules, key, make_group, schema_of
from uvit_dia.config.files import config_hash, flat_values, forbidden_changes, to_plain
from uvit_dia.config.overrides import apply_overrides
from uvit_dia.config.rules import integer, parse_items
from uvit_dia.config.schema import RULES, Config, TrainConfig, rule_of
from uvit_dia.system.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LaterTrainConfig(TrainConfig, prefix="train."):
    warm_restarts: int = key(integer(0, 9), "A key that a later version has", absent=0)


@dataclass(frozen=True, kw_only=True)
class LaterConfig(Config):
    train: LaterTrainConfig


LATER_RULES = dict(flat_rules(schema_of(LaterConfig)))


def later(**train: object) -> LaterConfig:
    tree = changed({f"train.{name}": value for name, value in train.items()})
    check_tree(tree, schema_of(LaterConfig), "config")
    return make_group(LaterConfig, tree)


def test_a_config_without_a_later_key_means_what_it_always_meant() -> None:
    old, new = make_config(changed()), later()
    assert new.train.warm_restarts == 0
    assert to_plain(new) == to_plain(old)
    assert config_hash(new) == config_hash(later(warm_restarts=0)) == config_hash(old)
    assert forbidden_changes(new, later(warm_restarts=0)) == []


def test_a_later_key_that_is_set_is_part_of_the_run() -> None:
    new = later(warm_restarts=3)
    assert to_plain(new)["train"]["warm_restarts"] == 3
    assert config_hash(new) != config_hash(later())
    assert forbidden_changes(later(), new) == ["train.warm_restarts: 0 -> 3"]
    assert flat_values(later())["train.warm_restarts"] == 0
    with pytest.raises(InputError, match=r"train.warm_restarts = 10; allowed is an integer from 0"):
        later(warm_restarts=10)


def test_a_flag_sets_a_later_key_of_an_old_file() -> None:
    config = ConfigDict(changed()).lock()
    apply_overrides(config, {"train.warm_restarts": "2"}, LATER_RULES.__getitem__)
    assert config.train.warm_restarts == 2
    assert config.is_locked


def test_no_group_holds_a_value_that_is_not_allowed() -> None:
    config = make_config(changed())
    for name, value in (("sampler", "dpm"), ("num_steps", 0), ("num_steps", -1), ("eta", 2.0)):
        with pytest.raises(InputError, match=rf"^sample\.{name} = {value!r}; allowed is "):
            replace(config.sample, **{name: value})  # type: ignore[arg-type]
    for name, value in (
        ("num_train_timesteps", 1),
        ("beta_schedule", "cosine"),
        ("beta_start", 0.0),
        ("beta_end", 1.0),
        ("beta_end", float("nan")),
        ("prediction_type", "eps"),
        ("loss_weighting", "snr"),
        ("min_snr_gamma", 0.0),
        ("min_snr_gamma", float("nan")),
    ):
        with pytest.raises(InputError, match=rf"^diffusion\.{name} = {value!r}; allowed is "):
            replace(LINEAR, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^model\.attention_options\.pool = 'some'; allowed is "):
        replace(config.model.attention_options, pool="some")


# ---------------------------------------------------------------- flags


@pytest.mark.parametrize(
    ("name", "text", "present", "expected"),
    [
        ("seed", "7", 0, 7),
        ("optimizer.learning_rate", "1", 0.1, 1.0),  # as the file has it, a float
        ("optimizer.learning_rate", "1", 1, 1),
        ("optimizer.learning_rate", "0.5", 1, 0.5),
        ("optimizer.eps", "1e-6", 1e-8, 1e-6),
        ("model.conv", "F", True, False),
        ("data.path", "a=b, 'c'", "", "a=b, 'c'"),
        ("data.path", "", "x", ""),
        ("optimizer.betas", "(0.5, 1)", (0.9, 0.99), (0.5, 1)),
        ("optimizer.betas", "0.5,0", (0.9, 0.99), (0.5, 0)),
        ("eval.metrics", "fid", ("kid",), ("fid",)),
        ("eval.metrics", "('fid',)", ("kid",), ("fid",)),
        ("eval.metrics", 'fid,"kid"', ("kid",), ("fid", "kid")),
        ("model.attention_options.blocks", "0,2", "all", "0,2"),
        ("model.attention_options.blocks", "0,2", (1,), (0, 2)),
        ("model.attention", "my_units.gates:Mine", "se", "my_units.gates:Mine"),
    ],
)
def test_texts_become_values_of_the_type_that_is_there(
    name: str, text: str, present: object, expected: object
) -> None:
    found = rule_of(name).parse(text, present)
    assert found == expected
    assert type(found) is type(expected)
    if isinstance(expected, tuple):
        assert list(map(type, found)) == list(map(type, expected))  # type: ignore[call-overload]


def test_items_may_be_anything() -> None:
    assert parse_items("") == parse_items("()") == ()
    assert parse_items("[True,'x', 1e3]") == (True, "x", 1000.0)


def test_every_key_says_what_it_means() -> None:
    for name, rule in RULES.items():
        assert rule.meaning and not rule.meaning.endswith("."), name
