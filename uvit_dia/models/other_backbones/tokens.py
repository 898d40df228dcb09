"""Feature maps and tokens: what a target returns, as the tokens that units read, and back.

Legend of tensor names: B batch, C channels, H rows, W columns, L tokens.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """How the outputs of a stage's targets lie in memory.

    Attributes:
        channels: C.
        channels_last: whether four-dimensional outputs are (B, H, W, C), not (B, C, H, W).
        num_extra_tokens: tokens (class, registers) before the patches in outputs (B, L, C).
        grid: rows and columns of the patches in outputs (B, L, C); None for a square.
    """

    channels: int
    channels_last: bool
    num_extra_tokens: int
    grid: tuple[int, int] | None

    def to_tokens(self, y: object, name: str) -> tuple[Tensor, tuple[int, int] | None]:
        """Return an output as tokens, (B, L, C), and the grid that they make.

        Args:
            y: (B, C, H, W), (B, H, W, C) or (B, L, C).
            name: of the target, for messages.

        Raises:
            ValueError: if y is something else, or of another width.
        """
        if not isinstance(y, Tensor) or y.dim() not in (3, 4):
            found = f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(
                f"{name} must return one tensor (B, C, H, W) or (B, L, C), got {found}"
            )
        is_last = y.dim() == 3 or self.channels_last
        width = y.shape[-1] if is_last else y.shape[1]
        if width != self.channels:
            raise ValueError(
                f"{name} returned shape {tuple(y.shape)}, of {width} channels where"
                f" {self.channels} were expected: change channels= or"
                f" channels_last={self.channels_last}"
            )
        if y.dim() == 3:
            return y, self.grid
        if self.num_extra_tokens:
            raise ValueError(
                f"{name} returned a feature map of shape {tuple(y.shape)}, which has no extra"
                f" tokens: leave out num_extra_tokens={self.num_extra_tokens}"
            )
        if is_last:
            return y.flatten(1, 2), (y.shape[1], y.shape[2])
        return y.flatten(2).transpose(1, 2), (y.shape[2], y.shape[3])

    def from_tokens(self, tokens: Tensor, y: Tensor) -> Tensor:
        """Return tokens in the shape of y."""
        if y.dim() == 3:
            return tokens
        if self.channels_last:
            return tokens.unflatten(1, y.shape[1:3])
        return tokens.transpose(1, 2).unflatten(2, y.shape[2:])
