"""Weights in the format of the U-ViT authors' code, and what others have put around them.

Read besides a plain `state_dict`: names with parts that wrappers put in ("module." of
DistributedDataParallel and AveragedModel, "_orig_mod." of torch.compile, those of FSDP and of
activation checkpointing), and a training state with one dictionary of tensors among its entries,
or the entry of it that the caller names.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

MAX_WEIGHT_FILE_BYTES = 4 * 2**30  # a larger foreign weight file is not a U-ViT
WRAPPER_PARTS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
COUNT_OF_AVERAGES = "n_averaged"  # which torch's AveragedModel saves beside the weights
MAX_NAMED = 3  # how many wrong keys of a kind a message names


def load_official(
    model: nn.Module, source: Mapping[str, Any] | str | Path, entry: str | None = None
) -> None:
    """Load weights into a model, strictly: every tensor must be there, in its shape, and no other.

    Args:
        model: the model.
        source: a `state_dict`, or a file that holds one, with what this module reads around it.
        entry: which entry of a training state to read; None if one alone holds tensors.

    Raises:
        ValueError: if nothing can be read, or keys or shapes differ; the model is as it was then.
    """
    if isinstance(source, Mapping):
        name, content = "the dictionary", source
    else:
        name, content = str(source), _read_file(Path(source))
    weights = _without_wrappers(_tensors_of(content, name, entry))
    problems = differences(weights, model.state_dict())
    if problems:
        raise ValueError(f"not the weights of this U-ViT: {'; '.join(problems)}")
    model.load_state_dict(dict(weights), strict=True)


def _read_file(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise ValueError(f"no weight file at {path}")
    size = path.stat().st_size
    if size > MAX_WEIGHT_FILE_BYTES:
        raise ValueError(f"{path} has {size} bytes; at most {MAX_WEIGHT_FILE_BYTES} are read")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"cannot read weights from {path}: {error}") from error
    try:
        # Uncompressed records only are mapped; a compressed one, which could inflate, fails to map.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises a dozen types for a file it cannot or will not read
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"cannot read weights from {path}: {reason}") from error


def _tensors_of(content: object, name: str, entry: str | None) -> Mapping[str, Tensor]:
    """Return the dictionary of tensors that a file or a dictionary is or holds."""
    entries: dict[str, Mapping[str, Tensor]] = {}
    if isinstance(content, Mapping):
        entries = {str(key): value for key, value in content.items() if _is_state_dict(value)}
    if entry is not None:
        if entry not in entries:
            held = f"it holds {', '.join(entries)}" if entries else "it holds none"
            raise ValueError(f"{name} has no dictionary of tensors under {entry!r}; {held}")
        return entries[entry]
    if isinstance(content, Mapping) and _is_state_dict(content):
        return content
    if len(entries) == 1:
        return next(iter(entries.values()))
    if entries:
        raise ValueError(
            f"{name} holds several dictionaries of tensors: choose one with entry=, of"
            f" {', '.join(repr(key) for key in entries)}"
        )
    raise ValueError(f"{name} does not hold a plain dictionary of tensors")


def _is_state_dict(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def _without_wrappers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the parts of names that wrappers put in, and what AveragedModel adds.

    Raises:
        ValueError: if two names would become one.
    """
    plain: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        name = ".".join(part for part in key.split(".") if part not in WRAPPER_PARTS)
        if name in plain:
            raise ValueError(f"{key} and another key are both {name} without the prefixes")
        plain[name] = tensor
    if len(plain) > 1 and any(key.startswith("module.") for key in weights):
        plain.pop(COUNT_OF_AVERAGES, None)
    return plain


def differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Say in a few words how tensors differ from those that a model has."""
    first = next(iter(found), "").partition(".")[0] + "."
    if all(key.startswith(first) for key in found) and first.rstrip(".") not in {
        key.partition(".")[0] for key in expected
    }:
        return [f"all its keys have the prefix {first!r}, which must be taken off"]
    shapes = [
        f"{key} ({tuple(found[key].shape)} where the model has {tuple(tensor.shape)})"
        for key, tensor in expected.items()
        if key in found and found[key].shape != tensor.shape
    ]
    kinds = {
        "it lacks": [key for key in expected if key not in found],
        "it has besides": [key for key in found if key not in expected],
        "size mismatch for": shapes,
    }
    return [f"{kind} {', '.join(k[:MAX_NAMED])}{_and_more(k)}" for kind, k in kinds.items() if k]


def _and_more(keys: list[str]) -> str:
    return f" and {len(keys) - MAX_NAMED} more" if len(keys) > MAX_NAMED else ""
