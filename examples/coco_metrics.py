"""COCO's metrics by pycocotools, from detections as torchvision's models give them."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from examples.coco_data import CocoSet
from uvit_dia.system.errors import InputError

# The first six of the twelve numbers of COCOeval, by the names of the paper's Table X.
NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


def as_coco(
    detections: Mapping[int, Mapping[str, Tensor]], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Return detections as COCO's list of results.

    Args:
        detections: image id -> boxes (n, 4) as x_1, y_1, x_2, y_2, labels (n,) and scores (n,).
        category_ids: of the labels 1, 2, ...
    """
    results = []
    for image_id, found in detections.items():
        boxes, labels = found["boxes"].tolist(), found["labels"].tolist()
        for (left, top, right, bottom), label, score in zip(
            boxes, labels, found["scores"].tolist(), strict=True
        ):
            results.append(
                {
                    "image_id": image_id,
                    "category_id": category_ids[label - 1],
                    "bbox": [left, top, right - left, bottom - top],
                    "score": score,
                }
            )
    return results


def coco_metrics(images: CocoSet, results: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Return COCO's average precisions in percent; None for sizes of which there is no object.

    Args:
        images: the set that was looked at.
        results: as `as_coco` gives them.

    Raises:
        InputError: if pycocotools is missing.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise InputError(
            "COCO's metrics need the package pycocotools; pip install 'uvit_dia[examples]'"
        ) from error
    if not results:
        return dict.fromkeys(NAMES, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        truth = COCO(str(images.path))
        evaluation = COCOeval(truth, truth.loadRes(list(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    found = evaluation.stats[: len(NAMES)]
    return {
        name: 100 * float(value) if value >= 0 else None
        for name, value in zip(NAMES, found, strict=True)
    }
