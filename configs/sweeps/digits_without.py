"""Networks on digits that lack a part, with and without the unit (Figs. 13 and 14, Table XVI).

    python -m uvit_dia.sweep --config configs/sweeps/digits_without.py:residual --workdir runs/digits_without_residual \
        --max_parallel 2
    python -m uvit_dia.report runs/digits_without_residual

After the colon: residual (what attention and MLP add to), layer_norm, or skip (the long skips). 9 runs: the network without
a unit, with the paper's DIA-LSTM, and with one that starts as the identity. Runs may diverge, which is a result. Cost by
the estimate of --dry_run, after the measured costs of digits_batch_size.py; not run by us yet.
"""

from ml_collections import ConfigDict

PARTS = ("residual", "layer_norm", "skip")


def get_config(part: str = "residual") -> ConfigDict:
    """Return the complete sweep config of networks without a part."""
    if part not in PARTS:
        raise ValueError(f"after the colon stands one of {', '.join(PARTS)}, not {part!r}")
    config = ConfigDict()
    config.base = "configs/digits_uvit_dia.py"
    config.baseline = "uvit"

    variants: dict[str, dict] = {"uvit": {"model": {"attention": "none"}}}
    for name, gate_init in (("dia_lstm", "paper"), ("dia_lstm_identity", "identity")):
        variants[name] = {"model": {"attention_options": {"gate_init": gate_init}}}
    config.variants = ConfigDict(variants, sort_keys=False)
    config.overrides = ConfigDict(
        {
            "model": {part: False},
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
    config.held_constant = (
        "Batch size 32, 1,500 steps, a learning rate of 2e-3 after a warm-up of 100 steps; "
        f"all networks lack the same part, {part}."
    )
    config.slurm = ConfigDict(
        {"partition": "", "timeout_minutes": 60, "gpus_per_run": 0, "cpus_per_run": 1}
    )
    return config
