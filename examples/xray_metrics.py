"""What is measured of findings: accuracy and area under the ROC curve (AUC), of each class too."""

from collections.abc import Sequence
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

THRESHOLD = 0.5  # from which a finding is reported, as MedMNIST's evaluator has it


def measure(logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> dict[str, Any]:
    """Measure the findings of a test set.

    Of one class an image, a class's accuracy is the share of its images that are found (recall),
    and its AUC is that of one class against the others, by softmax. Of several findings, a class's
    accuracy is the share of all images that are told right about it (sigmoid at 0.5), and the
    overall accuracy is the mean of these, as MedMNIST's evaluator has it.

    Args:
        logits: (N, K).
        labels: int64, (N,) of classes, or (N, K) of 0 and 1.
        class_names: K.

    Returns:
        accuracy: percent. mean_auc: in [0, 1], over the classes that have one. per_class: by name,
        accuracy (percent), auc and num_images (with that class). What an absent class lacks is
        None.
    """
    is_multi_label = labels.dim() == 2
    logits, labels = logits.detach().double().cpu(), labels.cpu()
    if is_multi_label:
        scores, truth = logits.sigmoid(), labels.bool()
        right = (scores >= THRESHOLD) == truth  # N K
    else:
        scores = logits.softmax(dim=1)
        truth = torch.nn.functional.one_hot(labels, len(class_names)).bool()
        right = (logits.argmax(dim=1) == labels)[:, None].expand_as(truth)
    per_class = {}
    for index, name in enumerate(class_names):
        of_class = truth[:, index]
        counted = right[:, index] if is_multi_label else right[of_class, index]
        per_class[name] = {
            "accuracy": _percent(counted),
            "auc": _auc(of_class, scores[:, index]),
            "num_images": int(of_class.sum()),
        }
    known = [each["auc"] for each in per_class.values() if each["auc"] is not None]
    overall = right if is_multi_label else right[:, 0]
    return {
        "accuracy": _percent(overall),
        "mean_auc": sum(known) / len(known) if known else None,
        "per_class": per_class,
    }


def _percent(right: Tensor) -> float | None:
    return 100 * right.double().mean().item() if right.numel() else None


def _auc(truth: Tensor, scores: Tensor) -> float | None:
    if bool(truth.all()) or not bool(truth.any()):
        return None
    return float(roc_auc_score(truth.numpy(), scores.numpy()))
