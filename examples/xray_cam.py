"""Draw Grad-CAM of runs of `examples.xray` side by side, such as without and with a unit (Fig. 9).

    python -m examples.xray_cam --path planted.npz --output cam.png runs/planted_none runs/planted

Each picture shows where a run finds what a test image is labelled with. Where the data have masks,
cam.json says how much of the heat lies in them, over all findings of the test set. Needs grad-cam:
`pip install -e '.[examples]'`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from examples.classification_models import VITS
from examples.command import command_parser, refusing_in_one_line
from examples.grad_cam import draw_side_by_side, heat_maps, share_inside
from examples.saved_runs import open_xrays
from examples.xray import XrayClassification
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import write_json


@dataclass(frozen=True)
class Finding:
    """What is looked for in a test image.

    Attributes:
        row: of the image.
        label: of the class.
    """

    row: int
    label: int


def findings_of(task: XrayClassification) -> list[Finding]:
    """Return all findings of the test set, image by image."""
    labels = task.xrays.test.labels
    assert labels is not None
    if labels.dim() == 1:
        return [Finding(row, label) for row, label in enumerate(labels.tolist())]
    return [Finding(row, label) for row, label in labels.nonzero().tolist()]


def default_layer(name: str, model: nn.Module) -> str:
    """Return the layer whose output is weighed: the last before the mean over positions."""
    if name in VITS:
        last = max(
            int(key.split(".")[1]) for key, _ in model.named_modules() if key[:7] == "blocks."
        )
        return f"blocks.{last}.norm1"
    return "layer4" if name.startswith("tv_") else "norm"


def maps_of(task: XrayClassification, findings: Sequence[Finding], layer: str) -> np.ndarray:
    """Return Grad-CAM of findings, (n, H, W)."""
    rows = torch.tensor([each.row for each in findings])
    images = task.images.normalised(task.xrays.test.images[rows])
    name = str(task.facts["model"])
    return heat_maps(
        task.model,
        images,
        [each.label for each in findings],
        layer or default_layer(name, task.model),
        num_extra_tokens=1 if name in VITS else 0,
    )


def masks_of(task: XrayClassification, findings: Sequence[Finding]) -> np.ndarray | None:
    """Return the masks of findings, (n, H, W) bool; None where the data have none."""
    if task.xrays.masks is None:
        return None
    found = [task.xrays.mask_of(each.row, each.label) for each in findings]
    return torch.stack(found).numpy()


def heat_in_masks(heat: np.ndarray, masks: np.ndarray) -> dict[str, float | int | None]:
    """Return how much of the heat lies in masks: the mean share, and what chance would give.

    Args:
        heat: (n, H, W).
        masks: (n, H, W), those of the same findings; findings with an empty mask do not count.
    """
    has_mask = masks.any(axis=(1, 2))
    shares = share_inside(heat, masks)[has_mask]
    has_heat = ~np.isnan(shares)
    area = masks[has_mask].mean(axis=(1, 2))
    return {
        "mean_share_inside": float(shares[has_heat].mean()) if has_heat.any() else None,
        "mean_area_inside": float(area.mean()) if len(area) else None,
        "num_findings": len(shares),
        "num_without_heat": int((~has_heat).sum()),
    }


def compare_runs(
    runs: Sequence[Path], path: str, output: Path, *, masks: str, layer: str, num_images: int
) -> dict[str, Any]:
    """Draw Grad-CAM of runs; write the picture and, beside it, what was measured.

    Args:
        runs: folders of runs that were trained on the same data.
        path: of the data.
        output: a .png.
        masks: folder of masks, "" for none.
        layer: whose output is weighed; "" for `default_layer`.
        num_images: rows of the picture, spread evenly over the findings.

    Returns:
        What was written beside the picture: a record of each run.

    Raises:
        InputError: if something does not fit.
    """
    tasks = {run.name: open_xrays(run, path, masks) for run in runs}
    first = next(iter(tasks.values()))
    findings = findings_of(first)
    if not findings:
        raise InputError(f"--path {path}: no test image has a finding")
    if not 1 <= num_images <= len(findings):
        raise InputError(
            f"--num_images {num_images}: allowed is 1 to {len(findings)}, the findings"
        )
    step = len(findings) / num_images
    shown = [findings[int(index * step)] for index in range(num_images)]
    truth, shown_truth = masks_of(first, findings), masks_of(first, shown)
    maps, record = {}, {}
    for name, task in tasks.items():
        maps[name] = maps_of(task, shown, layer)
        record[name] = {key: task.facts[key] for key in ("model", "unit", "seed")}
        if truth is not None:
            record[name] |= heat_in_masks(maps_of(task, findings, layer), truth)
    pictures = first.xrays.test.images[torch.tensor([each.row for each in shown])]
    titles = [first.xrays.class_names[each.label] for each in shown]
    images = pictures.permute(0, 2, 3, 1).numpy()
    draw_side_by_side(
        output, images[..., 0] if images.shape[3] == 1 else images, maps, titles, shown_truth
    )
    write_json(output.with_suffix(".json"), record)
    return record


def main(argv: list[str] | None = None) -> None:
    """Run the command; wrong input ends with one line and exit code 2."""
    made = command_parser("xray_cam", __doc__)
    made.add_argument("runs", nargs="+", help="folders of runs, a column each")
    made.add_argument("--path", required=True, help="the data that they were trained on")
    made.add_argument("--masks", default="", help="folder of masks of the test images")
    made.add_argument("--output", required=True, help="a .png; its numbers go beside it")
    made.add_argument("--layer", default="", help="whose output is weighed; default: the last map")
    made.add_argument("--num_images", type=int, default=6, help="rows of the picture")
    arguments = made.parse_args(argv)
    runs = [Path(run).expanduser() for run in arguments.runs]
    output = Path(arguments.output).expanduser()
    with refusing_in_one_line("xray_cam"):
        if output.suffix != ".png" or not output.absolute().parent.is_dir():
            raise InputError(f"--output {output}: must be a .png in a folder that exists")
        if len({run.name for run in runs}) < len(runs):
            raise InputError("runs: two folders have the same name; a column is called after it")
        record = compare_runs(
            runs,
            arguments.path,
            output,
            masks=arguments.masks,
            layer=arguments.layer,
            num_images=arguments.num_images,
        )
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
