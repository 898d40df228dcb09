"""The U-ViT, its attention units, and the same units in other torch models."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uvit_dia.models.uvit import UViT

__all__ = ["UViT"]


def __getattr__(name: str) -> object:
    """Import the network only where it is asked for: commands answer mistakes before torch."""
    if name == "UViT":
        from uvit_dia.models.uvit import UViT

        return UViT
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
