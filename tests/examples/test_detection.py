"""Detection: COCO's format and its faults, targets, the unit in the backbone, COCO's metrics."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from examples.coco_data import CocoSet, read_coco
from examples.coco_metrics import NAMES, as_coco, coco_metrics
from examples.detection import Detection, main, make_task, mirrored, parser
from examples.detection_models import add_unit, make_detector
from examples.paste_objects import main as paste_main
from examples.training import fit
from uvit_dia.system.errors import InputError

pytest.importorskip("torchvision")
SMALL = ["--detector", "retinanet", "--backbone", "resnet18"]
SMALL += ["--img_size", "32", "--smallest_anchor", "8"]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objects") / "digits"
    words = f"--output {folder} --num_train 6 --num_test 4 --side 48"
    paste_main(words.split())
    return folder


def coco(**changes: Any) -> dict[str, Any]:
    """Return a file in COCO's format with one image, two categories and one box."""
    box = {"id": 7, "image_id": 3, "category_id": 20, "bbox": [4, 6, 10, 12], "iscrowd": 0}
    content = {
        "images": [{"id": 3, "file_name": "a.png", "width": 40, "height": 30}],
        "categories": [{"id": 10, "name": "cat"}, {"id": 20, "name": "dog"}],
        "annotations": [box],
    }
    return {**content, **changes}


def written(folder: Path, content: object) -> Path:
    from PIL import Image

    Image.new("RGB", (40, 30), (255, 0, 51)).save(folder / "a.png")
    path = folder / "boxes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# ---------------------------------------------------------------- COCO's format


def test_a_box_becomes_a_target(tmp_path: Path) -> None:
    found = read_coco(written(tmp_path, coco()), tmp_path)
    target = found.images[0].target()
    assert target["boxes"].tolist() == [[4, 6, 14, 18]]
    assert target["labels"].tolist() == [2]  # the second category; 0 is the background
    assert target["area"].tolist() == [120]
    assert found.names == ("cat", "dog")
    pixels = found.images[0].read()
    assert pixels.shape == (3, 30, 40)
    assert pixels[:, 0, 0].tolist() == pytest.approx([1, 0, 0.2])


def test_images_without_boxes_and_crowds(tmp_path: Path) -> None:
    crowd = {**coco()["annotations"][0], "id": 8, "iscrowd": 1}
    content = coco(annotations=[*coco()["annotations"], crowd])
    content["images"].append({"id": 4, "file_name": "a.png", "width": 40, "height": 30})
    found = read_coco(written(tmp_path, content), tmp_path)
    assert [len(image.labels) for image in found.images] == [1, 0]
    assert found.images[1].target()["boxes"].shape == (0, 4)


def box(**changes: object) -> dict[str, object]:
    return {"annotations": [{**coco()["annotations"][0], **changes}]}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            box(bbox=[35, 6, 10, 12]),
            r"annotation 7: bbox \[35, 6, 10, 12\] lies outside .* 40 x 30",
        ),
        (box(bbox=[-5, 6, 10, 12]), "lies outside"),
        (box(bbox=[4, 6, 0, 12]), "is empty; width and height must be above 0"),
        (box(bbox=[4, 6, 10, -1]), "is empty"),
        (box(bbox=[4, 6, 10]), r"bbox must be \[x, y, width, height\]"),
        (box(bbox=[4, 6, "10", 12]), "bbox must be"),
        (box(bbox=None), "bbox must be"),
        (box(category_id=30), "of category 30, which the file does not list; it has 10, 20"),
        (box(category_id="dog"), "category_id must be a whole number, got 'dog'"),
        (box(image_id=9), "of image 9, which the file does not list"),
        ({"categories": []}, "needs categories"),
        ({"categories": [{"id": 1}, {"id": 1}]}, "each with an id of its own"),
        ({"annotations": []}, "no annotation with a box"),
        ({"annotations": None}, "must have a list annotations"),
        ({"images": {}}, "must have a list images"),
    ],
)
def test_what_is_wrong_is_told(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        read_coco(written(tmp_path, coco(**changes)), tmp_path)
    assert re.search(told, str(refused.value))
    assert "\n" not in str(refused.value)


def test_files_that_are_missing_or_differ(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_coco(tmp_path / "none.json", tmp_path)
    for text, told in (("{", "is no JSON"), ("[]", "not in COCO's format")):
        with pytest.raises(InputError, match=told):
            read_coco(written(tmp_path, text), tmp_path)
    content = coco()
    content["images"][0]["width"] = 50
    with pytest.raises(InputError, match="is 40 x 30; the annotations say 50 x 30"):
        read_coco(written(tmp_path, content), tmp_path).images[0].read()
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot read the image"):
        read_coco(tmp_path / "boxes.json", tmp_path).images[0].read()
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match="no file"):
        read_coco(tmp_path / "boxes.json", tmp_path)


def test_pasted_objects_lie_where_the_file_says(objects: Path) -> None:
    found = read_coco(objects / "train.json", objects / "train")
    assert (len(found), found.names) == (6, tuple("0123456789"))
    for image in found.images:
        pixels = image.read()
        for left, top, right, bottom in image.boxes.int().tolist():
            inside = pixels[:, top:bottom, left:right]
            assert torch.equal(inside[0], inside[1])  # digits are grey, the ground is not
        assert not torch.equal(pixels[0], pixels[1])


def test_a_mirrored_box_surrounds_the_mirrored_object() -> None:
    image = torch.zeros(3, 10, 20)
    image[:, 2:5, 3:9] = 1
    target = {"boxes": torch.tensor([[3.0, 2, 9, 5]]), "labels": torch.tensor([1])}
    flipped, changed = mirrored(image, target)
    left, top, right, bottom = changed["boxes"].int().tolist()[0]
    assert bool((flipped[:, top:bottom, left:right] == 1).all())
    assert float(flipped.sum()) == float(image.sum())


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("name", ["faster_rcnn", "retinanet"])
def test_the_unit_stands_in_each_stage_and_learns(name: str, objects: Path) -> None:
    torch.manual_seed(0)
    small = {"img_size": (64, 128), "smallest_anchor": 8, "num_proposals": 8}
    model = make_detector(name, "resnet18", 10, **small)  # type: ignore[arg-type]
    before = set(model.state_dict())
    unit = add_unit(model, "resnet18", "dia_lstm", shared=True, options={"reduction": 8})
    assert list(unit) == ["layer1", "layer2", "layer3", "layer4"]
    assert unit.num_weights() == sum(10 * n * n // 8 for n in (64, 128, 256, 512))
    assert before < set(model.state_dict())
    image = read_coco(objects / "train.json", objects / "train").images[0]
    losses = model([image.read()], [image.target()])
    torch.stack(list(losses.values())).sum().backward()
    for stage in unit.stages():
        assert sum(float(p.grad.abs().sum()) for p in stage.parameters()) > 0  # type: ignore[union-attr]
    with torch.no_grad():
        found = model.eval()([image.read(), image.read()[:, :30]])
    assert [set(each) for each in found] == [{"boxes", "labels", "scores"}] * 2


def test_without_a_unit_it_is_torchvisions_detector() -> None:
    from torchvision.models.detection import fasterrcnn_resnet50_fpn, retinanet_resnet50_fpn

    for name, theirs in (
        ("faster_rcnn", fasterrcnn_resnet50_fpn),
        ("retinanet", retinanet_resnet50_fpn),
    ):
        with torch.device("meta"):
            expected = theirs(
                weights=None, weights_backbone=None, num_classes=91, trainable_backbone_layers=5
            )
            ours = make_detector(name, "resnet50", 90)
        shapes = {key: value.shape for key, value in expected.state_dict().items()}
        assert {key: value.shape for key, value in ours.state_dict().items()} == shapes
        assert repr(ours.transform) == repr(expected.transform)


def test_frozen_stages_get_no_unit(tmp_path: Path) -> None:
    """Weights of others come with frozen normalisations, which a unit reads as others."""
    import torchvision

    path = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    model = make_detector("retinanet", "resnet18", 10, weights=path, trainable_layers=2)
    kinds = {type(module).__name__ for module in model.backbone.body.modules()}
    assert "FrozenBatchNorm2d" in kinds
    assert "BatchNorm2d" not in kinds
    unit = add_unit(model, "resnet18", "se", shared=True, options={})
    assert list(unit) == ["layer3", "layer4"]
    frozen = make_detector("retinanet", "resnet18", 10, weights=path, trainable_layers=0)
    with pytest.raises(InputError, match="freezes all stages"):
        add_unit(frozen, "resnet18", "se", shared=True, options={})
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(InputError, match="no weights of torchvision's ResNet"):
        make_detector("retinanet", "resnet18", 10, weights=tmp_path / "text.pth")


# ---------------------------------------------------------------- metrics and the command


def perfect(images: CocoSet) -> dict[int, dict[str, torch.Tensor]]:
    return {
        image.image_id: {
            "boxes": image.boxes,
            "labels": image.labels,
            "scores": torch.full((len(image.labels),), 0.9),
        }
        for image in images.images
    }


def test_metrics_are_those_of_pycocotools_by_hand(objects: Path) -> None:
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images = read_coco(objects / "test.json", objects / "test")
    found = perfect(images)
    assert coco_metrics(images, as_coco(found, images.category_ids))["AP"] == pytest.approx(100)
    for index, each in enumerate(found.values()):  # some boxes are moved, some labels wrong
        each["boxes"] = each["boxes"] + index
        each["labels"] = each["labels"].clone()
        each["labels"][: index % 2] = 1
    results = as_coco(found, images.category_ids)
    ours = coco_metrics(images, results)
    truth = COCO(str(images.path))
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    theirs = [100 * value if value >= 0 else None for value in evaluation.stats[:6]]
    assert [ours[name] for name in NAMES] == theirs
    assert 0 < ours["AP"] < 100  # type: ignore[operator]
    assert coco_metrics(images, [])["AP"] == 0


class Copy(nn.Module):
    """Stands for a detector: learns one number, and finds what it is told, or nothing."""

    def __init__(self, images: CocoSet) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.images, self.asked = images, 0

    def forward(self, images: list[torch.Tensor], targets: object = None) -> Any:
        if self.training:
            return {"one": (self.weight - 1) ** 2, "other": self.weight * 0}
        first, self.asked = self.asked, (self.asked + len(images)) % len(self.images)
        chosen = list(perfect(self.images).values())[first : first + len(images)]
        return chosen


def test_a_run_records_what_pycocotools_says(objects: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    words = ["--workdir", str(tmp_path / "run"), "--data", str(objects), *SMALL]
    arguments = parser().parse_args([*words, "--num_epochs", "2", "--batch_size", "3"])
    images = read_coco(objects / "test.json", objects / "test")
    task = Detection(Copy(images), images, images, {"name": "copy"}, arguments)
    record = fit(task, tmp_path / "run", Accelerator())
    assert record["AP"] == pytest.approx(100)
    saved = json.loads((tmp_path / "run" / "detections.json").read_text())
    assert coco_metrics(images, saved)["AP"] == record["AP"]
    assert len(saved) == sum(len(image.labels) for image in images.images)


def test_the_recipe_is_torchvisions(objects: Path, tmp_path: Path) -> None:
    words = ["--workdir", str(tmp_path), "--data", str(objects), *SMALL, "--batch_size", "4"]
    task = make_task(parser().parse_args(words))
    assert task.make_optimizer().param_groups[0]["lr"] == pytest.approx(0.02 / 4)
    factors = [task.lr_factor(epoch) for epoch in (0.25, 1, 7.9, 8, 10.9, 11)]
    assert factors == pytest.approx([0.52, 1, 1, 0.1, 0.1, 0.01], rel=0.01)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--data nowhere", "cannot read nowhere/train.json"),
        ("", "give --data, or --train_images and --train_json"),
        ("--data OBJECTS --num_epochs 0", "--num_epochs 0: allowed is 1 or more"),
        ("--data OBJECTS --batch_size 7", "larger than the 6 training images"),
        ("--data OBJECTS --trainable_layers 6", "allowed is 0 to 5"),
        ("--data OBJECTS --option reduction=4", "give --unit"),
        ("--data OBJECTS --batch_size 2 --unit sse", "--unit sse: unit must be one of"),
        ("--data OBJECTS --test_json OTHER --batch_size 2", "have different categories"),
    ],
)
def test_wrong_input_is_one_line(
    words: str, told: str, objects: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = json.loads((objects / "test.json").read_text())
    other["categories"].append({"id": 99, "name": "cow"})
    (tmp_path / "other.json").write_text(json.dumps(other))
    words = words.replace("OBJECTS", str(objects)).replace("OTHER", str(tmp_path / "other.json"))
    with pytest.raises(SystemExit) as ended:
        main(["--workdir", str(tmp_path / "run"), *SMALL, *words.split()])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.count("\n") == 1
    assert told in error
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_there_is_not_written_into(
    objects: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        paste_main(["--output", str(objects)])
    assert ended.value.code == 2
    assert "is there already" in capsys.readouterr().err
