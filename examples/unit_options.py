"""Options of a unit on the command line of an example: `--option reduction=16`."""

from uvit_dia.system.errors import InputError


def read_options(texts: list[str]) -> dict[str, object]:
    """Return the options of a unit: numbers where they read as numbers, words else.

    Raises:
        InputError: if one is not KEY=VALUE.
    """
    options: dict[str, object] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise InputError(f"--option {text}: must be KEY=VALUE, such as reduction=16")
        options[key] = value
        for kind in (int, float):
            try:
                options[key] = kind(value)
            except ValueError:
                continue
            break
    return options
