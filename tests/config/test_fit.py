"""Which values of a config must fit each other."""

import pytest

from tests.support.configs import changed, refusal
from uvit_dia.config.checks import make_config
from uvit_dia.config.rules import parse_blocks


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"model.patch_size": 3}, ("model.img_size = 8", "model.patch_size = 3")),
        ({"model.depth": 5}, ("model.depth = 5", "even")),
        ({"model.num_heads": 5}, ("model.embed_dim = 64", "model.num_heads = 5")),
        ({"model.mlp_ratio": 0.001}, ("model.mlp_ratio = 0.001", "model.embed_dim = 64")),
        (
            {"model.attention_options.reduction": 5},
            ("model.attention_options.reduction = 5", "model.embed_dim = 64"),
        ),
        (
            {"model.attention": "spa", "model.attention_options.reduction": 5},
            ("model.attention_options.reduction = 5", "model.embed_dim = 64"),
        ),
        (
            {"model.attention": "sge", "model.attention_options.groups": 5},
            ("model.attention_options.groups = 5", "model.embed_dim = 64"),
        ),
        (
            {"model.attention": "se", "model.attention_options.num_cells": 2},
            ("num_cells belong to lstm, dia_lstm, dia_lstm_light", "'se'"),
        ),
        (
            {"model.attention": "eca", "model.attention_options.activation": "tanh"},
            ("activation and num_cells", "'eca'"),
        ),
        (
            {"model.attention_options.activation": "relu"},
            ("gate_init = 'identity'", "sigmoid or tanh"),
        ),
        (
            {
                "model.attention": "srm",
                "model.attention_options.gate_init": "paper",
                "train.gradient_checkpointing": True,
            },
            ("train.gradient_checkpointing = True", "'srm'", "allowed is False"),
        ),
        ({"model.attention_options.blocks": "0,5"}, ("block 5", "depth = 4", "0 to 4")),
        ({"model.num_classes": 9}, ("model.num_classes = 9", "digits has 10 classes")),
        ({"model.num_classes": 11}, ("model.num_classes = 11", "digits has 10 classes")),
        (
            {"model.num_classes": 10, "train.label_dropout": 0.1},
            ("model.num_classes = 10", "10 classes and one label for no class"),
        ),
        ({"train.label_dropout": 0.1}, ("train.label_dropout = 0.1", "2 or more", "got -1")),
        ({"sample.guidance_scale": 2.0}, ("guidance_scale = 2.0", "train.label_dropout above 0")),
        (
            {"sample.guidance_low": 9, "sample.guidance_high": 8},
            ("guidance interval 9,8", "without classes"),
        ),
        (
            {"diffusion.beta_schedule": "linear", "diffusion.beta_end": 0.5},
            ("beta_end = 0.5", "num_train_timesteps = 1000", "lost to float32 from step"),
        ),
        (
            {"diffusion.beta_schedule": "scaled_linear", "diffusion.num_train_timesteps": 50_000},
            ("beta_end = 0.02", "num_train_timesteps = 50000", "scaled_linear"),
        ),
        ({"diffusion.beta_start": 0.5}, ("beta_start = 0.5", "beta_end = 0.02")),
        (
            {"train.accumulation_steps": 3},
            ("train.batch_size = 64", "train.accumulation_steps = 3"),
        ),
        ({"ema.halflife_images": 1000}, ("ema.decay = 0.999", "ema.halflife_images = 1000")),
        ({"ema.decay": 0.0}, ("ema.decay = 0.0", "ema.halflife_images = 0")),
        ({"data.name": "folder"}, ("data.path", "'folder'")),
        ({"data.name": "parquet"}, ("data.path", "'parquet'")),
    ],
)
def test_values_must_fit_each_other(changes: dict[str, object], parts: tuple[str, ...]) -> None:
    message = refusal(changed(changes))
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    "changes",
    [
        {"model.attention": "none", "model.attention_options.reduction": 5},
        {"model.attention": "lstm", "model.attention_options.reduction": 5},
        {"model.attention": "eca", "model.attention_options.reduction": 5},
        {"model.attention": "se", "model.attention_options.groups": 5},
        {"model.residual": False, "model.layer_norm": False, "model.skip": False},
        {
            "model.attention_options.activation": "relu",
            "model.attention_options.gate_init": "paper",
        },
        {"ema.decay": 0.0, "ema.halflife_images": 1000},
        {"train.accumulation_steps": 4},
        {"model.mlp_ratio": 1 / 64},
        {"diffusion.beta_schedule": "linear", "diffusion.beta_end": 0.16},  # alpha-bar of 1e-37
        {"diffusion.beta_schedule": "squaredcos_cap_v2", "diffusion.beta_end": 0.999},
        {"data.name": "folder", "data.path": "somewhere"},
    ],
)
def test_what_fits_is_accepted(changes: dict[str, object]) -> None:
    make_config(changed(changes))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("all", "all"),
        ("3", [3]),
        ("0,1, 2", [0, 1, 2]),
        ("[2, 0]", [0, 2]),
        ("(1,)", [1]),
        ((3, 1, 1), [1, 3]),
        ([0], [0]),
    ],
)
def test_blocks_are_read_in_any_form(value: object, expected: object) -> None:
    assert parse_blocks(value) == expected
