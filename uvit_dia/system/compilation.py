"""Compilation of the network (`train.compile`).

Is there a compiler, and what its failure means. Needs no torch.
"""

import importlib.util
import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from uvit_dia.system.errors import InputError
from uvit_dia.system.memory import is_out_of_memory
from uvit_dia.system.messages import clip
from uvit_dia.system.processes import is_lost_contact

COMPILER_ERRORS = ("InductorError", "BackendCompilerFailed", "CppCompileError", "TritonMissing")
OFF = "--config.train.compile=False trains without"


def find_compiler(device_type: str) -> str | None:
    """Return the compiler that torch.compile would call for a device, or None where it finds none.

    Torch's inductor calls a C++ compiler for CPUs; for GPUs it needs Triton, which calls a C
    compiler.
    """
    usual: tuple[str, ...]
    if device_type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return None
        given, usual = os.environ.get("CC"), ("gcc", "clang")
    else:
        given = os.environ.get("CXX")
        usual = ("clang++",) if sys.platform == "darwin" else ("g++",)
    names = usual if given is None else tuple(shlex.split(given)[:1])
    found = (shutil.which(name) for name in names)
    return next((path for path in found if path is not None), None)


def check_compiler(device_type: str) -> None:
    """Refuse to compile where no compiler is.

    Raises:
        InputError: naming `train.compile` and what is missing.
    """
    if find_compiler(device_type) is not None:
        return
    name, language = (
        ("CC", "C compiler or no Triton") if device_type == "cuda" else ("CXX", "C++ compiler")
    )
    given = os.environ.get(name)
    where = "" if given is None else f" ({name} = {given!r:.40} in the environment)"
    raise InputError(f"train.compile = True: there is no {language} here{where}; {OFF}")


@contextmanager
def compile_errors_told() -> Iterator[None]:
    """Turn a compiler's failure into one line.

    Raises:
        InputError: if the block ends with an error of torch's compiler, or of files that it could
            not write.
    """
    try:
        with warnings.catch_warnings():
            # torch's tracing of the backward pass tells the same error twice
            warnings.filterwarnings("ignore", message="Error detected in ", category=UserWarning)
            yield
    except Exception as error:
        if is_out_of_memory(error) or is_lost_contact(error) or not _is_of_compiler(error):
            raise
        reason = clip(_last_line(error), 80)
        raise InputError(f"train.compile = True: the compiler failed ({reason}); {OFF}") from error


def _is_of_compiler(error: BaseException | None) -> bool:
    while error is not None:
        names = {kind.__name__ for kind in type(error).__mro__}
        if names.intersection(COMPILER_ERRORS) or isinstance(error, OSError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = (line for line in lines if "error" in line.lower())
    return next(said, lines[0] if lines else type(error).__name__)
