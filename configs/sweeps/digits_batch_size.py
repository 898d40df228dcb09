"""How training on digits behaves as the batch shrinks, with and without DIA.

python -m uvit_dia.sweep --config configs/sweeps/digits_batch_size.py \
    --workdir runs/digits_batch_size --max_parallel 2

48 runs of 1,500 steps and their evaluations; the costs below were measured with a thread a cell and
two cells at once on 2 cores of a server (AMD EPYC, no GPU).
"""

from ml_collections import ConfigDict

from configs.sweeps.common import NO_UNIT, digits_config, steps_held_constant


def unit(attention: str, gate_init: str) -> dict:
    """Return the overrides of a variant with a unit."""
    return {"model": {"attention": attention, "attention_options": {"gate_init": gate_init}}}


def get_config() -> ConfigDict:
    """Return the complete sweep config."""
    return digits_config(
        variants={
            "uvit": NO_UNIT,
            "dia_lstm": unit("dia_lstm", "paper"),
            "dia_lstm_light": unit("dia_lstm_light", "paper"),
            "dia_lstm_identity": unit("dia_lstm", "identity"),
        },
        batch_sizes=(8, 16, 32, 64),
        held_constant=steps_held_constant(1500, "2e-3", 100),
    )
