"""Units better than the paper's? First stage, on digits and tuning seeds (results/PROTOCOL.md).

    python -m uvit_dia.sweep --config configs/sweeps/digits_better_tuning.py \
        --workdir runs/digits_better_tuning --max_parallel 2

Six forms at two learning rates on seeds 100 and 101, 64,000 images each: 24 runs of 2,000 steps.
"""

from ml_collections import ConfigDict

from configs.sweeps.question import BETTER, digits_question, tried_at

RATES = (8e-3, 16e-3)


def get_config() -> ConfigDict:
    """Return the complete sweep config."""
    variants = tried_at(BETTER, RATES)
    return digits_question(variants, batch_size=32, num_images=64_000, seeds=(100, 101))
