"""How a config is read from JSON, compared and hashed."""

import hashlib
import json
from pathlib import Path

from ml_collections import ConfigDict

from uvit_dia.config.checks import check_config
from uvit_dia.system.errors import InputError

MAX_CONFIG_BYTES = 2**20


# What may change when a run is resumed: how long it goes on, how often it reports, and where things lie.
RESUMABLE_CHANGES = (
    "train.num_steps",
    "train.log_every_steps",
    "train.checkpoint_every_steps",
    "train.keep_checkpoints",
    "train.sample_every_steps",
    "train.eval_every_steps",
    "train.tracker",
    "data.path",
    "data.on_device",
    "sample.",
    "eval.",
)


def flatten(tree: dict, prefix: str = "") -> dict[str, object]:
    """Flatten nested dictionaries to dotted keys."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def to_plain(config: ConfigDict) -> dict:
    """Return the config as nested dictionaries of JSON's types; tuples become lists."""
    return json.loads(json.dumps(config.copy_and_resolve_references().to_dict()))


def config_hash(config: ConfigDict) -> str:
    """Return the SHA-256 of the config's canonical JSON."""
    text = json.dumps(to_plain(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_config_json(path: Path) -> ConfigDict:
    """Read the `config.json` of a run: data only, checked like any other config.

    Raises:
        InputError: if the file is missing, not JSON, or not an allowed config.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise InputError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes; that is no config")
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not JSON: {' '.join(str(error).split())[:80]}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path} does not hold a config")
    try:
        config = ConfigDict(_with_tuples(tree))
        check_config(config, str(path))
    except InputError:
        raise
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise InputError(f"{path} is not a config: {' '.join(str(error).split())[:80]}") from error
    return config.lock()


def _with_tuples(tree: object) -> object:
    """Turn JSON's lists back into the tuples that configs hold."""
    if isinstance(tree, dict):
        return {key: _with_tuples(value) for key, value in tree.items()}
    return tuple(_with_tuples(v) for v in tree) if isinstance(tree, list) else tree


def forbidden_changes(saved: ConfigDict, wanted: ConfigDict) -> list[str]:
    """List what differs between a run's config and the one it is resumed with, and may not.

    The number of steps may change only under a constant learning rate: a cosine would bend at another place.

    Returns:
        Lines such as "train.batch_size: 64 -> 32".
    """
    old, new = flatten(to_plain(saved)), flatten(to_plain(wanted))
    allowed: tuple[str, ...] = RESUMABLE_CHANGES
    if wanted.optimizer.lr_schedule != "constant":
        allowed = tuple(key for key in allowed if key != "train.num_steps")
    return [
        f"{key}: {old[key]!r} -> {new[key]!r}"
        for key in old
        if old[key] != new[key] and not key.startswith(allowed)
    ]
