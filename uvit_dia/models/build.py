"""From a config's model group to a network."""

import torch

from uvit_dia.config.rules import parse_blocks
from uvit_dia.config.schema import Config
from uvit_dia.models import UViT
from uvit_dia.rng import position_seed
from uvit_dia.system.errors import InputError


def make_model(config: Config) -> UViT:
    """Make the network of a config, its weights drawn from the seed, the same on every process.

    Raises:
        InputError: if the network refuses a value that the config's check let through.
    """
    arguments = config.model.to_dict(with_absent=True)
    arguments["attention_options"]["blocks"] = parse_blocks(config.model.attention_options.blocks)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(position_seed(config.seed, "initial weights"))
        try:
            return UViT(**arguments)
        except ValueError as error:
            raise InputError(f"model: {' '.join(str(error).split())[:140]}") from error
