"""The U-ViT authors' weight files."""

from pathlib import Path

import torch
from torch import Tensor

MAX_WEIGHT_FILE_BYTES = 4 * 2**30  # a larger foreign weight file is not a U-ViT


def _read_official_file(path: Path) -> dict[str, Tensor]:
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
        state_dict = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises a dozen types for a file it cannot or will not read
        raise ValueError(
            f"cannot read weights from {path}: {' '.join(str(error).split())[:200]}"
        ) from error
    if not isinstance(state_dict, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state_dict.items()
    ):
        raise ValueError(f"{path} does not hold a plain dictionary of tensors")
    return state_dict
