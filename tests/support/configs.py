"""Configs for tests: the quickstart's with changes, and single groups of keys."""

import copy
from dataclasses import replace
from functools import reduce
from typing import Any

import pytest

from configs.digits_uvit_dia import get_config
from uvit_dia.config.checks import make_config
from uvit_dia.config.schema import Config, DiffusionConfig, SampleConfig
from uvit_dia.system.errors import InputError

LINEAR = DiffusionConfig(
    num_train_timesteps=1000,
    beta_schedule="linear",
    beta_start=1e-4,
    beta_end=0.02,
    prediction_type="epsilon",
    loss_weighting="none",
    min_snr_gamma=5.0,
)
SAMPLE = SampleConfig(
    sampler="dpmpp_2m",
    num_steps=20,
    eta=0.0,
    variance_type="fixed_large",
    clip_sample=True,
    seed=0,
    batch_size=16,
    grid_images=16,
)


def diffusion_config(**changes: object) -> DiffusionConfig:
    """Return a forward process: Ho et al.'s linear schedule, but for the changes."""
    return replace(LINEAR, **changes)  # type: ignore[arg-type]


def sample_config(**changes: object) -> SampleConfig:
    """Return sampler settings."""
    return replace(SAMPLE, **changes)  # type: ignore[arg-type]


def changed(changes: dict[str, object] | None = None) -> dict[str, Any]:
    """Return the quickstart's values with dotted keys changed, or removed where they are `...`."""
    tree = get_config().to_dict()
    for key, value in (changes or {}).items():
        *groups, leaf = key.split(".")
        group = reduce(dict.__getitem__, groups, tree)
        if value is ...:
            group.pop(leaf, None)
        else:
            group[leaf] = value
    return tree


def with_value(config: Config, key: str, value: object) -> Config:
    """Return a copy of a config that holds any value, allowed or not, under a dotted key."""
    config = copy.deepcopy(config)
    *groups, leaf = key.split(".")
    object.__setattr__(reduce(getattr, groups, config), leaf, value)
    return config


def refusal(tree: dict[str, Any]) -> str:
    """Return why the values of a config are refused."""
    with pytest.raises(InputError) as caught:
        make_config(tree)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) <= 200
    return message
