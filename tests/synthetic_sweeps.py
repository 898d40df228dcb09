"""Where scripts that are no tests find invented sweeps: `support/synthetic_sweeps.py`."""

from support.synthetic_sweeps import make_sweep

__all__ = ["make_sweep"]
