"""A config as a user of Python has it: by name, as a file, as values."""

import copy
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any, TypeAlias

from ml_collections import ConfigDict

from uvit_dia.config.checks import make_config
from uvit_dia.config.files import run_config_file
from uvit_dia.config.flag import told_in_one_line
from uvit_dia.config.own_units import import_own_unit
from uvit_dia.config.places import config_path
from uvit_dia.config.schema import Config
from uvit_dia.system.errors import InputError

AnyConfig: TypeAlias = Config | ConfigDict | Mapping[str, Any] | str | Path


def read_any_config(config: AnyConfig, changes: Mapping[str, object] | None = None) -> Config:
    """Return the checked config that a user means.

    Args:
        config: the name of one of ours, a file, or its values in one of three forms.
        changes: values of dotted keys, such as {"train.num_steps": 100}.

    Raises:
        InputError: naming what is wrong.
    """
    if isinstance(config, str | Path):
        file = config_path(str(config), flag="config")
        with told_in_one_line(file):
            values = run_config_file(file).to_dict()
    elif isinstance(config, ConfigDict):
        values = config.to_dict()
    elif isinstance(config, Config):
        values = config.to_dict(with_absent=True)
    elif isinstance(config, Mapping):
        values = copy.deepcopy(dict(config))
    else:
        raise InputError(f"config: a {type(config).__name__}; allowed is a name, path or config")
    for key, value in (changes or {}).items():
        *groups, leaf = key.split(".")
        try:
            reduce(lambda tree, name: tree[name], groups, values)[leaf] = value
        except (KeyError, TypeError) as error:
            raise InputError(f"unknown config key {key:.80}") from error
    checked = make_config(values)
    import_own_unit(checked.model.attention)
    return checked
