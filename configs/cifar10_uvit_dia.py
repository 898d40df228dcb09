"""U-ViT-S/2 with one shared DIA-LSTM on CIFAR-10: the paper's setting (Fig. 8), U-ViT's recipe.

    accelerate launch train.py --config configs/cifar10_uvit_dia.py
    python eval_fid.py --checkpoint runs/cifar10_uvit_dia --num_images 50000

Recipe of the U-ViT authors: AdamW 2e-4, betas (0.99, 0.999), weight decay 0.03, warm-up 2,500
steps, batch 128, 500,000 steps, EMA 0.9999, horizontal flips. Departures from it: discrete DDPM
timesteps (linear betas 1e-4 .. 0.02, the discrete twin of their process) where they train in
continuous time, and bf16 where they use fp16 (on GPUs that have it; float32 on a CPU, where bf16 is
many times slower). 44,915,040 weights.
Not trained by us to the end yet: no result is claimed.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the complete config: all keys, in one list."""
    config = ConfigDict()
    config.seed = 0
    config.model = ConfigDict(
        {
            "img_size": 32,
            "patch_size": 2,
            "in_chans": 3,
            "embed_dim": 512,
            "depth": 12,
            "num_heads": 8,
            "mlp_ratio": 4.0,
            "qkv_bias": False,
            "mlp_time_embed": False,
            "num_classes": -1,
            "conv": True,
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
                "gate_init": "paper",
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
            "beta_schedule": "linear",
            "beta_start": 0.0001,
            "beta_end": 0.02,
            "prediction_type": "epsilon",
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
            "name": "cifar10",
            "path": "",
            "resize": False,
            "background": "white",
            "skip_unreadable": False,
            "held_out_images": 0,
            "memory_map": False,
            "stream_images": 0,
            "stream_all": False,
            "vae": "",
            "random_flip": True,
            "on_device": True,
        }
    )
    config.optimizer = ConfigDict(
        {
            "learning_rate": 2e-4,
            "lr_schedule": "constant",
            "warmup_steps": 2500,
            "betas": (0.99, 0.999),
            "eps": 1e-8,
            "weight_decay": 0.03,
            "max_grad_norm": 0.0,
        }
    )
    config.ema = ConfigDict({"decay": 0.9999, "halflife_images": 0, "rampup_ratio": 0.0})
    config.train = ConfigDict(
        {
            "batch_size": 128,
            "num_steps": 500_000,
            "accumulation_steps": 1,
            "label_dropout": 0.0,
            "mixed_precision": "auto",
            "compile": "auto",
            "gradient_checkpointing": False,
            "log_every_steps": 100,
            "checkpoint_every_steps": 5000,
            "keep_checkpoints": 2,
            "sample_every_steps": 10_000,
            "eval_every_steps": 0,
            "held_out_every_steps": 0,
            "tracker": "tensorboard",
        }
    )
    config.sample = ConfigDict(
        {
            "sampler": "dpmpp_2m",
            "num_steps": 50,
            "eta": 0.0,
            "variance_type": "fixed_large",
            "clip_sample": True,
            "guidance_scale": 1.0,
            "guidance_low": 0,
            "guidance_high": 1000000,
            "seed": 0,
            "batch_size": 500,
            "grid_images": 64,
        }
    )
    config.eval = ConfigDict(
        {
            "num_images": 50_000,
            "metrics": ("fid", "kid", "isc", "prc"),
            "extractor": "inception-v3-compat",
            "weights": "",
            "batch_size": 500,
        }
    )
    return config
