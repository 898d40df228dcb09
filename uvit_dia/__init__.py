"""A U-ViT diffusion model whose blocks share one attention unit (DIA, arXiv:2210.16101)."""

from importlib import import_module

__version__ = "0.2.0"

# name -> its module, which imports torch
_LAZY = {
    "load": "uvit_dia.api.model",
    "train": "uvit_dia.api.training",
    "share_attention": "uvit_dia.models.other_backbones.share_attention",
    "stages_by_width": "uvit_dia.models.other_backbones.stages_by_width",
    "register_unit": "uvit_dia.models.units.own_units",
    "AttentionUnit": "uvit_dia.models.units.protocol",
    "ChannelUnit": "uvit_dia.models.units.channel",
}

__all__ = ["__version__", *_LAZY]  # noqa: PLE0604  (names of modules that are imported late)


def __dir__() -> list[str]:
    """Return the public names, also those that are not imported yet."""
    return sorted({*globals(), *_LAZY})


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: mistakes are told before torch is imported."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
