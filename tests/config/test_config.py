"""Configs: every file of ours is complete and builds; everything wrong is named in one line."""

import copy
import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ml_collections import ConfigDict

from configs.digits_uvit_dia import get_config
from uvit_dia.config.checks import check_config
from uvit_dia.config.files import (
    MAX_CONFIG_BYTES,
    config_hash,
    flatten,
    forbidden_changes,
    read_config_json,
    to_plain,
)
from uvit_dia.config.schema import SCHEMA, parse_blocks
from uvit_dia.system.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(p.stem for p in (ROOT / "configs").glob("*.py") if p.stem != "__init__")
KEYS = sorted(flatten(SCHEMA))


def changed(changes: dict[str, object]) -> ConfigDict:
    """Return the quickstart's config with dotted keys changed to anything, or removed where they are `...`."""
    tree = get_config().to_dict()
    for key, value in changes.items():
        *groups, leaf = key.split(".")
        group = tree
        for name in groups:
            group = group[name]
        if value is ...:
            del group[leaf]
        else:
            group[leaf] = value
    return ConfigDict(tree)


def refusal(config: ConfigDict) -> str:
    """Return why a config is refused."""
    with pytest.raises(InputError) as caught:
        check_config(config)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) <= 200
    return message


# ---------------------------------------------------------------- our files


@pytest.mark.parametrize("name", CONFIGS)
def test_config_files_are_complete_and_build(name: str) -> None:
    from uvit_dia.models.build import make_model
    from uvit_dia.sampling.schedulers import make_sampler_settings, make_schedule, make_scheduler

    module = importlib.import_module(f"configs.{name}")
    config = module.get_config()
    check_config(config, name)
    assert sorted(flatten(to_plain(config))) == KEYS
    assert config.to_dict() == module.get_config().to_dict()
    make_scheduler(make_sampler_settings(config), make_schedule(config))
    with torch.device("meta"):
        model = make_model(config)
    weights = sum(p.numel() for p in model.parameters())
    claimed = re.search(r"([\d,]+) weights", module.__doc__ or "")
    if claimed is not None:
        assert weights == int(claimed[1].replace(",", ""))
    assert f"configs/{name}.py" in (module.__doc__ or "")  # the command that runs it


def test_what_only_the_model_refuses_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from uvit_dia.models import build

    def refuse(**arguments: object) -> None:
        raise ValueError(f"embed_dim must be\n even, got {arguments['embed_dim']}" + "." * 300)

    monkeypatch.setattr(build, "UViT", refuse)
    with pytest.raises(InputError, match=r"^model: embed_dim must be even, got 64\.+$") as caught:
        build.make_model(changed({}))
    assert len(str(caught.value)) <= 160


def test_there_are_config_files() -> None:
    assert {"digits_uvit_dia", "cifar10_uvit", "cifar10_uvit_dia"} <= set(CONFIGS)


def test_the_baseline_differs_from_its_variants_in_the_unit_alone() -> None:
    def facts(name: str) -> dict[str, object]:
        return flatten(to_plain(importlib.import_module(f"configs.{name}").get_config()))

    for plain, variant in (
        ("cifar10_uvit", "cifar10_uvit_dia"),
        ("cifar10_uvit", "cifar10_uvit_dia_light"),
        ("cifar10_small_uvit", "cifar10_small_uvit_dia"),
    ):
        old, new = facts(plain), facts(variant)
        assert {key for key in old if old[key] != new[key]} == {"model.attention"}
        assert old["model.attention"] == "none"


# ---------------------------------------------------------------- keys


def test_the_config_itself_is_accepted() -> None:
    check_config(changed({}))


@pytest.mark.parametrize("key", KEYS)
def test_every_key_must_be_there(key: str) -> None:
    assert f"key {key} is missing" in refusal(changed({key: ...}))


@pytest.mark.parametrize("group", [name for name, rule in SCHEMA.items() if isinstance(rule, dict)])
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
        ("train.tracker", "wandb"),
        ("sample.sampler", "ddpmm"),
        ("data.name", "imagenet"),
        ("data.name", ""),
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
    check_config(changed({key: value}))


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"model.patch_size": 3}, ("model.img_size = 8", "model.patch_size = 3")),
        ({"model.depth": 5}, ("model.depth = 5", "even")),
        ({"model.num_heads": 5}, ("model.embed_dim = 64", "model.num_heads = 5")),
        ({"model.mlp_ratio": 0.001}, ("model.mlp_ratio = 0.001", "model.embed_dim = 64")),
        (
            {"model.attention_options.reduction": 5},
            ("model.attention_options.reduction = 5", "model.embed_dim = 64"),
        ),
        (
            {"model.attention": "spa", "model.attention_options.reduction": 5},
            ("model.attention_options.reduction = 5", "model.embed_dim = 64"),
        ),
        (
            {"model.attention": "sge", "model.attention_options.groups": 5},
            ("model.attention_options.groups = 5", "model.embed_dim = 64"),
        ),
        (
            {"model.attention": "se", "model.attention_options.num_cells": 2},
            ("num_cells belong to lstm, dia_lstm, dia_lstm_light", "'se'"),
        ),
        (
            {"model.attention": "eca", "model.attention_options.activation": "tanh"},
            ("activation and num_cells", "'eca'"),
        ),
        (
            {"model.attention_options.activation": "relu"},
            ("gate_init = 'identity'", "sigmoid or tanh"),
        ),
        (
            {
                "model.attention": "srm",
                "model.attention_options.gate_init": "paper",
                "train.gradient_checkpointing": True,
            },
            ("train.gradient_checkpointing = True", "'srm'", "allowed is False"),
        ),
        ({"model.attention_options.blocks": "0,5"}, ("block 5", "depth = 4", "0 to 4")),
        ({"model.num_classes": 10}, ("model.num_classes = 10", "-1")),
        (
            {"diffusion.beta_schedule": "linear", "diffusion.beta_end": 0.5},
            ("beta_end = 0.5", "num_train_timesteps = 1000", "lost to float32 from step"),
        ),
        (
            {"diffusion.beta_schedule": "scaled_linear", "diffusion.num_train_timesteps": 50_000},
            ("beta_end = 0.02", "num_train_timesteps = 50000", "scaled_linear"),
        ),
        ({"diffusion.beta_start": 0.5}, ("beta_start = 0.5", "beta_end = 0.02")),
        (
            {"train.accumulation_steps": 3},
            ("train.batch_size = 64", "train.accumulation_steps = 3"),
        ),
        ({"ema.halflife_images": 1000}, ("ema.decay = 0.999", "ema.halflife_images = 1000")),
        ({"ema.decay": 0.0}, ("ema.decay = 0.0", "ema.halflife_images = 0")),
        ({"data.name": "folder"}, ("data.path", "'folder'")),
        ({"data.name": "parquet"}, ("data.path", "'parquet'")),
    ],
)
def test_values_must_fit_each_other(changes: dict[str, object], parts: tuple[str, ...]) -> None:
    message = refusal(changed(changes))
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    "changes",
    [
        {"model.attention": "none", "model.attention_options.reduction": 5},
        {"model.attention": "lstm", "model.attention_options.reduction": 5},
        {"model.attention": "eca", "model.attention_options.reduction": 5},
        {"model.attention": "se", "model.attention_options.groups": 5},
        {"model.residual": False, "model.layer_norm": False, "model.skip": False},
        {
            "model.attention_options.activation": "relu",
            "model.attention_options.gate_init": "paper",
        },
        {"ema.decay": 0.0, "ema.halflife_images": 1000},
        {"train.accumulation_steps": 4},
        {"model.mlp_ratio": 1 / 64},
        {"diffusion.beta_schedule": "linear", "diffusion.beta_end": 0.16},  # alpha-bar of 1e-37
        {"diffusion.beta_schedule": "squaredcos_cap_v2", "diffusion.beta_end": 0.999},
        {"data.name": "folder", "data.path": "somewhere"},
    ],
)
def test_what_fits_is_accepted(changes: dict[str, object]) -> None:
    check_config(changed(changes))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("all", "all"),
        ("3", [3]),
        ("0,1, 2", [0, 1, 2]),
        ("[2, 0]", [0, 2]),
        ("(1,)", [1]),
        ((3, 1, 1), [1, 3]),
        ([0], [0]),
    ],
)
def test_blocks_are_read_in_any_form(value: object, expected: object) -> None:
    assert parse_blocks(value) == expected


# ---------------------------------------------------------------- JSON


@pytest.mark.parametrize("name", CONFIGS)
def test_json_round_trip(name: str, tmp_path: Path) -> None:
    config = importlib.import_module(f"configs.{name}").get_config()
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_plain(config)))
    found = read_config_json(path)
    assert found.to_dict() == config.to_dict()
    assert isinstance(found.optimizer.betas, tuple)
    assert found.is_locked
    assert config_hash(found) == config_hash(config)
    assert forbidden_changes(found, config) == []


def test_config_hash_follows_every_value_and_no_order() -> None:
    config = get_config()
    backwards = ConfigDict(dict(reversed(config.to_dict().items())))
    assert config_hash(backwards) == config_hash(config)
    hashes = {config_hash(changed({key: "another"})) for key in KEYS}
    assert len(hashes | {config_hash(config)}) == len(KEYS) + 1


def json_refusal(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        read_config_json(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def with_seed(text: str) -> str:
    """Return the JSON of a config with any text in the place of its seed."""
    return json.dumps({**to_plain(get_config()), "seed": "@"}).replace('"@"', text)


@pytest.mark.parametrize("depth", [100, 400, 500, 700, 900, 2000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_deeply_nested_json_is_refused(
    tmp_path: Path, opening: str, closing: str, depth: int
) -> None:
    """Also where Python's JSON reader gets through, and later recursions would not."""
    nested = opening * depth + "1" + closing * depth
    json_refusal(tmp_path / "config.json", nested)
    json_refusal(tmp_path / "config.json", with_seed(nested))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        ("[1]", "does not hold a config"),
        ('"text"', "does not hold a config"),
        ("null", "does not hold a config"),
        ("{}", "key seed is missing"),
        (with_seed("1e400"), "seed = inf"),
        (with_seed("-Infinity"), "seed = -inf"),
        (with_seed("NaN"), "seed = nan"),
        (with_seed("true"), "seed = True"),
        (with_seed("null"), "seed = None"),
        (with_seed("\"__import__('os').getpid()\""), "seed = "),
        (with_seed("9" * 4000), "seed = 9999"),
        (with_seed("9" * 5000), "is not JSON"),
        (with_seed("0")[:-1] + ', "seed": -5}', "seed = -5"),  # a key twice: the last one counts
    ],
)
def test_hostile_json_is_refused(tmp_path: Path, text: str | bytes, part: str) -> None:
    assert part in json_refusal(tmp_path / "config.json", text)


@pytest.mark.parametrize(
    "key", ["__class__", "__init__", "items", "lock", "_fields", "a.b", "model.depth", "", "é"]
)
@pytest.mark.parametrize("in_group", [False, True])
def test_hostile_keys_are_refused(tmp_path: Path, key: str, in_group: bool) -> None:
    tree = to_plain(get_config())
    (tree["model"] if in_group else tree)[key] = {"x": 1}
    json_refusal(tmp_path / "config.json", json.dumps(tree))


def test_a_huge_file_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(MAX_CONFIG_BYTES + 1)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr(Path, "read_text", never)
    with pytest.raises(InputError, match=rf"{re.escape(str(path))} is larger than"):
        read_config_json(path)


def test_missing_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.json", tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match=rf"cannot read {re.escape(str(path))}: "):
            read_config_json(path)


def test_a_config_read_from_json_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_plain(get_config())))
    with pytest.raises(AttributeError):
        read_config_json(path).train.new_key = 1


# ---------------------------------------------------------------- what a resumed run may change

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
    "train.tracker",
    "data.path",
    "data.on_device",
    *(key for key in KEYS if key.startswith(("sample.", "eval."))),
}


@pytest.mark.parametrize("key", KEYS)
def test_changes_of_a_resumed_run(key: str) -> None:
    saved = changed({"optimizer.lr_schedule": "constant"})
    old = saved
    for name in key.split("."):
        old = old[name]
    new = ANOTHER[type(old)](old)
    found = forbidden_changes(saved, changed({"optimizer.lr_schedule": "constant", key: new}))
    if key in ALLOWED:
        assert found == []
    else:
        value = list(new) if isinstance(new, tuple) else new
        before = list(old) if isinstance(old, tuple) else old
        assert found == [f"{key}: {before!r} -> {value!r}"]


def test_under_a_cosine_the_number_of_steps_may_not_change() -> None:
    saved, wanted = changed({}), changed({"train.num_steps": 9000, "train.log_every_steps": 7})
    assert saved.optimizer.lr_schedule == "cosine"
    assert forbidden_changes(saved, wanted) == [f"train.num_steps: {saved.train.num_steps} -> 9000"]


def test_all_forbidden_changes_are_listed() -> None:
    wanted = changed({"train.batch_size": 32, "seed": 1, "model.attention_options.reduction": 8})
    assert sorted(forbidden_changes(changed({}), wanted)) == [
        "model.attention_options.reduction: 4 -> 8",
        "seed: 0 -> 1",
        "train.batch_size: 64 -> 32",
    ]


def test_checking_changes_nothing() -> None:
    config = get_config()
    before = copy.deepcopy(config.to_dict())
    check_config(config)
    to_plain(config)
    config_hash(config)
    assert config.to_dict() == before
