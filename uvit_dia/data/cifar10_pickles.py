"""The batches of CIFAR-10's python edition: pickles, read without running anything that they name.

A pickle names functions and classes that its reader is to call. Here a name is never looked up:
the few that these files use stand for records of ours that keep what they are given, and any other
ends the reading. The array is then made from its bytes, after a look at its type and shape.
"""

import io
import pickle
import pickletools
from typing import Any

import numpy as np

from uvit_dia.system.errors import InputError
from uvit_dia.system.messages import clip

MAX_BYTES = 64 * 2**20  # of a batch; the official ones have 31 million
PIXELS = 3 * 32 * 32


class _Given:
    """Stands for an object of NumPy's: keeps what the pickle makes it from."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Array(_Given):
    """An array; its state is (version, shape, type, is it in Fortran's order, bytes)."""


class _Type(_Given):
    """A type; its arguments begin with its code, such as "u1"."""


def _reconstruct(*arguments: object) -> _Array:
    return _Array(*arguments)


def _encode(text: str, coding: str = "latin1") -> bytes:
    """Turn text back into bytes, as Python 3 writes them for readers of Python 2."""
    if coding != "latin1":
        raise pickle.UnpicklingError(f"bytes in {coding!r:.20}")
    return text.encode("latin1")


_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encode,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        """Return what stands for a name; nothing is imported."""
        try:
            return _NAMES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}") from None


def read_batch(content: bytes, origin: str) -> bytes:
    """Return a batch as the binary edition has it: for each image its label and 3,072 pixels.

    Args:
        content: of the file.
        origin: its path, for messages.

    Raises:
        InputError: if it is no such pickle, or names anything that is not in one.
    """
    if len(content) > MAX_BYTES:
        raise InputError(f"{origin} has {len(content)} bytes, too many for a batch of CIFAR-10")
    try:
        _check_places(content)
        found = _Reader(io.BytesIO(content), encoding="bytes").load()
        labels, pixels = _parts(found)
    except Exception as error:  # a pickle may break its reader in any way
        raise InputError(
            f"{origin} is no batch of CIFAR-10's python edition: {clip(error, 80)}"
        ) from error
    return np.concatenate((labels[:, None], pixels), axis=1).tobytes()


def _check_places(content: bytes) -> None:
    """Refuse a pickle that keeps a value at a far place, for which its reader would make room."""
    for operation, place, _ in pickletools.genops(content):
        if operation.name not in ("PUT", "BINPUT", "LONG_BINPUT"):
            continue
        if not isinstance(place, int) or not 0 <= place <= len(content):
            raise pickle.UnpicklingError(f"it keeps a value at place {place}")


def _parts(found: Any) -> tuple[np.ndarray, np.ndarray]:  # noqa: ANN401
    """Return labels, (N,), and pixels, (N, 3072), both uint8; raise where they are not there."""
    values = {
        key.decode() if isinstance(key, bytes) else key: value for key, value in found.items()
    }
    labels, array = values["labels"], values["data"]
    if not isinstance(array, _Array) or not isinstance(array.state, tuple):
        raise ValueError("its data are no array")
    _, shape, kind, fortran, content = array.state
    if not isinstance(kind, _Type) or kind.arguments[0] not in ("u1", b"u1") or fortran:
        raise ValueError("its array is not of uint8 in C's order")
    if shape != (len(labels), PIXELS) or not isinstance(content, bytes):
        raise ValueError(f"its array has the shape {shape!r:.40} for {len(labels)} labels")
    if not all(type(label) is int and 0 <= label <= 255 for label in labels):
        raise ValueError("its labels are no small numbers")
    pixels = np.frombuffer(content, dtype=np.uint8).reshape(len(labels), PIXELS)
    return np.array(labels, dtype=np.uint8), pixels
