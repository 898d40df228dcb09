"""What the options of the paper's DIA-LSTM do on digits: reduction, activation, cells, blocks (Tables XII, XIV, Fig. 10).

    python -m uvit_dia.sweep --config configs/sweeps/digits_ablations.py --workdir runs/digits_ablations --max_parallel 2
    python -m uvit_dia.report runs/digits_ablations

36 runs; each variant changes one option of the paper's unit. They took 19 min 19 s on 2 cores of a server (AMD EPYC, no
GPU); results/digits_ablations has what came out.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the complete sweep config."""
    config = ConfigDict()
    config.base = "configs/digits_uvit_dia.py"
    config.baseline = "uvit"

    def unit(**options: object) -> dict:
        return {"model": {"attention_options": {"gate_init": "paper", **options}}}

    variants = {
        "uvit": {"model": {"attention": "none"}},
        "dia_lstm": unit(),
        "r1": unit(reduction=1),  # Table XII; dia_lstm has r = 4
        "r8": unit(reduction=8),
        "r16": unit(reduction=16),
        "tanh": unit(activation="tanh"),  # Table XIV; dia_lstm has a sigmoid
        "relu": unit(activation="relu"),
        "cells3": unit(num_cells=3),
        "blocks_0": unit(blocks="0"),  # Fig. 10; dia_lstm has all five
        "blocks_0_2": unit(blocks="0,2"),
        "blocks_0_2_4": unit(blocks="0,2,4"),
        "unshared": unit(shared=False),
    }
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
    config.held_constant = "Batch size 32, 1,500 steps, a learning rate of 2e-3 after a warm-up of 100 steps; each variant changes one thing."
    config.slurm = ConfigDict(
        {"partition": "", "timeout_minutes": 60, "gpus_per_run": 0, "cpus_per_run": 1}
    )
    return config
