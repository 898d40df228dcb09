"""Does a forget bias of +2 help the rescaled unit? Digits, six seeds (results/PROTOCOL.md).

    python -m uvit_dia.sweep --config configs/sweeps/digits_memory.py --workdir runs/digits_memory \
        --max_parallel 2
    python -m uvit_dia.report runs/digits_memory --compare held_out_loss

12 runs of 6,000 steps on the seeds of digits_better.py, whose `memory` has the same settings.
"""

from ml_collections import ConfigDict

from configs.sweeps.question import BETTER, digits_question, with_rates

RATES = {"rescaled": 16e-3, "memory": 16e-3}


def get_config() -> ConfigDict:
    """Return the complete sweep config."""
    variants = with_rates({name: BETTER[name] for name in RATES}, RATES)
    return digits_question(variants, batch_size=32, num_images=192_000, seeds=tuple(range(6, 12)))
