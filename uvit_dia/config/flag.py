"""The flag `--config FILE` of a command: its overrides, its help, and the config that it means."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

from absl import flags
from ml_collections import ConfigDict

from uvit_dia.config.checks import make_config
from uvit_dia.config.document import QUICKSTART, key_help
from uvit_dia.config.fields import Group, shown
from uvit_dia.config.files import flatten, run_config_file
from uvit_dia.config.overrides import RuleOf, apply_overrides, split_overrides
from uvit_dia.config.own_units import import_own_unit
from uvit_dia.config.places import config_names, config_path
from uvit_dia.config.schema import Config, rule_of
from uvit_dia.system.errors import InputError


class _ConfigFlag(flags.Flag):
    """`--config FILE`, and what the command line overrides in it.

    Args:
        rule_of: finds the rule of a dotted key that may be overridden.
        group: whose keys the help describes; None for none.
        folder: below this project's configs, where names are looked for.

    Attributes:
        overrides: texts by dotted key, known once the command line is parsed.
    """

    def __init__(self, rule_of: RuleOf, group: type[Group] | None, folder: str) -> None:
        super().__init__(
            parser=flags.ArgumentParser(),
            serializer=flags.ArgumentSerializer(),
            name="config",
            default=None,
            help_string="Config file, or the name of one of ours "
            f"({', '.join(config_names(folder))}); --config.KEY=VALUE changes a key of it.",
        )
        self.rule_of = rule_of
        self.group = group
        self.folder = folder
        self.overrides: dict[str, str] = {}


def define_config_flag(
    values: flags.FlagValues,
    rule_of: RuleOf = rule_of,
    group: type[Group] | None = Config,
    folder: str = "",
) -> None:
    """Define `--config FILE` and its overrides `--config.group.key=value`.

    Args:
        values: where the flag is defined.
        rule_of: finds the rule of a dotted key; that of a run's config by default.
        group: whose keys the help describes; None for none.
        folder: below this project's configs, where names are looked for; "sweeps" for sweeps.
    """
    flags.DEFINE_flag(_ConfigFlag(rule_of, group, folder), values)


def _config_flag(values: flags.FlagValues) -> _ConfigFlag:
    flag = values["config"]
    assert isinstance(flag, _ConfigFlag)
    return flag


def take_overrides(values: flags.FlagValues, words: list[str]) -> list[str]:
    """Take the overrides of the config out of a command line; return the other words.

    Raises:
        InputError: naming the override that is malformed, of an unknown key, or without a value.
    """
    if "config" not in values:
        return words
    flag = _config_flag(values)
    words, flag.overrides = split_overrides(words, flag.rule_of)
    return words


def config_help(values: flags.FlagValues, argv: Sequence[str]) -> str:
    """Return the help on the keys of a config, with the values of the config that argv names.

    Without one the values of the quickstart are shown. Flags without a config give an empty text.
    """
    if "config" not in values or (group := _config_flag(values).group) is None:
        return ""
    file = os.path.relpath(QUICKSTART)
    for word, after in pairwise([*argv, ""]):
        name, equals, value = word.partition("=")
        if name in ("--config", "-config"):
            file = value if equals else after
    try:
        file = config_path(file, _config_flag(values).folder)
        with told_in_one_line(file):
            examples = flatten(run_config_file(file).to_dict())
        source = f"the values are those of {file}"
    except InputError as error:
        examples, source = {}, f"no values are shown ({error})"
    return f"\nKeys of the config, each set by its file; {source}:\n{key_help(group, examples)}"


def config_file(values: flags.FlagValues) -> str:
    """Return the file of a parsed command line's config, without the argument after its colon."""
    flag = _config_flag(values)
    return config_path(str(flag.value), flag.folder).partition(":")[0]


def overridden_keys(values: flags.FlagValues) -> list[str]:
    """Return the keys of the config that a parsed command line changes."""
    return list(_config_flag(values).overrides)


def load_config(values: flags.FlagValues) -> ConfigDict:
    """Run the config file of a parsed command line; return what it makes, changed by the overrides.

    Raises:
        InputError: if --config is missing or its file cannot be run.
    """
    flag = _config_flag(values)
    if flag.value is None:
        raise InputError("--config is missing; for example --config configs/digits_uvit_dia.py")
    file = config_path(flag.value, flag.folder)
    with told_in_one_line(file):
        config = run_config_file(file)
        apply_overrides(config, flag.overrides, flag.rule_of)
        config.to_dict()  # computes the values that refer to others
    return config.lock()


@contextmanager
def told_in_one_line(file: str) -> Iterator[None]:
    """Turn whatever a config file raises, which is code, into an InputError that names the file."""
    try:
        yield
    except InputError:
        raise
    except SyntaxError as error:
        place = error.filename or file  # the config, or a module that it imports
        line = "" if error.lineno is None else f", line {error.lineno}"
        raise InputError(f"--config: {place}{line}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        text = shown(" ".join(str(error).split()), str, 100)
        if not isinstance(error, OSError):
            text = f"{type(error).__name__}: {text}" if text else type(error).__name__
        raise InputError(f"--config: cannot use {file or 'an empty path'}: {text}") from error


def read_config(values: flags.FlagValues) -> Config:
    """Return the checked config of a parsed command line; a unit of the user's own is imported.

    Raises:
        InputError: if --config is missing, its file cannot be run, or its content is not allowed.
    """
    config = make_config(load_config(values).to_dict())
    import_own_unit(config.model.attention)
    return config
