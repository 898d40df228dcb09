"""Names by which people call the splits of a data set."""

import re

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
HELD_OUT = ("test", "validation")  # what stands in for a test split, in this order
_SPLITS = {name: split for split, names in SPLIT_NAMES.items() for name in names}


def split_called(name: str) -> str | None:
    """Return the split of exactly this name in any case: a key of SPLIT_NAMES, or None."""
    return _SPLITS.get(name.casefold())


def split_within(name: str) -> str | None:
    """Return the first split among the words of a name, such as train2017 or cifar10-test."""
    words = re.split(r"[^a-z]+", name.casefold())
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)
