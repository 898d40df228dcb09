"""What a checkpoint holds, as named tensors: the same from one process, DDP and FSDP.

torch's `distributed.checkpoint.state_dict` gives parameters and optimizer state full names whatever
wraps the model, and flat tensors, which fit safetensors: no pickle is written or read.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

FILES = ("model", "ema", "optimizer", "window")

_ON_CPU = StateDictOptions(full_state_dict=True, cpu_offload=True)
_FLAT_ON_CPU = StateDictOptions(
    full_state_dict=True, cpu_offload=True, flatten_optimizer_state_dict=True
)


def collect(
    model: nn.Module, ema_model: nn.Module, optimizer: torch.optim.Optimizer, window: Tensor
) -> dict[str, dict[str, Tensor]]:
    """Gather all that a resumed run needs; call it on every process, the first gets the tensors.

    Args:
        model: the wrapped model.
        ema_model: the averaged model.
        optimizer: torch's optimizer over the model's parameters.
        window: (n, 2) float32, loss and gradient norm of the steps since the last log line.

    Returns:
        File name -> tensor name -> tensor on the CPU.
    """
    return {
        "model": _own(_model_tensors(model, _ON_CPU)),
        "ema": _own(_model_tensors(ema_model, _ON_CPU)),
        "optimizer": _own(_optimizer_tensors(model, optimizer, _FLAT_ON_CPU)),
        "window": {"window": window.cpu()},
    }


def expected(
    model: nn.Module, ema_model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, dict[str, Tensor]]:
    """Return tensors with the names and shapes that a checkpoint of this run must have.

    Every process gets them; shards, which know the shape of the whole, are not gathered.
    """
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    is_new = not optimizer.state
    tensors = {
        "model": _model_tensors(model, options),
        "ema": _model_tensors(ema_model, options),
        "optimizer": _optimizer_tensors(model, optimizer, options),
    }
    if is_new:  # torch made its state by a step of length 0, which Adam would count
        optimizer.state.clear()
    return tensors


def restore(
    model: nn.Module,
    ema_model: nn.Module,
    optimizer: torch.optim.Optimizer,
    files: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Load the state that `collect` gathered.

    The weights come last: to make its state, torch steps the optimizer over them.
    """
    plain = StateDictOptions(full_state_dict=True)
    # Nested, since torch (2.15) cannot set a state that is both full and flat. Hyper-parameters
    # stay the config's.
    state: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=plain)
    for name, tensor in files["optimizer"].items():
        parameter, _, moment = name.removeprefix("state.").rpartition(".")
        state["state"][parameter][moment] = tensor
    set_optimizer_state_dict(model, optimizer, state, options=plain)
    set_model_state_dict(model, dict(files["model"]), options=plain)
    set_model_state_dict(ema_model, dict(files["ema"]), options=plain)


def gather(sharded: nn.Module, into: nn.Module) -> None:
    """Copy a sharded model's weights into a whole one; call it on every process."""
    tensors = get_model_state_dict(sharded, options=StateDictOptions(full_state_dict=True))
    into.load_state_dict(cast(dict[str, Tensor], tensors), strict=True)


def _model_tensors(model: nn.Module, options: StateDictOptions) -> dict[str, Tensor]:
    """Return parameters and buffers under their full names."""
    return cast(dict[str, Tensor], get_model_state_dict(model, options=options))


def _optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, options: StateDictOptions
) -> dict[str, Tensor]:
    """Return moments and step counts, such as `state.mid_block.mlp.fc1.weight.exp_avg`."""
    flat: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=options)
    return {name: value for name, value in flat.items() if isinstance(value, Tensor)}


def _own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring tensors to the CPU, contiguous and each in memory of its own, as safetensors wants."""
    owned: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        found = tensor.detach().cpu().contiguous()
        storage = found.untyped_storage()
        if storage.nbytes() != found.nbytes or storage.data_ptr() in taken:
            found = found.clone()
        taken.add(found.untyped_storage().data_ptr())
        owned[name] = found
    return owned
