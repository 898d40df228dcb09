"""The classifier of digits whose features measure the quickstart's samples, and its training.

`python -m uvit_dia.evaluation.digits_classifier OUT.safetensors` trains it again: 1,797 images of
scikit-learn's digits, 20 % of them held out to
measure its accuracy, 40 epochs, about half a minute on two cores.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

FEATURES = 64


class DigitsClassifier(nn.Module):
    """Three convolutions and two Linear layers for 8x8 grey images.

    Its features are what enters the last layer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(32, 64, 3, padding=1, stride=2),
            nn.GELU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(64 * 16, FEATURES),
            nn.GELU(),
        )
        self.head = nn.Linear(FEATURES, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return features, (B, 64) float32, of images, (B, 1, 8, 8) uint8."""
        return self.body(images.float() / 127.5 - 1)

    def logits(self, images: Tensor) -> Tensor:
        """Return class logits, (B, 10), of images, (B, 1, 8, 8) uint8."""
        return self.head(self(images))


def load_digits_classifier(path: Path) -> DigitsClassifier:
    """Load the classifier from a safetensors file, in evaluation mode."""
    classifier = DigitsClassifier()
    classifier.load_state_dict(load_file(path))
    return classifier.eval()


def train_digits_classifier(seed: int = 0, epochs: int = 40) -> tuple[DigitsClassifier, float]:
    """Train the classifier with small shifts as augmentation; return it and its accuracy."""
    from uvit_dia.data.sources import load_image_set

    digits = load_image_set("digits", "", "train", img_size=8, in_chans=1)
    assert digits is not None and digits.labels is not None  # they ship with scikit-learn
    torch.manual_seed(seed)
    order = torch.randperm(len(digits))
    held_out, train = order[: len(order) // 5], order[len(order) // 5 :]
    classifier = DigitsClassifier()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=0.05)
    steps = epochs * (len(train) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for _ in range(steps):
        batch = train[torch.randint(len(train), (64,))]
        images = digits.images[batch].roll(int(torch.randint(-1, 2, ())), dims=-1)
        loss = F.cross_entropy(classifier.logits(images), digits.labels[batch], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        right = (
            classifier.eval().logits(digits.images[held_out]).argmax(1) == digits.labels[held_out]
        )
    return classifier, right.float().mean().item()


if __name__ == "__main__":
    trained, accuracy = train_digits_classifier()
    save_file(trained.state_dict(), sys.argv[1])
    print(f"held-out accuracy {accuracy:.4f}, saved to {sys.argv[1]}")
