"""The question of results/PROTOCOL.md on digits, at batch size 32: five variants, six seeds.

    python -m uvit_dia.sweep --config configs/sweeps/digits_question.py \
        --workdir runs/digits_question_b0032 --max_parallel 2
    python -m uvit_dia.report runs/digits_question_b0032 --compare held_out_loss

30 runs of 6,000 steps. Batch sizes 8 and 128: --config.batch_sizes=8
--config.reference_batch_size=8 and a folder of its own, with the learning rates that
digits_tuning.py finds there, such as --config.variants.paper.optimizer.learning_rate=1e-3.
"""

from ml_collections import ConfigDict

from configs.sweeps.question import VARIANTS, digits_question, with_rates

# The lowest held-out loss of digits_tuning.py at batch size 32
# (results/digits_question/tuning.csv); that of the constant gate is the highest that was tried.
RATES = {"none": 8e-3, "constant": 32e-3, "paper": 16e-3, "rescaled": 16e-3, "identity": 8e-3}


def get_config() -> ConfigDict:
    """Return the complete sweep config."""
    variants = with_rates(VARIANTS, RATES)
    return digits_question(variants, batch_size=32, num_images=192_000, seeds=tuple(range(6)))
