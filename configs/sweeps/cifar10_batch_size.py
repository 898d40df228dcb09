"""FID against batch size at the paper's scale (Fig. 8).

U-ViT-S/2 on CIFAR-10 with and without DIA, 500,000 steps.

    python -m uvit_dia.sweep --config configs/sweeps/cifar10_batch_size.py \
        --workdir runs/cifar10_batch_size --cluster slurm
    python -m uvit_dia.report runs/cifar10_batch_size

Held constant over batch sizes: optimizer steps, as in the figure, and the learning rate of the
U-ViT authors' recipe (2e-4 at batch 128); so a batch of 32 sees a quarter of the images of one of
128. The EMA of 0.9999 a step is the same function of the step. The variants at one batch size have
everything in common but the unit. The figure's batch sizes are not in the paper's text, but for 32.

36 runs of 44 million weights: days of one GPU each, so it is meant for a cluster, where a run that
is preempted or reaches its time limit saves its state and goes back in the queue. Not run by us
yet: neither time nor result is claimed. Needs Inception's weights; get them once with eval_fid.py
--download_weights.
"""

from ml_collections import ConfigDict

from configs.sweeps.common import NO_UNIT, steps_held_constant, sweep_config


def get_config() -> ConfigDict:
    """Return the complete sweep config."""
    return sweep_config(
        base="configs/cifar10_uvit_dia.py",
        variants={
            "uvit": NO_UNIT,
            "dia_lstm": {"model": {"attention": "dia_lstm"}},
            "dia_lstm_light": {"model": {"attention": "dia_lstm_light"}},
        },
        overrides={},
        batch_sizes=(32, 64, 128, 256),
        num_steps=500_000,
        reference_batch_size=128,
        held_constant=steps_held_constant(500_000, "2e-4", 2500),
        evaluation={"num_images": 50_000, "num_steps": 50, "num_repeats": 3},
        threads_per_cell=4,
        slurm={"timeout_minutes": 1440, "gpus_per_run": 1, "cpus_per_run": 4},
    )
