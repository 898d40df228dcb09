"""Every attention unit on digits, shared by all blocks and one a block (the question of Table III).

    python -m uvit_dia.sweep --config configs/sweeps/digits_units.py --workdir runs/digits_units --max_parallel 2
    python -m uvit_dia.report runs/digits_units

69 runs: no unit, and eleven units in two ways, three seeds each. All start as the identity, so that the variants differ in
attention and not in the scale that a fresh unit puts in front of the MLPs (0.03 for SPEM, 0.25 for DIA-LSTM, 0.5 for
SE). Cost by the estimate of --dry_run, after the measured costs of digits_batch_size.py; not run by us yet.
"""

from ml_collections import ConfigDict

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
    config = ConfigDict()
    config.base = "configs/digits_uvit_dia.py"
    config.baseline = "uvit"
    variants: dict[str, dict] = {"uvit": {"model": {"attention": "none"}}}
    for unit in UNITS:
        for name, shared in ((unit, True), (f"{unit}_unshared", False)):
            options = {"shared": shared, "gate_init": "identity"}
            variants[name] = {"model": {"attention": unit, "attention_options": options}}
    config.variants = ConfigDict(variants, sort_keys=False)
    config.overrides = ConfigDict(
        {
            "optimizer": {"lr_schedule": "constant", "warmup_steps": 100},
            "train": {"log_every_steps": 50, "checkpoint_every_steps": 500, "tracker": "none"},
        }
    )
    config.batch_sizes = (32,)
    config.seeds = (0, 1, 2)
    config.budget = "steps"
    config.budget_amount = 1500
    config.lr_rule = "constant"
    config.reference_batch_size = 32
    config.ema_rule = "base"
    config.ema_halflife_images = 0
    config.eval = ConfigDict(
        {
            "num_images": 500,
            "sampler": "dpmpp_2m",
            "num_steps": 20,
            "seed": 0,
            "num_repeats": 3,
            "extractor": "",
            "weights": "",
        }
    )
    config.num_processes = 1
    config.threads_per_cell = 1
    config.seconds_per_image = 0.00062
    config.seconds_per_step = 0.0073
    config.seconds_per_cell = 22.0
    config.held_constant = "Batch size 32, 1,500 steps, a learning rate of 2e-3 after a warm-up of 100 steps; every unit starts as the identity."
    config.slurm = ConfigDict(
        {"partition": "", "timeout_minutes": 60, "gpus_per_run": 0, "cpus_per_run": 1}
    )
    return config
