"""Code of a user's own: modules with attention units, imported only where the user said so.

What a command line or a config file says is the user's word. What a run's `config.json` says is
not: others may have written it, and importing a module runs it. So nothing but these functions
imports a module for its name, and they are called for the user's words alone:

- `import_own_unit` for a unit that the user's config file or flags name;
- `import_modules` for the flag `--import`, and in every command for what its parent was told.
"""

import importlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from uvit_dia.config.units import is_own_unit
from uvit_dia.system.errors import InputError

# What the commands of a sweep, and whatever else a command starts, import as well.
IMPORTED = "UVIT_DIA_IMPORT"


def import_own_unit(attention: str) -> None:
    """Import the module of a `model.attention` such as "my_module:MyUnit"; do nothing for others.

    Raises:
        InputError: if that fails.
    """
    if is_own_unit(attention):
        import_modules([attention.partition(":")[0]], f"model.attention = {attention!r}")


def import_modules(names: Iterable[str], origin: str = "--import") -> None:
    """Import modules from the current directory or `sys.path`, here and in child processes.

    Args:
        names: such as "my_module" or "my_package.units".
        origin: what messages call them.

    Raises:
        InputError: if one cannot be imported.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last, so that nothing there hides what is installed
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever the user's module raises
            raise InputError(_reason(name, origin, error)) from error
        known = os.environ.get(IMPORTED, "")
        if name not in known.split(","):
            os.environ[IMPORTED] = f"{known},{name}" if known else name


def import_as_parent() -> None:
    """Import what the process that started this one was told to import.

    Raises:
        InputError: if that fails.
    """
    import_modules(filter(None, os.environ.get(IMPORTED, "").split(",")), f"${IMPORTED}")


def _reason(name: str, origin: str, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name in (name, name.partition(".")[0]):
        return f"{origin}: no module {name} in {Path.cwd()} or on sys.path"
    text = " ".join(str(error).split())[:100]
    return f"{origin}: importing {name} raised {type(error).__name__}: {text}"
