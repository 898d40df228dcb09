"""The question of results/PROTOCOL.md on CIFAR-10 pixels, at batch size 32.

Four variants, five seeds.

    python -m uvit_dia.sweep --config configs/sweeps/cifar10_question.py \
        --workdir runs/cifar10_question_b0032 --max_parallel 12 \
        --config.overrides.data.path=DATA --config.overrides.eval.extractor=pt2:FILE
    python -m uvit_dia.report runs/cifar10_question_b0032 --compare held_out_loss

20 runs of 6,000 steps. Other batch sizes: --config.batch_sizes=16 (or 128) --config.lr_rule=sqrt
--config.seeds=0,1,2 and a folder of its own.
"""

from ml_collections import ConfigDict

from configs.sweeps.cifar10_tuning import NAMES
from configs.sweeps.question import VARIANTS, cifar10_question, with_rates

# The lowest held-out loss of cifar10_tuning.py at batch size 32
# (results/cifar10_question/tuning.csv).
RATES = {"none": 2e-3, "paper": 2e-3, "rescaled": 2e-3, "identity": 1e-3}


def get_config() -> ConfigDict:
    """Return the complete sweep config."""
    variants = with_rates({name: VARIANTS[name] for name in NAMES}, RATES)
    return cifar10_question(variants, batch_size=32, num_images=192_000, seeds=tuple(range(5)))
