"""How training on digits behaves as the batch shrinks, with and without DIA.

python -m uvit_dia.sweep --config configs/sweeps/digits_batch_size.py --workdir runs/digits_batch_size --max_parallel 2

48 runs of 1,500 steps and their evaluations; the costs below were measured with a thread a cell and two cells at once
on 2 cores of a server (AMD EPYC, no GPU).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the complete sweep config."""
    config = ConfigDict()
    config.base = "configs/digits_uvit_dia.py"
    config.baseline = "uvit"
    config.variants = ConfigDict(
        {
            "uvit": {"model": {"attention": "none"}},
            "dia_lstm": {
                "model": {"attention": "dia_lstm", "attention_options": {"gate_init": "paper"}}
            },
            "dia_lstm_light": {
                "model": {
                    "attention": "dia_lstm_light",
                    "attention_options": {"gate_init": "paper"},
                }
            },
            "dia_lstm_identity": {
                "model": {"attention": "dia_lstm", "attention_options": {"gate_init": "identity"}}
            },
        },
        sort_keys=False,
    )
    config.overrides = ConfigDict(
        {
            "optimizer": {"lr_schedule": "constant", "warmup_steps": 100},
            "train": {"log_every_steps": 50, "checkpoint_every_steps": 500, "tracker": "none"},
        }
    )
    config.batch_sizes = (8, 16, 32, 64)
    config.seeds = (0, 1, 2)
    config.budget = "steps"
    config.budget_amount = 1500
    config.lr_rule = "constant"
    config.reference_batch_size = 64
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
        "Steps (1,500) and learning rate (2e-3 after a warm-up of 100 steps) are the same for every batch size, as in "
        "the paper's Fig. 8; a smaller batch therefore sees fewer images. The EMA is the same function of the step."
    )
    config.slurm = ConfigDict(
        {"partition": "", "timeout_minutes": 60, "gpus_per_run": 0, "cpus_per_run": 1}
    )
    return config
