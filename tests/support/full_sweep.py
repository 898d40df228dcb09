"""An invented sweep of 48 runs in which everything happens that a report must tell."""

from pathlib import Path

import numpy as np

from tests.support.synthetic_sweeps import make_sweep

VARIANTS = ("uvit", "dia_lstm", "dia_lstm_light", "dia_lstm_identity")
SIZES = (8, 16, 32, 64)


def make_full_sweep(folder: Path) -> None:
    """Make a large effect, a harmful variant, divergences, and a run that still runs."""
    means = {(v, b): 2.6 - 0.2 * np.log2(b / 8) for v in VARIANTS for b in SIZES}
    means[("dia_lstm", 16)] -= 1.0
    means[("dia_lstm_light", 32)] += 1.0
    states = dict.fromkeys(("uvit-b0008-s1", "uvit-b0008-s2"), "diverged")
    states["dia_lstm_identity-b0064-s2"] = "running"
    make_sweep(folder, variants=VARIANTS, means=means, spread=0.04, states=states, previews=True)
