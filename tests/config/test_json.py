"""Configs as JSON: what is written is read back, and what is hostile is refused."""

import importlib
import json
import re
from pathlib import Path

import pytest

from tests.support.configs import changed, with_value
from uvit_dia.config.checks import make_config
from uvit_dia.config.files import (
    MAX_CONFIG_BYTES,
    config_hash,
    forbidden_changes,
    read_config_json,
    to_plain,
)
from uvit_dia.config.schema import RULES
from uvit_dia.system.errors import InputError

KEYS = sorted(RULES)
ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(p.stem for p in (ROOT / "configs").glob("*.py") if p.stem != "__init__")


@pytest.mark.parametrize("name", CONFIGS)
def test_json_round_trip(name: str, tmp_path: Path) -> None:
    config = make_config(importlib.import_module(f"configs.{name}").get_config().to_dict())
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_plain(config)))
    found = read_config_json(path)
    assert found == config
    assert isinstance(found.optimizer.betas, tuple)
    assert config_hash(found) == config_hash(config)
    assert forbidden_changes(found, config) == []


def test_config_hash_follows_every_value_and_no_order() -> None:
    config = make_config(changed())
    backwards = make_config(dict(reversed(changed().items())))
    assert config_hash(backwards) == config_hash(config)
    hashes = {config_hash(with_value(config, key, "another")) for key in KEYS}
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
    return json.dumps({**changed(), "seed": "@"}).replace('"@"', text)


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
    tree = changed()
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


def test_a_config_read_from_json_cannot_be_changed(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(changed()))
    config = read_config_json(path)
    for key in ("num_steps", "new_key"):
        with pytest.raises(AttributeError):
            setattr(config.train, key, 1)
