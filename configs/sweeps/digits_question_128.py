"""The question of results/PROTOCOL.md on digits at batch size 128, again at one learning rate.

    python -m uvit_dia.sweep --config configs/sweeps/digits_question_128.py \
        --workdir runs/digits_question_b0128_lr32 --max_parallel 2
    python -m uvit_dia.report runs/digits_question_b0128_lr32 --compare held_out_loss

Not planned before the first result: at their tuned rate, 64e-3, three runs of twelve of `paper` and
`identity` fell off the edge of what trains. 18 runs of 1,500 steps; those of `none` repeat
earlier ones.
"""

from ml_collections import ConfigDict

from configs.sweeps.question import VARIANTS, digits_question, with_rates

RATES = {"none": 32e-3, "paper": 32e-3, "identity": 32e-3}


def get_config() -> ConfigDict:
    """Return the complete sweep config."""
    variants = with_rates({name: VARIANTS[name] for name in RATES}, RATES)
    return digits_question(variants, batch_size=128, num_images=192_000, seeds=tuple(range(6)))
