"""The processes that a network learns to undo: DDPM's, and flow matching's straight paths."""

from uvit_dia.diffusion.ddpm import (
    Diffusion,
    alphas_cumprod_of,
    min_snr_weight,
    scheduler_arguments,
)
from uvit_dia.diffusion.flow_matching import FlowMatching
from uvit_dia.diffusion.process import Process, make_process

__all__ = [
    "Diffusion",
    "FlowMatching",
    "Process",
    "alphas_cumprod_of",
    "make_process",
    "min_snr_weight",
    "scheduler_arguments",
]
