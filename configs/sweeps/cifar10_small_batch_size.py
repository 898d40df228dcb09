"""FID against batch size, 16 to 512, of the small CIFAR-10 U-ViT with and without a unit.

    python -m uvit_dia.sweep --config configs/sweeps/cifar10_small_batch_size.py --workdir runs/cifar10_small_batch_size \
        --max_parallel 12
    python -m uvit_dia.report runs/cifar10_small_batch_size

Held constant over batch sizes: optimizer steps and learning rate, as in the paper's Fig. 8, so a small batch sees fewer
images; and the EMA as a function of the step. The variants at one batch size have everything in common but the unit.
To hold images instead: --config.budget=images --config.budget_amount=512000 --config.ema_rule=halflife_images
--config.ema_halflife_images=25000, which is another sweep and needs a folder of its own.

Not compiled: a run is so short that compiling it would take a large part of it. 72 runs, meant for 25 minutes of one
modern GPU with cells in parallel, or for a Slurm cluster. Not run by us yet: neither time nor result is claimed.
Needs Inception's weights; get them once with eval_fid.py --download_weights.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the complete sweep config."""
    config = ConfigDict()
    config.base = "configs/cifar10_small_uvit_dia.py"
    config.baseline = "uvit"
    config.variants = ConfigDict(
        {
            "uvit": {"model": {"attention": "none"}},
            "dia_lstm": {"model": {"attention": "dia_lstm"}},
            "dia_lstm_light": {"model": {"attention": "dia_lstm_light"}},
            "dia_lstm_identity": {"model": {"attention_options": {"gate_init": "identity"}}},
        },
        sort_keys=False,
    )
    config.overrides = ConfigDict(
        {
            "optimizer": {"warmup_steps": 200},
            "train": {"compile": False, "checkpoint_every_steps": 1000, "tracker": "none"},
        }
    )
    config.batch_sizes = (16, 32, 64, 128, 256, 512)
    config.seeds = (0, 1, 2)
    config.budget = "steps"
    config.budget_amount = 4000
    config.lr_rule = "constant"
    config.reference_batch_size = 128
    config.ema_rule = "base"
    config.ema_halflife_images = 0
    config.eval = ConfigDict(
        {
            "num_images": 10_000,
            "sampler": "dpmpp_2m",
            "num_steps": 20,
            "seed": 0,
            "num_repeats": 1,
            "extractor": "",
            "weights": "",
        }
    )
    config.num_processes = 1
    config.threads_per_cell = 1
    config.seconds_per_image = 0.0  # not measured yet
    config.seconds_per_step = 0.0
    config.seconds_per_cell = 0.0
    config.held_constant = (
        "Steps (4,000) and learning rate (5e-4 after a warm-up of 200 steps) are the same for every batch size, as in "
        "the paper's Fig. 8; a smaller batch therefore sees fewer images. The EMA is the same function of the step."
    )
    config.slurm = ConfigDict(
        {"partition": "", "timeout_minutes": 120, "gpus_per_run": 1, "cpus_per_run": 4}
    )
    return config
