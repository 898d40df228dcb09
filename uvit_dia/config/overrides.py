"""Overrides of a config on a command line: `--config.KEY=VALUE`, `--config.KEY`, `--noconfig.KEY`.

The rule of a key (`schema.py`) says what a text means and whether the flag may stand without one.
"""

import re
from collections.abc import Callable, Iterable, Mapping

from ml_collections import ConfigDict

from uvit_dia.config.fields import shown
from uvit_dia.config.rules import Rule
from uvit_dia.system.errors import InputError

RuleOf = Callable[[str], Rule]  # the rule of a dotted key; InputError for an unknown one
OVERRIDE = re.compile(r"--?(no)?config\.([^=]*)(?:=(.*))?", re.DOTALL)
KEY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def split_overrides(words: Iterable[str], rule_of: RuleOf) -> tuple[list[str], dict[str, str]]:
    """Take the overrides out of a command line.

    Args:
        words: the command line.
        rule_of: finds the rule of a dotted key.

    Returns:
        The other words, and the texts of the overrides by dotted key. The last one of a key counts.

    Raises:
        InputError: for an unknown key, a missing value, or an override before its --config.
    """
    others: list[str] = []
    overrides: dict[str, str] = {}
    remaining = iter(words)
    for word in remaining:
        if word == "--":
            others += [word, *remaining]
            break
        match = OVERRIDE.fullmatch(word)
        if match is None:
            others.append(word)
            continue
        no, name, text = match.groups()
        if not KEY.fullmatch(name):
            raise InputError(f"{shown(word, str)} is malformed; allowed is --config.KEY=VALUE")
        if not any(re.match(r"--?config(=|$)", other) for other in others):
            raise InputError(f"{shown(word, str)} stands before --config FILE, which it changes")
        rule = rule_of(name)
        if no and (text is not None or not rule.is_switch):
            raise InputError(f"{shown(word, str)}: allowed is --noconfig.KEY for a True or False")
        if no:
            text = "False"
        elif text is None:
            text = "True" if rule.is_switch else next(remaining, None)
        if text is None:
            raise InputError(f"--config.{name} has no value; allowed is {rule.allowed}")
        overrides.pop(name, None)
        overrides[name] = text
    return others, overrides


def apply_overrides(config: ConfigDict, overrides: Mapping[str, str], rule_of: RuleOf) -> None:
    """Change a config in place; values that refer to a changed one follow it.

    Raises:
        InputError: for a text that is no value of its key, or a group that the config lacks.
    """
    with config.unlocked(), config.ignore_type():
        for name, text in overrides.items():
            *groups, leaf = name.split(".")
            group = config
            for each in groups:
                group = group.get(each)
                if not isinstance(group, ConfigDict):
                    raise InputError(f"--config.{name}: the config has no group {each}")
            rule = rule_of(name)
            try:
                group[leaf] = rule.parse(text, group.get(leaf))
            except ValueError as error:
                raise InputError(
                    f"--config.{name}={shown(text, str)}: allowed is {rule.allowed}"
                ) from error
