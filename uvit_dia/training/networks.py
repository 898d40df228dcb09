"""The network of a run as Accelerate trains it, and its average."""

import copy

import torch
from accelerate import Accelerator
from accelerate.utils import fsdp2_prepare_model
from torch import Tensor, nn

from uvit_dia.models.units.of_blocks import UnitsOfBlocks
from uvit_dia.runs import state as training_state
from uvit_dia.training.ema import EMA
from uvit_dia.training.stability import whole


class Networks:
    """The prepared network and optimizer, and the averaged network.

    Args:
        accelerator: devices, processes and precision.
        model: the network, not yet prepared.
        optimizer: torch's optimizer over its parameters, not yet prepared.

    Attributes:
        model: the network to train: wrapped, compiled, sharded, as the launch asks for.
        optimizer: Accelerate's wrapper of the optimizer.
        unwrapped: the same network by itself.
        ema: its average, which computes in float32.
        is_sharded: whether FSDP spread the weights; then `unwrapped` cannot run.
    """

    def __init__(
        self, accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        self.device = accelerator.device
        self.is_sharded = accelerator.is_fsdp2
        averaged = copy.deepcopy(model)  # before prepare, whose autocast is not for previews
        self._whole = copy.deepcopy(model) if self.is_sharded else None
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.unwrapped = accelerator.unwrap_model(self.model, keep_torch_compile=False)
        averaged.to(self.device)
        if self.is_sharded:
            averaged = fsdp2_prepare_model(accelerator, averaged)
        self.ema = EMA(self.unwrapped, averaged)

    def averaged(self) -> nn.Module:
        """Return the averaged network as tasks call it: where it is sharded, whole everywhere."""
        if self._whole is None:
            return self.ema.model
        training_state.gather(self.ema.model, self._whole.to(self.device).eval())
        return self._whole

    def penalised(self, loss: Tensor, parts: int = 1) -> Tensor:
        """Add the attention unit's penalty, if it has one, to what the gradient is taken of.

        The loss that is logged, by which runs are compared, goes without it.

        Args:
            loss: (), of one of so many parts of a batch.
            parts: how many.
        """
        model = self.unwrapped
        penalty = model.attention_penalty() if isinstance(model, UnitsOfBlocks) else None
        return loss if penalty is None else loss + whole(penalty) / parts
