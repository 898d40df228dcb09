"""The U-ViT and its attention units."""

from uvit_dia.models.uvit import UViT

__all__ = ["UViT"]
