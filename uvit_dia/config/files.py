"""How a config is read from a Python file and from JSON, written, compared and hashed."""

import hashlib
import importlib.machinery
import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from ml_collections import ConfigDict

from uvit_dia.config.checks import make_config
from uvit_dia.config.places import own_configs
from uvit_dia.config.schema import Config
from uvit_dia.system.errors import InputError
from uvit_dia.system.mounts import again_if_stale

MAX_CONFIG_BYTES = 2**20


# What may change when a run is resumed: its length, how often it reports, and where things lie.
RESUMABLE_CHANGES = (
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
    "sample.",
    "eval.",
)


# What may be "auto", and then follows the device.
AUTO_KEYS = ("train.mixed_precision", "train.compile")


class HasValues(Protocol):
    """A `Config`, one of its groups, or a ConfigDict."""

    def to_dict(self) -> dict[str, Any]:
        """Return the values as nested dictionaries."""


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Flatten nested dictionaries to dotted keys."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def to_plain(config: HasValues) -> dict[str, Any]:
    """Return what `config.json` holds: nested dictionaries of JSON's types; tuples become lists.

    Keys that are newer than the first runs stand there only where they are set to something new.
    """
    return json.loads(json.dumps(config.to_dict()))


def config_hash(config: HasValues) -> str:
    """Return the SHA-256 of the config's canonical JSON."""
    text = json.dumps(to_plain(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


# ---------------------------------------------------------------- reading


def run_config_file(path: str) -> ConfigDict:
    """Run `get_config()` of a Python file, which is code that the user trusts.

    Args:
        path: FILE, or FILE:ARGUMENT for `get_config(ARGUMENT)`.

    Raises:
        InputError: if it returns no ConfigDict. Whatever the file's own code raises passes through.
    """
    file, colon, argument = path.partition(":")
    with own_configs(Path(file)):
        module = _run_module("config_file", file)
        config = module.get_config(*([argument] if colon else []))
    if not isinstance(config, ConfigDict):
        raise InputError(
            f"--config: get_config() of {path} returned {type(config).__name__}, not a ConfigDict"
        )
    return config


def _run_module(name: str, file: str) -> ModuleType:
    loader = importlib.machinery.SourceFileLoader(name, file)
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None  # a loader was given
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses of the file look for it
    loader.exec_module(module)
    return module


def read_config_json(path: Path) -> Config:
    """Read the `config.json` of a run: data only, checked like any other config.

    Raises:
        InputError: if the file is missing, not JSON, or not an allowed config.
    """
    try:
        if again_if_stale(path.stat)().st_size > MAX_CONFIG_BYTES:
            raise InputError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes; that is no config")
        tree = json.loads(again_if_stale(path.read_text)(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not JSON: {' '.join(str(error).split())[:80]}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path} does not hold a config")
    try:
        return make_config(tree, str(path))
    except RecursionError as error:  # of lists nested deeper than Python can show
        raise InputError(f"{path} is not a config: {' '.join(str(error).split())[:80]}") from error


# ---------------------------------------------------------------- comparing


def forbidden_changes(saved: Config, wanted: Config) -> list[str]:
    """List what differs between a run's config and the one it is resumed with, and may not.

    The number of steps may change only under a constant learning rate: a cosine would bend
    elsewhere. What "auto" stands for is known only where it is computed: a run records it, and
    is compared with that when it is resumed.

    Returns:
        Lines such as "train.batch_size: 64 -> 32".
    """
    old, new = flat_values(saved), flat_values(wanted)
    allowed: tuple[str, ...] = RESUMABLE_CHANGES
    if wanted.optimizer.lr_schedule != "constant":
        allowed = tuple(key for key in allowed if key != "train.num_steps")
    return [
        f"{key}: {old[key]!r} -> {new[key]!r}"
        for key in old
        if old[key] != new[key]
        and not key.startswith(allowed)
        and not (key in AUTO_KEYS and "auto" in (old[key], new[key]))
    ]


def flat_values(config: Config) -> dict[str, object]:
    """Return every key's value by its dotted name, in JSON's types."""
    return flatten(json.loads(json.dumps(config.to_dict(with_absent=True))))
