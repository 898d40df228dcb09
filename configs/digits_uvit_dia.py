"""Quickstart: a small U-ViT with one shared DIA-LSTM learns scikit-learn's 1,797 digits on a CPU.

    python train.py --config configs/digits_uvit_dia.py --workdir runs/quickstart
    python eval_fid.py --checkpoint runs/quickstart --num_images 500

Choices for 8x8 grey images: on so few pixels the linear schedule spends most timesteps on pure
noise, where a prediction of epsilon says little. Hence the cosine schedule with v prediction. A
learning rate that falls to zero gives clean samples in a short run; of the highest rates that we
tried, 1e-3 learnt too slowly and 4e-3 too coarsely. The unit starts as the identity, which learnt
faster than the paper's gate (`--config.model.attention_options.gate_init=paper`). The network does
not end in a convolution (`conv`): with one image channel it would be a single 3x3 filter that all
output passes, and from some initial weights it stays deaf to some spatial frequencies. That was so
for one seed of three in results/appendix/digits_batch_size, at every batch size and in every
variant. For cost and result see the README.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the complete config: all keys, in one list."""
    config = ConfigDict()
    config.seed = 0
    config.model = ConfigDict(
        {
            "img_size": 8,
            "patch_size": 2,
            "in_chans": 1,
            "embed_dim": 64,
            "depth": 4,
            "num_heads": 4,
            "mlp_ratio": 4.0,
            "qkv_bias": False,
            "mlp_time_embed": True,
            "num_classes": -1,
            "conv": False,
            "skip": True,
            "residual": True,
            "layer_norm": True,
            "attention": "dia_lstm",
            "attention_options": {
                "shared": True,
                "reduction": 4,
                "groups": 8,
                "activation": "default",
                "num_cells": 1,
                "pool": "all",
                "blocks": "all",
                "gate_init": "identity",
                "gate_form": "h",
                "place": "mlp_input",
                "linear_init": "u_vit",
                "time_first_state": False,
                "forget_bias": 0.0,
                "variance": "biased",
                "normalisation": "default",
                "mixture_penalty": 0.0,
                "constant": 0.25,
            },
        }
    )
    config.diffusion = ConfigDict(
        {
            "num_train_timesteps": 1000,
            "beta_schedule": "squaredcos_cap_v2",
            "beta_start": 0.0001,
            "beta_end": 0.02,
            "prediction_type": "v_prediction",
            "loss_weighting": "none",
            "min_snr_gamma": 5.0,
            "process": "ddpm",
            "time_sampling": "uniform",
            "logit_mean": 0.0,
            "logit_std": 1.0,
            "time_labels": "steps",
        }
    )
    config.data = ConfigDict(
        {
            "name": "digits",
            "path": "",
            "resize": False,
            "background": "white",
            "skip_unreadable": False,
            "held_out_images": 0,
            "memory_map": False,
            "stream_images": 0,
            "stream_all": False,
            "vae": "",
            "random_flip": False,
            "on_device": True,
        }
    )
    config.optimizer = ConfigDict(
        {
            "learning_rate": 2e-3,
            "lr_schedule": "cosine",
            "warmup_steps": 200,
            "betas": (0.9, 0.99),
            "eps": 1e-8,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
        }
    )
    config.ema = ConfigDict({"decay": 0.999, "halflife_images": 0, "rampup_ratio": 0.05})
    config.train = ConfigDict(
        {
            "batch_size": 64,
            "num_steps": 6000,
            "accumulation_steps": 1,
            "label_dropout": 0.0,
            "mixed_precision": "no",
            "compile": False,
            "gradient_checkpointing": False,
            "log_every_steps": 100,
            "checkpoint_every_steps": 1000,
            "keep_checkpoints": 2,
            "sample_every_steps": 1000,
            "eval_every_steps": 0,
            "held_out_every_steps": 0,
            "tracker": "tensorboard",
        }
    )
    config.sample = ConfigDict(
        {
            "sampler": "dpmpp_2m",
            "num_steps": 20,
            "eta": 0.0,
            "variance_type": "fixed_large",
            "clip_sample": True,
            "guidance_scale": 1.0,
            "guidance_low": 0,
            "guidance_high": 1000000,
            "seed": 0,
            "batch_size": 250,
            "grid_images": 64,
        }
    )
    config.eval = ConfigDict(
        {
            "num_images": 500,
            "metrics": ("fid", "kid", "isc", "prc"),
            "extractor": "digits",
            "weights": "",
            "batch_size": 500,
        }
    )
    return config
