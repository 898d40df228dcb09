"""How a key of a config is declared, and the groups that keys make up.

A group is a frozen dataclass, and a key is one line of it::

    @dataclass(frozen=True, kw_only=True)
    class EMAConfig(Group, prefix="ema."):
        decay: float = key(number(0, 0.99), "Weight of the old average", unit="a step")

That line checks values from Python files, from JSON and from flags, and it is what `--help` prints.
A key that is added later says what its absence means (`absent=`): runs from before it existed keep
the bytes of their `config.json`, and their hash.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, fields, replace
from typing import Any, ClassVar, TypeVar

from uvit_dia.config.rules import REQUIRED, Rule
from uvit_dia.system.errors import InputError, nearest

SHOWN_LENGTH = 56  # characters of a wrong value in a message

Schema = Mapping[str, Any]  # key -> Rule, or the Schema of a group
G = TypeVar("G", bound="Group")


# Returns Any, as `dataclasses.field` does: in a class body it stands for the value.
def key(rule: Rule, meaning: str, *, unit: str = "", absent: object = REQUIRED) -> Any:  # noqa: ANN401
    """Declare a key of a group; arguments as the attributes of `Rule`, the result as `field`'s."""
    rule = replace(rule, meaning=meaning, unit=unit, absent=absent)
    if absent is REQUIRED:
        return field(metadata={"rule": rule})
    return field(default=absent, metadata={"rule": rule})


class Group:
    """A group of keys: a frozen dataclass that holds allowed values only.

    Raises:
        InputError: naming the first key whose value is not allowed.
    """

    _prefix: ClassVar[str] = ""

    def __init_subclass__(cls, prefix: str = "") -> None:
        super().__init_subclass__()
        cls._prefix = prefix

    def __post_init__(self) -> None:
        for name, rule in schema_of(type(self)).items():
            if isinstance(rule, Rule) and not rule.fits(value := getattr(self, name)):
                raise InputError(refusal(self._prefix + name, value, rule))

    def to_dict(self, *, with_absent: bool = False) -> dict[str, Any]:
        """Return the values as nested dictionaries, sorted by key.

        Args:
            with_absent: whether the keys are there whose value their absence means too.
        """
        tree = {}
        for name, rule in sorted(schema_of(type(self)).items()):
            value = getattr(self, name)
            if isinstance(value, Group):
                tree[name] = value.to_dict(with_absent=with_absent)
            elif with_absent or value != rule.absent:
                tree[name] = value
        return tree


def schema_of(group: type[Group]) -> Schema:
    """Return the rules of a group's keys by name, in the order in which they are declared."""
    return {
        each.name: each.metadata.get("rule") or schema_of(each.type)  # type: ignore[arg-type]
        for each in fields(group)  # type: ignore[arg-type]
    }


def flat_rules(schema: Schema, prefix: str = "") -> Iterator[tuple[str, Rule]]:
    """Yield the dotted keys of a schema and their rules."""
    for name, rule in schema.items():
        if isinstance(rule, Rule):
            yield prefix + name, rule
        else:
            yield from flat_rules(rule, f"{prefix}{name}.")


def make_group(group: type[G], tree: Mapping[str, Any]) -> G:
    """Build a group from nested dictionaries that `check_tree` accepts; lists become tuples."""
    values: dict[str, Any] = {}
    for name, rule in schema_of(group).items():
        if name not in tree:
            continue  # absent, which the field's default says
        value = tree[name]
        if not isinstance(rule, Rule):
            value = make_group(_group_type(group, name), value)
        values[name] = tuple(value) if isinstance(value, list) else value
    return group(**values)


def _group_type(group: type[Group], name: str) -> type[Group]:
    return next(each.type for each in fields(group) if each.name == name)  # type: ignore


def check_tree(tree: Mapping, schema: Schema, origin: str, prefix: str = "") -> None:
    """Check nested dictionaries key by key.

    Args:
        tree: the values.
        schema: which keys it must have.
        origin: what messages call the config, such as a file name.
        prefix: of the keys in messages.

    Raises:
        InputError: naming the first key that is unknown, missing, or without an allowed value.
    """
    for name in tree:
        if name not in schema:
            text = shown(name, str)
            raise InputError(f"{origin}: unknown key {prefix}{text}{nearest(text, schema)}")
    for name, rule in schema.items():
        full_name = prefix + name
        if name not in tree:
            if isinstance(rule, Rule) and rule.absent is not REQUIRED:
                continue
            raise InputError(f"{origin}: key {full_name} is missing")
        value = tree[name]
        if isinstance(rule, Rule):
            if not rule.fits(value):
                raise InputError(f"{origin}: {refusal(full_name, value, rule)}")
        elif isinstance(value, Mapping):
            check_tree(value, rule, origin, full_name + ".")
        else:
            raise InputError(f"{origin}: {full_name} must be a group of keys, got {shown(value)}")


def refusal(name: str, value: object, rule: Rule) -> str:
    """Say that a key does not hold an allowed value."""
    return f"{name} = {shown(value)}; allowed is {rule.allowed}"


def shown(
    value: object, to_text: Callable[[object], str] = repr, length: int = SHOWN_LENGTH
) -> str:
    """Return a value as a text that is not too long for a message."""
    text = to_text(value)
    return text if len(text) <= length else text[: length - 3] + "..."
