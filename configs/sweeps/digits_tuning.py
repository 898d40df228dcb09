"""Learning rates of the question on digits, on seed 100, which no test uses (results/PROTOCOL.md).

    python -m uvit_dia.sweep --config configs/sweeps/digits_tuning.py \
        --workdir runs/digits_tuning_b0032 --max_parallel 2

For other batch sizes: --config.batch_sizes=8 or 128, --config.reference_batch_size likewise, and a
folder of its own. A third of the images of the question's runs. The rates were tried in three
sweeps, the first three, the next two and the last: at batch size 32 the highest had been the best
of some variants.
"""

from ml_collections import ConfigDict

from configs.sweeps.question import VARIANTS, digits_question, tried_at

RATES = (1e-3, 2e-3, 4e-3, 8e-3, 16e-3, 32e-3)


def get_config() -> ConfigDict:
    """Return the complete sweep config."""
    variants = tried_at(VARIANTS, RATES)
    return digits_question(variants, batch_size=32, num_images=64_000, seeds=(100,))
