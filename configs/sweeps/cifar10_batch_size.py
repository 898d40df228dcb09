"""FID against batch size at the paper's scale (Fig. 8): U-ViT-S/2 on CIFAR-10 with and without DIA, 500,000 steps.

    python -m uvit_dia.sweep --config configs/sweeps/cifar10_batch_size.py --workdir runs/cifar10_batch_size --cluster slurm
    python -m uvit_dia.report runs/cifar10_batch_size

Held constant over batch sizes: optimizer steps, as in the figure, and the learning rate of the U-ViT authors' recipe
(2e-4 at batch 128); so a batch of 32 sees a quarter of the images of one of 128. The EMA of 0.9999 a step is the same
function of the step. The variants at one batch size have everything in common but the unit. The figure's batch sizes
are not in the paper's text, but for 32.

36 runs of 44 million weights: days of one GPU each, so it is meant for a cluster, where a run that is preempted or
reaches its time limit saves its state and goes back in the queue. Not run by us yet: neither time nor result is claimed.
Needs Inception's weights; get them once with eval_fid.py --download_weights.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the complete sweep config."""
    config = ConfigDict()
    config.base = "configs/cifar10_uvit_dia.py"
    config.baseline = "uvit"
    config.variants = ConfigDict(
        {
            "uvit": {"model": {"attention": "none"}},
            "dia_lstm": {"model": {"attention": "dia_lstm"}},
            "dia_lstm_light": {"model": {"attention": "dia_lstm_light"}},
        },
        sort_keys=False,
    )
    config.overrides = ConfigDict()
    config.batch_sizes = (32, 64, 128, 256)
    config.seeds = (0, 1, 2)
    config.budget = "steps"
    config.budget_amount = 500_000
    config.lr_rule = "constant"
    config.reference_batch_size = 128
    config.ema_rule = "base"
    config.ema_halflife_images = 0
    config.eval = ConfigDict(
        {
            "num_images": 50_000,
            "sampler": "dpmpp_2m",
            "num_steps": 50,
            "seed": 0,
            "num_repeats": 3,
            "extractor": "",
            "weights": "",
        }
    )
    config.num_processes = 1
    config.threads_per_cell = 4
    config.seconds_per_image = 0.0  # not measured yet
    config.seconds_per_step = 0.0
    config.seconds_per_cell = 0.0
    config.held_constant = (
        "Steps (500,000) and learning rate (2e-4 after a warm-up of 2,500 steps) are the same for every batch size, as "
        "in the paper's Fig. 8; a smaller batch therefore sees fewer images. The EMA is the same function of the step."
    )
    config.slurm = ConfigDict(
        {"partition": "", "timeout_minutes": 1440, "gpus_per_run": 1, "cpus_per_run": 4}
    )
    return config
