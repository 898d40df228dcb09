"""What keeps a loss or a gradient that is not finite from the weights."""

import torch
from torch import Tensor


class FiniteGuard:
    """Remembers the first step whose loss or gradient was not finite; no update follows it.

    On CUDA the fused optimizer skips the update of that step, and all later ones, by itself, and
    the host needs to look on log steps only. On other devices looking costs nothing, and whoever
    calls `watch` looks at once.

    Args:
        optimizer: torch's optimizer, not Accelerate's wrapper.
        device: of the weights.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.optimizer = optimizer
        self.skips_updates = device.type == "cuda"
        self._bad_step = torch.full((), -1, device=device)

    def watch(self, loss: Tensor, grad_norm: Tensor, step: int) -> None:
        """Look at the loss, (), and the gradient's norm, (), of a step before its update."""
        is_bad = ~(torch.isfinite(loss) & torch.isfinite(grad_norm))
        is_first = is_bad & (self._bad_step < 0)
        self._bad_step = torch.where(is_first, step, self._bad_step)
        if self.skips_updates:
            # torch's fused optimizers read this attribute, which their base class does not declare
            self.optimizer.found_inf = (self._bad_step >= 0).float()  # type: ignore[attr-defined]

    def bad_step(self) -> int | None:
        """Return the first bad step, or None; on an accelerator the host waits for the answer."""
        step = int(self._bad_step.item())
        return step if step >= 0 else None
