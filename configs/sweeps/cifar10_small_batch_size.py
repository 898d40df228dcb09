"""FID against batch size, 16 to 512, of the small CIFAR-10 U-ViT with and without a unit.

    python -m uvit_dia.sweep --config configs/sweeps/cifar10_small_batch_size.py \
        --workdir runs/cifar10_small_batch_size \
        --max_parallel 12
    python -m uvit_dia.report runs/cifar10_small_batch_size

Held constant over batch sizes: optimizer steps and learning rate (the paper's Fig. 8 does not say),
so a small batch sees fewer images; and the EMA as a function of the step. The variants at one batch
size have everything in common but the unit. To hold images instead: --config.budget=images
--config.budget_amount=512000 --config.ema_rule=halflife_images --config.ema_halflife_images=25000,
which is another sweep and needs a folder of its own.

Not compiled: a run is so short that compiling it would take a large part of it. 72 runs, meant for
25 minutes of one modern GPU with cells in parallel, or for a Slurm cluster. Not run by us yet:
neither time nor result is claimed. Needs Inception's weights; get them once with eval_fid.py
--download_weights.
"""

from ml_collections import ConfigDict

from configs.sweeps.common import NO_UNIT, steps_held_constant, sweep_config


def get_config() -> ConfigDict:
    """Return the complete sweep config."""
    return sweep_config(
        base="configs/cifar10_small_uvit_dia.py",
        variants={
            "uvit": NO_UNIT,
            "dia_lstm": {"model": {"attention": "dia_lstm"}},
            "dia_lstm_light": {"model": {"attention": "dia_lstm_light"}},
            "dia_lstm_identity": {"model": {"attention_options": {"gate_init": "identity"}}},
        },
        overrides={
            "optimizer": {"warmup_steps": 200},
            "train": {"compile": False, "checkpoint_every_steps": 1000, "tracker": "none"},
        },
        batch_sizes=(16, 32, 64, 128, 256, 512),
        num_steps=4000,
        reference_batch_size=128,
        held_constant=steps_held_constant(4000, "5e-4", 200),
        evaluation={"num_images": 10_000, "num_steps": 20, "num_repeats": 1},
        slurm={"timeout_minutes": 120, "gpus_per_run": 1, "cpus_per_run": 4},
    )
