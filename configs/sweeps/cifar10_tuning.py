"""Learning rates of the question on CIFAR-10, on a seed that no test uses (results/PROTOCOL.md).

    python -m uvit_dia.sweep --config configs/sweeps/cifar10_tuning.py \
        --workdir runs/cifar10_tuning_b0032 --max_parallel 12 \
        --config.overrides.data.path=DATA --config.overrides.eval.extractor=pt2:FILE

A third of the images of the question's runs.
"""

from ml_collections import ConfigDict

from configs.sweeps.question import VARIANTS, cifar10_question, tried_at

NAMES = ("none", "paper", "rescaled", "identity")


def get_config() -> ConfigDict:
    """Return the complete sweep config."""
    variants = tried_at({name: VARIANTS[name] for name in NAMES}, (5e-4, 1e-3, 2e-3))
    return cifar10_question(variants, batch_size=32, num_images=64_000, seeds=(100,))
