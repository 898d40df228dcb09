"""Keys of a config and the values that each may hold; all else is refused in one line."""

import pytest

from tests.support.configs import changed, refusal
from uvit_dia.config.checks import make_config
from uvit_dia.config.files import config_hash, flatten, to_plain
from uvit_dia.config.rules import REQUIRED
from uvit_dia.config.schema import RULES

KEYS = sorted(RULES)
NEWER = [key for key in KEYS if RULES[key].absent is not REQUIRED]
REQUIRED_KEYS = [key for key in KEYS if RULES[key].absent is REQUIRED]
GROUPS = ("model", "diffusion", "data", "optimizer", "ema", "train", "sample", "eval")


# ---------------------------------------------------------------- keys


def test_the_config_itself_is_accepted() -> None:
    make_config(changed())


@pytest.mark.parametrize("key", REQUIRED_KEYS)
def test_every_key_must_be_there(key: str) -> None:
    assert f"key {key} is missing" in refusal(changed({key: ...}))


@pytest.mark.parametrize("key", NEWER)
def test_a_key_that_older_configs_lack_means_what_they_meant(key: str) -> None:
    """Saying it changes neither the config nor its hash, so that such a run can be resumed."""
    without = make_config(changed({key: ...}))
    said = make_config(changed({key: RULES[key].absent}))
    assert said == without
    assert config_hash(said) == config_hash(without)
    assert key not in flatten(to_plain(said))


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_must_be_there_and_be_a_group(group: str) -> None:
    assert f"key {group} is missing" in refusal(changed({group: ...}))
    for value in (3, "x", None, (1,)):
        assert f"{group} must be a group of keys" in refusal(changed({group: value}))


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("model.embed_dmi", "embed_dim"),
        ("train.batchsize", "batch_size"),
        ("optimizer.lr", ""),
        ("modle", "model"),
        ("model.attention_options.reductions", "reduction"),
        ("ema.halflife", "halflife_images"),
        ("qqq", ""),
        ("x" * 1000, ""),
    ],
)
def test_unknown_keys_are_named_with_the_nearest_one(key: str, meant: str) -> None:
    message = refusal(changed({key: 1}))
    assert f"unknown key {key[:50]}" in message
    assert message.endswith(f"; did you mean {meant}?") if meant else "mean" not in message


# ---------------------------------------------------------------- values

INFINITE = float("1e400")
NAN = float("nan")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        # integers
        ("seed", True),
        ("seed", 1.0),
        ("seed", "1"),
        ("seed", None),
        ("seed", -1),
        ("seed", 2**31),
        ("seed", (1,)),
        ("seed", NAN),
        ("seed", INFINITE),
        ("seed", {"x": 1}),
        ("model.embed_dim", 0),
        ("model.embed_dim", 10**12),
        ("model.depth", False),
        ("model.in_chans", 3.0),
        ("train.batch_size", 0),
        ("train.batch_size", -32),
        ("train.num_steps", 0),
        ("train.num_steps", 2**32),
        ("train.num_steps", 10**100),
        ("train.keep_checkpoints", 1),
        ("train.log_every_steps", 0),
        ("sample.grid_images", 0),
        # numbers
        ("optimizer.learning_rate", NAN),
        ("optimizer.learning_rate", INFINITE),
        ("optimizer.learning_rate", -INFINITE),
        ("optimizer.learning_rate", 0),
        ("optimizer.learning_rate", -1e-4),
        ("optimizer.learning_rate", True),
        ("optimizer.learning_rate", "2e-4"),
        ("optimizer.learning_rate", None),
        ("optimizer.learning_rate", 10**400),
        ("optimizer.weight_decay", -0.1),
        ("ema.decay", 1.0),
        ("ema.decay", NAN),
        ("diffusion.beta_start", 0.0),
        ("diffusion.beta_end", 1.0),
        ("sample.eta", 1.5),
        ("model.mlp_ratio", 0),
        # truth values
        ("model.conv", 1),
        ("model.conv", "True"),
        ("model.conv", None),
        ("train.compile", 0),
        # choices
        ("model.attention", "sa"),
        ("model.attention", True),
        ("model.attention", ("dia_lstm",)),
        ("model.attention", None),
        ("train.mixed_precision", "fp16"),
        ("train.tracker", "mlflow"),
        ("sample.sampler", "ddpmm"),
        ("data.name", "imagenet"),
        ("data.name", ""),
        ("data.background", "red"),
        ("data.background", "#12345"),
        ("data.skip_unreadable", "yes"),
        # texts
        ("data.path", None),
        ("data.path", 3),
        ("data.path", "x" * 5000),
        ("eval.weights", ("x",)),
        # tuples
        ("optimizer.betas", 0.9),
        ("optimizer.betas", (0.9,)),
        ("optimizer.betas", (0.9, 0.99, 0.999)),
        ("optimizer.betas", (0.9, 1.0)),
        ("optimizer.betas", (-0.1, 0.9)),
        ("optimizer.betas", (NAN, 0.9)),
        ("optimizer.betas", (True, 0.9)),
        ("optimizer.betas", "0.9"),
        ("eval.metrics", ()),
        ("eval.metrics", "fid"),
        ("eval.metrics", ("fid", "is")),
        ("eval.metrics", (1,)),
        ("eval.metrics", None),
        # blocks
        ("model.attention_options.blocks", "0-3"),
        ("model.attention_options.blocks", ""),
        ("model.attention_options.blocks", ()),
        ("model.attention_options.blocks", (-1,)),
        ("model.attention_options.blocks", (True,)),
        ("model.attention_options.blocks", (0.5,)),
        ("model.attention_options.blocks", (None,)),
        ("model.attention_options.blocks", 3),
        ("model.attention_options.blocks", None),
        ("model.attention_options.blocks", {"a": 1}),
    ],
)
def test_wrong_values_are_refused(key: str, value: object) -> None:
    message = refusal(changed({key: value}))
    assert f"{key} = " in message
    assert "; allowed is " in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 2**31 - 1),
        ("model.mlp_ratio", 4),
        ("optimizer.learning_rate", 1),
        ("optimizer.betas", [0, 0.999]),
        ("train.num_steps", 2**32 - 1),
        ("model.num_classes", -1),
        ("eval.metrics", ["fid"]),
        ("model.attention_options.blocks", "0, 2"),
        ("model.attention_options.blocks", (4, 0)),
        ("train.sample_every_steps", 0),
    ],
)
def test_values_at_the_limits_are_accepted(key: str, value: object) -> None:
    make_config(changed({key: value}))
