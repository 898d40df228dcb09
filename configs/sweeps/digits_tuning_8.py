"""Learning rates of the question on digits at batch size 8, on seed 100 (results/PROTOCOL.md).

    python -m uvit_dia.sweep --config configs/sweeps/digits_tuning_8.py \
        --workdir runs/digits_tuning_b0008 --max_parallel 2

Five variants at five rates, and the paper's unit at one more since the highest of the five was its
best; 8,000 steps each: a third of the images of the question's runs.
"""

from ml_collections import ConfigDict

from configs.sweeps.question import VARIANTS, digits_question, tried_at

RATES = (1e-3, 2e-3, 4e-3, 8e-3, 16e-3)
BEYOND = {"paper": VARIANTS["paper"]}


def get_config() -> ConfigDict:
    """Return the complete sweep config."""
    variants = tried_at(VARIANTS, RATES) | tried_at(BEYOND, (32e-3,))
    return digits_question(variants, batch_size=8, num_images=64_000, seeds=(100,))
