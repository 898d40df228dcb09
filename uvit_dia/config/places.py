"""Where this project's own files lie: in a clone, or in an installed package.

A clone has the scripts `train.py`, `sample.py`, `eval_fid.py` and the folder `configs/` beside the
package. A wheel has no scripts, and the configs as `uvit_dia/configs/`.
"""

import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from uvit_dia.system.errors import InputError, nearest
from uvit_dia.system.files import expand_home
from uvit_dia.system.messages import clip

PACKAGE = Path(__file__).resolve().parents[1]
_BESIDE = PACKAGE.parent
CLONE = _BESIDE if (_BESIDE / "train.py").is_file() and (_BESIDE / "configs").is_dir() else None
CONFIGS = (PACKAGE if CLONE is None else CLONE) / "configs"
SWEEPS = "sweeps"  # the folder of the sweeps' configs below it
PROGRAM = "uvit-dia"  # the console command
SCRIPTS = {"train": "train.py", "sample": "sample.py", "eval": "eval_fid.py"}
MODULES = {"sweep": "sweep", "report": "report", "analysis": "analyse"}


def shown_command(name: str) -> str:
    """Return how a user starts "train", "sample" or "eval", as this process was started itself."""
    script = Path(sys.argv[0])
    if script.name in SCRIPTS.values():
        return f"python {shlex.quote(str(script.with_name(SCRIPTS[name])))}"
    return f"{PROGRAM} {name}"


def shown_usage(text: str, program: str) -> str:
    """Return the usage text of a command, with the words by which it was started.

    Args:
        text: that speaks of `python train.py`, `python -m uvit_dia.sweep` and so on.
        program: the first word of the command line; "uvit-dia train" for the console command.
    """
    if not program.startswith(f"{PROGRAM} "):
        return text
    for name, script in SCRIPTS.items():
        text = text.replace(f"python {script}", f"{PROGRAM} {name}")
    for module, name in MODULES.items():
        text = text.replace(f"python -m uvit_dia.{module}", f"{PROGRAM} {name}")
    return text


# ---------------------------------------------------------------- configs by name


def config_names(folder: str = "") -> list[str]:
    """Return the names of this project's configs, or of those in a folder below them."""
    files = (CONFIGS / folder).glob("*.py")
    return sorted(f.stem for f in files if "get_config" in f.read_text(encoding="utf-8"))


def config_path(text: str, folder: str = "", flag: str = "--config") -> str:
    """Return the file that a user means by the path of a config, or by the name of one of ours.

    Args:
        text: FILE or NAME, each with ":ARGUMENT" or without.
        folder: below `CONFIGS`, in which a name is looked for; "sweeps" for those of sweeps.
        flag: that it was given to, for the message.

    Returns:
        The file's path, with what followed the colon. A path that is not there is returned as it
        is: whoever reads it tells.

    Raises:
        InputError: for a name that no config has; it lists them.
    """
    text = expand_home(text, flag)
    file, colon, argument = text.partition(":")
    if not re.fullmatch(r"[\w\-]+", file) or Path(file).is_file():
        return text
    names = config_names(folder)
    if file not in names:
        raise InputError(
            f"{flag} {clip(file, 40)!r}: no such file; ours are {', '.join(names)}"
            f"{nearest(file, names)}"
        )
    return f"{CONFIGS / folder / file}.py{colon}{argument}"


@contextmanager
def own_configs(file: Path) -> Iterator[None]:
    """Let `from configs.NAME import ...` in a config file find this project's configs.

    In a file of ours `configs` means our folder, wherever Python was started. In any other file it
    means what `sys.path` has, and ours where that has nothing.

    Args:
        file: the config file that runs within the context.
    """
    is_ours = file.resolve().is_relative_to(CONFIGS.resolve())
    there = [name for name in sys.modules if name == "configs" or name.startswith("configs.")]
    if _means_ours() or not (is_ours or (not there and find_spec("configs") is None)):
        yield
        return
    before = {name: sys.modules.pop(name) for name in there}
    package = ModuleType("configs")
    package.__path__ = [str(CONFIGS)]
    sys.modules["configs"] = package
    try:
        yield
    finally:
        for name in [n for n in sys.modules if n == "configs" or n.startswith("configs.")]:
            del sys.modules[name]
        sys.modules.update(before)


def _means_ours() -> bool:
    found = getattr(sys.modules.get("configs"), "__path__", ())
    return any(Path(place).resolve() == CONFIGS.resolve() for place in found)
