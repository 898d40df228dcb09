"""A U-ViT diffusion model whose blocks share one attention unit (DIA, arXiv:2210.16101)."""

__version__ = "0.1.0"
