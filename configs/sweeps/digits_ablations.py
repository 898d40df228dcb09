"""What the options of the paper's DIA-LSTM do on digits.

Reduction, activation, cells, blocks (Tables XII, XIV, Fig. 10).

    python -m uvit_dia.sweep --config configs/sweeps/digits_ablations.py \
        --workdir runs/digits_ablations --max_parallel 2
    python -m uvit_dia.report runs/digits_ablations

36 runs; each variant changes one option of the paper's unit. They took 19 min 19 s on 2 cores of a
server (AMD EPYC, no GPU); results/appendix/digits_ablations has what came out.
"""

from ml_collections import ConfigDict

from configs.sweeps.common import NO_UNIT, digits_config


def unit(**options: object) -> dict:
    """Return the overrides of a variant that changes one option of the paper's unit."""
    return {"model": {"attention_options": {"gate_init": "paper", **options}}}


def get_config() -> ConfigDict:
    """Return the complete sweep config."""
    return digits_config(
        variants={
            "uvit": NO_UNIT,
            "dia_lstm": unit(),
            # Table XII; dia_lstm has r = 4
            "r1": unit(reduction=1),
            "r8": unit(reduction=8),
            "r16": unit(reduction=16),
            # Table XIV; dia_lstm has a sigmoid and one cell
            "tanh": unit(activation="tanh"),
            "relu": unit(activation="relu"),
            "cells3": unit(num_cells=3),
            # Fig. 10; dia_lstm has all five
            "blocks_0": unit(blocks="0"),
            "blocks_0_2": unit(blocks="0,2"),
            "blocks_0_2_4": unit(blocks="0,2,4"),
            "unshared": unit(shared=False),
        },
        held_constant=(
            "Batch size 32, 1,500 steps, a learning rate of 2e-3 after a warm-up of 100 steps; "
            "each variant changes one thing."
        ),
    )
