"""How classifiers are trained: the paper's recipe for CIFAR, and those of its other experiments.

CIFAR (Sec. IV of arXiv:2210.16101 and its authors' code): SGD with momentum 0.9, weight decay 1e-4,
batch 128, 164 epochs, learning rate 0.1, a tenth of it after half and again after three quarters of
the epochs. The text gives no recipe for ViT; `vit` is DeiT's (arXiv:2012.12877) without its strong
augmentations.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Recipe:
    """How long, with what and how fast a classifier is trained.

    Attributes:
        optimizer: "sgd" (momentum 0.9, Nesterov's form is not used) or "adamw".
        learning_rate: the highest, at `batch_size`.
        weight_decay: of all weights.
        batch_size: global.
        num_epochs: length.
        milestones: parts of the length after which the rate is a tenth; () for a cosine to 0.
        warmup_epochs: of a linear rise.
        crop: "pad" pads by an eighth and crops, "resized" crops a random part and scales it.
        flip: whether images are mirrored at random.
        label_smoothing: of the cross-entropy.
    """

    optimizer: str = "sgd"
    learning_rate: float = 0.1
    weight_decay: float = 1e-4
    batch_size: int = 128
    num_epochs: int = 164
    milestones: tuple[float, ...] = (0.5, 0.75)
    warmup_epochs: float = 0.0
    crop: str = "pad"
    flip: bool = True
    label_smoothing: float = 0.0

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Make the optimizer of a model's weights."""
        weights = [p for p in model.parameters() if p.requires_grad]
        if self.optimizer == "adamw":
            return torch.optim.AdamW(weights, lr=self.learning_rate, weight_decay=self.weight_decay)
        return torch.optim.SGD(
            weights, lr=self.learning_rate, momentum=0.9, weight_decay=self.weight_decay
        )

    def lr_factor(self, epoch: float) -> float:
        """Return the share of the highest learning rate at a point of the run, in epochs."""
        if epoch < self.warmup_epochs:
            return (epoch + 1e-3) / self.warmup_epochs
        progress = epoch / self.num_epochs
        if not self.milestones:
            return 0.5 * (1 + math.cos(math.pi * progress))
        return 0.1 ** sum(progress >= milestone for milestone in self.milestones)


class ByRecipe:
    """The part of a `training.Task` that a recipe decides."""

    model: nn.Module
    recipe: Recipe

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Make the recipe's optimizer."""
        return self.recipe.make_optimizer(self.model)

    def lr_factor(self, epoch: float) -> float:
        """Return the share of the highest learning rate at a point of the run, in epochs."""
        return self.recipe.lr_factor(epoch)


RECIPES = {
    "cifar": Recipe(),
    "imagenet": Recipe(batch_size=256, num_epochs=100, milestones=(0.3, 0.6, 0.9), crop="resized"),
    "vit": Recipe(
        optimizer="adamw",
        learning_rate=5e-4,
        weight_decay=0.05,
        batch_size=512,
        num_epochs=300,
        milestones=(),
        warmup_epochs=5,
        crop="resized",
        label_smoothing=0.1,
    ),
    # 8x8 digits: a mirrored 2 is no 2
    "digits": Recipe(batch_size=64, num_epochs=30, flip=False),
    # Adam at 1e-3 in batches of 16, as CheXNet (arXiv:1711.05225) has it; mirrored, a heart is on
    # the wrong side
    "xray": Recipe(
        optimizer="adamw",
        learning_rate=1e-3,
        batch_size=16,
        num_epochs=30,
        milestones=(),
        warmup_epochs=1,
        flip=False,
    ),
}
