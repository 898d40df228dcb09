"""Networks on digits that lack a part, with and without the unit (Figs. 13 and 14, Table XVI).

    python -m uvit_dia.sweep --config configs/sweeps/digits_without.py:residual \
        --workdir runs/digits_without_residual \
        --max_parallel 2
    python -m uvit_dia.report runs/digits_without_residual

After the colon: residual (what attention and MLP add to), layer_norm, or skip (the long skips). 9
runs: the network without a unit, with the paper's DIA-LSTM, and with one that starts as the
identity. Runs may diverge, which is a result. Cost by the estimate of --dry_run, after the measured
costs of digits_batch_size.py; not run by us yet.
"""

from ml_collections import ConfigDict

from configs.sweeps.common import NO_UNIT, digits_config

PARTS = ("residual", "layer_norm", "skip")


def get_config(part: str = "residual") -> ConfigDict:
    """Return the complete sweep config of networks without a part."""
    if part not in PARTS:
        raise ValueError(f"after the colon stands one of {', '.join(PARTS)}, not {part!r}")
    return digits_config(
        variants={
            "uvit": NO_UNIT,
            "dia_lstm": {"model": {"attention_options": {"gate_init": "paper"}}},
            "dia_lstm_identity": {"model": {"attention_options": {"gate_init": "identity"}}},
        },
        overrides={"model": {part: False}},
        held_constant=(
            "Batch size 32, 1,500 steps, a learning rate of 2e-3 after a warm-up of 100 steps; "
            f"all networks lack the same part, {part}."
        ),
    )
