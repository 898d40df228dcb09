"""A run's config: every key with its type, range, unit and meaning.

A config is complete and holds no other key. Its groups are declared in `network.py`, `training.py`
and `sampling.py`, each key in one line; `checks.py` says which values must fit each other.
"""

from dataclasses import dataclass

from uvit_dia.config.fields import Group, flat_rules, key, schema_of, shown
from uvit_dia.config.network import DiffusionConfig, ModelConfig
from uvit_dia.config.rules import Rule, integer
from uvit_dia.config.sampling import SAMPLERS, EvalConfig, SampleConfig
from uvit_dia.config.training import LATENTS, DataConfig, EMAConfig, OptimizerConfig, TrainConfig
from uvit_dia.system.errors import InputError, nearest

__all__ = [
    "RULES",
    "SAMPLERS",
    "Config",
    "DataConfig",
    "DiffusionConfig",
    "EMAConfig",
    "EvalConfig",
    "ModelConfig",
    "OptimizerConfig",
    "SampleConfig",
    "TrainConfig",
    "rule_of",
]


@dataclass(frozen=True, kw_only=True)
class Config(Group):
    """All that a run is.

    `checks.make_config` makes it, from whatever source.
    """

    seed: int = key(integer(0, 2**31 - 1), "Decides everything random in the training")
    model: ModelConfig
    diffusion: DiffusionConfig
    data: DataConfig
    optimizer: OptimizerConfig
    ema: EMAConfig
    train: TrainConfig
    sample: SampleConfig
    eval: EvalConfig

    @property
    def is_conditional(self) -> bool:
        """Whether the network is told the class of an image."""
        return self.model.num_classes > 0

    @property
    def is_latent(self) -> bool:
        """Whether x_0 is the latent of an autoencoder, and not the pixels of an image."""
        return self.data.name == LATENTS

    @property
    def makes_pictures(self) -> bool:
        """Whether samples are grey or RGB; autoencoders of latents make nothing else."""
        return self.is_latent or self.model.in_chans in (1, 3)

    @property
    def null_class(self) -> int | None:
        """The label for "no class", the network's last one; None where none was trained."""
        return self.model.num_classes - 1 if self.train.label_dropout else None

    @property
    def num_data_classes(self) -> int:
        """How many classes the images have; 0 for an unconditional network."""
        return max(self.model.num_classes, 0) - (self.null_class is not None)


RULES: dict[str, Rule] = dict(flat_rules(schema_of(Config)))  # by dotted key


def rule_of(name: str) -> Rule:
    """Return the rule of a dotted key.

    Raises:
        InputError: if no config has it, with the nearest one, or if it is a group of keys.
    """
    if name in RULES:
        return RULES[name]
    for other in RULES:
        if other.startswith(name + "."):
            raise InputError(f"--config.{name} is a group of keys, such as --config.{other}")
    raise InputError(f"unknown config key {shown(name, str)}{nearest(name, RULES)}")
