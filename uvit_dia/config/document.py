"""The keys of a config in words, from their declarations: for `train.py --help` and for the docs.

python -m uvit_dia.config.document > docs/config-keys.md
"""

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields

from uvit_dia.config.fields import Group, schema_of
from uvit_dia.config.files import RESUMABLE_CHANGES, flatten, run_config_file
from uvit_dia.config.places import CONFIGS
from uvit_dia.config.rules import REQUIRED, Rule
from uvit_dia.config.schema import Config

QUICKSTART = CONFIGS / "digits_uvit_dia.py"
SHOWN = (QUICKSTART, CONFIGS / "cifar10_uvit_dia.py")  # whose values the docs give

INDENT = " " * 6

PAGE_HEAD = """# The keys of a config

This page is made from the declarations of the keys (`uvit_dia/config/schema.py`) by
`python -m uvit_dia.config.document > docs/config-keys.md`. `python train.py --help` shows the same.

A config file has every key, and no other: there are no hidden defaults. On the command line
`--config.KEY=VALUE` changes one, `--config.KEY` sets a switch and `--noconfig.KEY` unsets it. A key
with an asterisk may change when a run is resumed; all others say what the run is, and a change
needs another `--workdir`. The two values are those of `configs/digits_uvit_dia.py` (digits) and
`configs/cifar10_uvit_dia.py` (CIFAR-10).
"""


def groups_of(group: type[Group], prefix: str = "") -> Iterator[tuple[str, type[Group]]]:
    """Yield a group and the groups in it, each with the prefix of its keys."""
    yield prefix, group
    for each in fields(group):  # type: ignore[arg-type]
        if "rule" not in each.metadata:
            yield from groups_of(each.type, f"{prefix}{each.name}.")  # type: ignore[arg-type]


def rules_in(group: type[Group]) -> dict[str, Rule]:
    """Return the rules of a group's own keys, without those of the groups in it."""
    return {name: rule for name, rule in schema_of(group).items() if isinstance(rule, Rule)}


def describe(rule: Rule) -> str:
    """Return what a key means and what it may hold, in one line."""
    unit = f" ({rule.unit})" if rule.unit else ""
    absent = "" if rule.absent is REQUIRED else f" Missing: {flag_value(rule.absent)}."
    return f"{rule.meaning}{unit}. Allowed: {rule.allowed}.{absent}"


def flag_value(value: object) -> str:
    """Return a value as the text of a flag that means it."""
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return str(value)


def key_help(group: type[Group], values: Mapping[str, object]) -> str:
    """Return the help on all keys of a config.

    Args:
        group: the config's type.
        values: what is shown as the value of a key, by dotted key; a key without one shows none.
    """
    lines = []
    for prefix, each in groups_of(group):
        lines.append(f"\n{prefix.rstrip('.') or 'config'}: {_summary(each)}")
        for name, rule in rules_in(each).items():
            key = prefix + name
            value = f"={flag_value(values[key])}" if key in values else ""
            meaning = textwrap.fill(
                describe(rule), 100, initial_indent=INDENT, subsequent_indent=INDENT
            )
            lines += [f"  --config.{key}{value}", meaning]
    return "\n".join(lines)


def _summary(group: type[Group]) -> str:
    return (group.__doc__ or "").strip().splitlines()[0]


def page() -> str:
    """Return the page of the docs, as Markdown."""
    shown = [flatten(run_config_file(str(path)).to_dict()) for path in SHOWN]
    lines = [PAGE_HEAD]
    for prefix, group in groups_of(Config):
        lines += [f"## `{prefix.rstrip('.') or 'seed'}`", "", _summary(group), ""]
        lines += ["| key | digits | CIFAR-10 | meaning |", "| --- | --- | --- | --- |"]
        for name, rule in rules_in(group).items():
            key = prefix + name
            mark = r" \*" if key.startswith(RESUMABLE_CHANGES) else ""
            cells = [_code(values.get(key, rule.absent)) for values in shown]
            lines.append(f"| `{key}`{mark} | {' | '.join(cells)} | {describe(rule)} |")
        lines.append("")
    return "\n".join(lines)


def _code(value: object) -> str:
    return f"`{flag_value(value)}`" if value != "" else ""


if __name__ == "__main__":
    print(page(), end="")
