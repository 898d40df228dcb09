"""Every attention unit on digits, shared by all blocks and one a block (the question of Table III).

    python -m uvit_dia.sweep --config configs/sweeps/digits_units.py \
        --workdir runs/digits_units --max_parallel 2
    python -m uvit_dia.report runs/digits_units

69 runs: no unit, and eleven units in two ways, three seeds each. All start as the identity, so that
the variants differ in attention and not in the scale that a fresh unit puts in front of the MLPs
(0.03 for SPEM, 0.25 for DIA-LSTM, 0.5 for SE). Cost by the estimate of --dry_run, after the
measured costs of digits_batch_size.py; not run by us yet.
"""

from ml_collections import ConfigDict

from configs.sweeps.common import NO_UNIT, digits_config

UNITS = (
    "lstm",
    "dia_lstm",
    "dia_lstm_light",
    "se",
    "eca",
    "cbam",
    "srm",
    "spa",
    "sge",
    "spem",
    "sem",
)


def get_config() -> ConfigDict:
    """Return the complete sweep config."""
    variants: dict[str, dict] = {"uvit": NO_UNIT}
    for unit in UNITS:
        for name, shared in ((unit, True), (f"{unit}_unshared", False)):
            options = {"shared": shared, "gate_init": "identity"}
            variants[name] = {"model": {"attention": unit, "attention_options": options}}
    return digits_config(
        variants=variants,
        held_constant=(
            "Batch size 32, 1,500 steps, a learning rate of 2e-3 after a warm-up of 100 steps; "
            "every unit starts as the identity."
        ),
    )
