"""The question of results/PROTOCOL.md on digits at equal *steps*: 1,500 at every batch size.

    python -m uvit_dia.sweep --config configs/sweeps/digits_steps.py:8 \
        --workdir runs/digits_steps_b0008 --max_parallel 2
    python -m uvit_dia.report runs/digits_steps_b0008 --compare held_out_loss

30 runs, and 30 more with `:32`. At batch size 128 the runs of digits_question.py have 1,500 steps,
and an average of weights with the same half-life in steps (23).
"""

from ml_collections import ConfigDict

from configs.sweeps.digits_question import RATES as RATES_AT_32
from configs.sweeps.question import VARIANTS, digits_question, with_rates

# Tuned at equal images (results/digits_question/tuning.csv and tuning_b0008.csv).
RATES = {
    "8": {"none": 4e-3, "constant": 8e-3, "paper": 8e-3, "rescaled": 4e-3, "identity": 4e-3},
    "32": RATES_AT_32,
}


def get_config(batch_size: str = "8") -> ConfigDict:
    """Return the complete sweep config of 1,500 steps at a batch size."""
    if batch_size not in RATES:
        raise ValueError(f"after the colon stands one of {', '.join(RATES)}, not {batch_size!r}")
    variants = with_rates(VARIANTS, RATES[batch_size])
    size = int(batch_size)
    return digits_question(
        variants,
        batch_size=size,
        num_images=1500 * size,
        seeds=tuple(range(6)),
        halflife_images=3_000 * size // 128,
    )
