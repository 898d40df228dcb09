"""Train a U-ViT; the same command as `uvit-dia train`.

accelerate launch train.py --config configs/cifar10_uvit_dia.py
"""

from uvit_dia import cli
from uvit_dia.training.command import main

if __name__ == "__main__":
    cli.run_command(main)
