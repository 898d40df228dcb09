"""`torch.export` programs out of .pt2 files: checked before torch reads them.

`torch.export.load` unpickles objects, evaluates size expressions, and writes names, operators and
guards of a graph into Python source that it executes. A program of tensors and ATen operators needs
none of that freedom, so every member, operator and text of an archive must be of a kind listed
here; anything else is refused. The check is long, and kept: a program is the only extractor for
domains where Inception is the wrong ruler that comes as one file and needs no code of its author's
to run.
"""

import io
import json
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from uvit_dia.system.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

MAX_PROGRAM_BYTES = 2 * 2**30

# torch would unpickle any other member that it knows.
_MEMBER = re.compile(
    r"[^/]+/(data/weights/(weight_\d+|\w+_weights_config\.json)"
    r"|data/constants/(tensor_\d+|\w+_constants_config\.json)"
    r"|data/sample_inputs/\w+\.pt|models/\w+\.json|archive_format|archive_version|byteorder"
    r"|\.data/(version|serialization_id)|\.format_version|\.storage_alignment)"
)
_WORD = re.compile(r"[A-Za-z0-9_.+\-]*+")  # names and versions: none of them can be a call
_COMMENTS = ("stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "from_node")
_NESTING = re.compile(
    r'(?>"(?:type|context|children_spec|null|\[\]|builtins\.(?:tuple|list|dict))"'
    r"|null|1|[\s\[\]{}:,])*+"
)
_TEXTS = {
    # operators: all of ATen but what opens files, and arithmetic on sizes
    "target": re.compile(
        r"torch\.ops\.aten\.(?!(?:from_file|save)\.)\w++\.\w++|torch\.sym_\w++|math\.trunc"
        r"|_operator\.(?:add|and_|eq|floordiv|ge|getitem|gt|le|lt|mod|mul|ne|neg|or_|pos|sub"
        r"|truediv)"
    ),
    # sizes, as sympy prints them, without powers
    "expr_str": re.compile(
        r"(?>Symbol\('[a-z]{1,4}\d++'(?:, \w++=(?:True|False))*+\)"
        r"|(?:Integer|Rational|Add|Mul|Max|Min|Mod|FloorDiv)\("
        r"|[a-z]{1,4}\d++|\d++|\*(?!\*)|[\s,()+\-/])*+"
    ),
    # checks of sizes, as Python
    "guards_code": re.compile(
        r"(?>L\['\w++'\]\.size\(\)\[\d++\]|\b(?:and|or|not)\b|\d++|\*(?!\*)|[\s()+\-/%<>=!])*+"
    ),
    # how arguments and results are nested
    "in_spec": _NESTING,
    "out_spec": _NESTING,
    "as_string": re.compile(r"[A-Za-z0-9_.,>+\- ]*+"),  # arguments such as "mean" or "ij,jk->ik"
}


def check_program(path: Path) -> None:
    """Refuse a .pt2 archive that is more than a program of tensors, ATen operators and sizes.

    Torch is imported only for an archive that everything else lets pass.

    Raises:
        InputError: naming what was found, or what is no readable archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, path)
    except InputError:
        raise
    except Exception as error:  # zipfile, json and torch raise many types for other files
        reason = " ".join(str(error).split())[:80]
        raise InputError(
            f"--extractor: {path} is no readable torch.export program: {reason}"
        ) from error


def _check_archive(archive: zipfile.ZipFile, path: Path) -> None:
    members = archive.infolist()
    _check_size(members, min(MAX_PROGRAM_BYTES, path.stat().st_size), path)
    names = [member.filename for member in members]
    strange = next((name for name in names if not _MEMBER.fullmatch(name)), None)
    if strange is not None:
        raise InputError(
            f"--extractor: {path} holds {strange[:60]}, which a feature extractor does not need"
        )
    if len({name.lower() for name in names}) < len(names):  # which one torch reads is not defined
        raise InputError(f"--extractor: {path} holds two members of one name")
    if not any("/models/" in name for name in names):
        raise InputError(f"--extractor: {path} is no torch.export program: it holds no model")
    for member in members:
        if member.filename.endswith(".json"):
            _check_json(json.loads(archive.read(member)), "", path)
    for member in members:
        if member.filename.endswith(".pt"):
            _check_tensors(archive.read(member), path)


def _check_size(members: list[zipfile.ZipInfo], limit: int, path: Path) -> None:
    """Refuse what takes more memory than its file takes disk; torch compresses nothing it saves."""
    if sum(member.file_size for member in members) > limit:
        raise InputError(f"--extractor: {path} unpacks to more than {limit} bytes")


def _check_tensors(content: bytes, path: Path) -> None:
    """Refuse what torch.save wrote, if it is more than tensors."""
    import torch

    file = io.BytesIO(content)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as tensors:
            _check_size(tensors.infolist(), len(content), path)
    file.seek(0)
    torch.load(file, map_location="cpu", weights_only=True)


def _check_json(value: object, key: str, path: Path) -> None:
    """Refuse pickled payloads, and texts that are not of the kind which belongs to their key."""
    if isinstance(value, dict):
        if value.get("use_pickle"):
            raise InputError(f"--extractor: {path} holds pickled tensors, which are not read")
        for name, item in value.items():
            if not _WORD.fullmatch(name):
                raise InputError(f"--extractor: {path} holds the key {name[:40]!r}")
            _check_json(item, name, path)
    elif isinstance(value, list):
        for item in value:
            _check_json(item, key, path)
    elif (
        isinstance(value, str)
        and key not in _COMMENTS
        and not _TEXTS.get(key, _WORD).fullmatch(value)
    ):
        raise InputError(
            f"--extractor: {path} holds {value[:60]!r} as {key[:20]}, which is not read"
        )


def load_program(path: Path, device: "torch.device | str") -> "nn.Module":
    """Load a checked program onto a device.

    Raises:
        InputError: if this torch cannot load it.
    """
    import torch
    from torch.export.passes import move_to_device_pass

    try:
        # the program itself names the device of its export, so moving its module is not enough
        return move_to_device_pass(torch.export.load(path), str(device)).module()
    except Exception as error:  # a program of another torch version fails in many ways
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"--extractor: this torch cannot load {path}: {reason}") from error
