"""Units better than the paper's? Second stage, on digits and six fresh seeds (results/PROTOCOL.md).

    python -m uvit_dia.sweep --config configs/sweeps/digits_better.py --workdir runs/digits_better \
        --max_parallel 2
    python -m uvit_dia.report runs/digits_better --compare held_out_loss

The two forms with the lowest held-out loss of digits_better_tuning.py, beside no unit and the
paper's: 24 runs of 6,000 steps.
"""

from ml_collections import ConfigDict

from configs.sweeps.question import BETTER, VARIANTS, digits_question, with_rates

# of `none` and `paper` those of digits_question.py, of the others those of the first stage
RATES = {"none": 8e-3, "paper": 16e-3, "time": 16e-3, "memory": 16e-3}


def get_config() -> ConfigDict:
    """Return the complete sweep config."""
    known = {**VARIANTS, **BETTER}
    variants = with_rates({name: known[name] for name in RATES}, RATES)
    return digits_question(variants, batch_size=32, num_images=192_000, seeds=tuple(range(6, 12)))
