"""Classifiers: their data, networks, recipes and command, against references and by hand."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from examples.classification import chosen_recipe, main, make_task, parser
from examples.classification_data import ImagesInMemory, Share, load_data
from examples.classification_models import Images, add_unit, make_classifier
from examples.classification_recipes import RECIPES, Recipe
from examples.resnet import BasicBlock, Bottleneck, ResNeXtBottleneck
from examples.unit_options import read_options
from uvit_dia.data.images import ImageSet
from uvit_dia.system.errors import InputError

CPU = torch.device("cpu")
SMALL = Images(in_chans=3, img_size=32, num_classes=10)


def numbered(count: int = 40, side: int = 8) -> ImageSet:
    """Return images whose pixels all have different values, with labels."""
    draw = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=draw)
    return ImageSet("numbered", images, torch.arange(count) % 4)


def in_memory(*, augments: bool = True, seed: int = 0, **changes: object) -> ImagesInMemory:
    recipe = Recipe(batch_size=16, **changes)  # type: ignore[arg-type]
    return ImagesInMemory(
        "numbered", numbered(), numbered(20), recipe, augments=augments, seed=seed
    )


# ---------------------------------------------------------------- data


def test_an_epoch_shows_each_image_at_most_once_and_in_a_new_order() -> None:
    data = in_memory(augments=False)
    everything = data.train.images.float()
    orders = []
    for epoch in (0, 1):
        shown = torch.cat([images for images, _ in data.batches(epoch, Share(0, 1, CPU))])
        pixels = (shown * data._std + data._mean) * 255
        distance = torch.cdist(pixels.flatten(1), everything.flatten(1))
        assert float(distance.min(dim=1).values.max()) < 0.1
        orders.append(distance.argmin(dim=1).tolist())
        assert len(set(orders[-1])) == 32  # two whole batches of 40 images
    assert orders[0] != orders[1]
    labels = torch.cat([labels for _, labels in data.batches(0, Share(0, 1, CPU))])
    assert labels.tolist() == [place % 4 for place in orders[0]]


def test_processes_share_each_batch() -> None:
    data = in_memory()
    whole = [images for images, _ in data.batches(2, Share(0, 1, CPU))]
    parts = [list(data.batches(2, Share(rank, 2, CPU))) for rank in (0, 1)]
    for index, images in enumerate(whole):
        torch.testing.assert_close(torch.cat([part[index][0] for part in parts]), images)


def test_crops_and_flips_are_parts_of_the_padded_image() -> None:
    data = in_memory()
    order_only = in_memory(augments=False)
    one = Share(0, 1, CPU)
    pairs = [
        pair
        for epoch in range(3)
        for pair in zip(data.batches(epoch, one), order_only.batches(epoch, one), strict=True)
    ]
    offsets, flips = set(), set()
    for (shown, _), (plain, _) in pairs:
        padded = torch.nn.functional.pad(plain, (1, 1, 1, 1))
        for image, source in zip(shown, padded, strict=True):
            found = [
                (down, right, flip)
                for down in range(3)
                for right in range(3)
                for flip in (False, True)
                if torch.equal(
                    image.flip(-1) if flip else image,
                    source[:, down : down + 8, right : right + 8],
                )
            ]
            assert len(found) == 1
            offsets.add(found[0][:2])
            flips.add(found[0][2])
    assert len(offsets) == 9
    assert flips == {False, True}
    unflipped = in_memory(flip=False)
    first = next(iter(unflipped.batches(0, Share(0, 1, CPU))))[0]
    assert not torch.equal(first, next(iter(data.batches(0, Share(0, 1, CPU))))[0])


def test_pixels_have_mean_0_and_deviation_1() -> None:
    data = in_memory(augments=False)
    pixels = data.normalised(data.train.images)
    torch.testing.assert_close(pixels.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(pixels.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)


def test_digits_are_split_in_the_same_way_for_every_seed() -> None:
    recipe = RECIPES["digits"]
    sets = [load_data("digits", "", recipe, augments=True, seed=seed) for seed in (0, 1)]
    assert sets[0].fingerprint() == sets[1].fingerprint()  # type: ignore[union-attr]
    assert len(sets[0].train) == 1797 - 360  # type: ignore[union-attr]
    few = [
        load_data("digits", "", recipe, augments=True, seed=seed, num_train=100).fingerprint()
        for seed in (0, 1)
    ]
    assert few[0] == few[1] != sets[0].fingerprint()
    assert not recipe.flip  # a mirrored 2 is no 2


def image_folder(path: Path, classes: dict[str, tuple[str, ...]]) -> Path:
    draw = np.random.default_rng(0)
    for part, names in classes.items():
        for name in names:
            folder = path / part / name
            folder.mkdir(parents=True)
            for index in range(4):
                pixels = draw.integers(0, 256, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return path


def test_a_folder_as_imagenet_comes(tmp_path: Path) -> None:
    path = image_folder(tmp_path, {"train": ("cat", "dog"), "val": ("cat", "dog")})
    recipe = Recipe(batch_size=4, crop="resized")
    data = load_data("folder", str(path), recipe, augments=True, seed=1)
    first, again = (list(data.batches(0, Share(0, 1, CPU))) for _ in range(2))
    assert [len(labels) for _, labels in first] == [4, 4]
    assert sorted(torch.cat([labels for _, labels in first]).tolist()) == [0] * 4 + [1] * 4
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert first[0][0].shape == (4, 3, 224, 224)
    assert sum(len(labels) for _, labels in data.test_batches(CPU)) == 8


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize(
    ("ours", "inner", "out", "stride"),
    [
        (Bottleneck, {"planes": 16}, 64, 2),
        (Bottleneck, {"planes": 16}, 64, 1),
        (ResNeXtBottleneck, {"planes": 32, "groups": 8, "base_width": 64}, 128, 2),
    ],
)
def test_a_bottleneck_is_torchvisions(
    ours: type[Bottleneck], inner: dict[str, int], out: int, stride: int
) -> None:
    resnet = pytest.importorskip("torchvision.models.resnet")
    block = ours(out, out, stride).eval()
    down = None if stride == 1 else nn.Sequential(nn.Conv2d(out, out, 1, 2, bias=False))
    if down is not None:
        down.append(nn.BatchNorm2d(out))
    theirs = resnet.Bottleneck(out, stride=stride, downsample=down, **inner).eval()
    theirs.load_state_dict(
        {name.replace("shortcut", "downsample"): w for name, w in block.state_dict().items()}
    )
    x = torch.randn(2, out, 8, 8)
    assert torch.equal(block(x), theirs(x))


def test_a_basic_block_is_torchvisions() -> None:
    resnet = pytest.importorskip("torchvision.models.resnet")
    block, theirs = BasicBlock(16, 16, 1).eval(), resnet.BasicBlock(16, 16).eval()
    theirs.load_state_dict(block.state_dict())
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(block(x), theirs(x))


@pytest.mark.parametrize(
    ("name", "depth", "millions"),
    [
        ("resnet", 20, 0.27),  # arXiv:1512.03385, Table 6
        ("resnet", 56, 0.85),
        ("resnet", 164, 1.70),  # 1.95 with DIA-LSTM less 0.22 and its biases: Tables XII, XIV
        ("resnext101_8x32", 0, 32.1),
    ],
)
def test_networks_have_as_many_weights_as_published(name: str, depth: int, millions: float) -> None:
    model = make_classifier(name, SMALL, depth=depth).model
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert count == pytest.approx(millions, abs=0.05 if millions > 1.5 else 0.01)


def test_the_unit_of_resnext_adds_what_the_paper_says() -> None:
    """0.87M in Sec. IV, which the authors' code has with its biases."""
    classifier = make_classifier("resnext101_8x32", SMALL)
    before = sum(p.numel() for p in classifier.model.parameters())
    attention = add_unit(classifier, SMALL, "dia_lstm", shared=True, options={"reduction": 4})
    after = sum(p.numel() for p in classifier.model.parameters())
    assert (after - before) / 1e6 == pytest.approx(0.87, abs=0.01)
    assert attention.num_weights() == 10 * (128**2 + 256**2 + 512**2) // 4


@pytest.mark.parametrize("name", ["resnet", "tv_resnet18", "vit_tiny"])
def test_a_unit_leaves_the_network_whole(name: str) -> None:
    """Another copy takes its weights, an export gives its logits, and the units are trained."""
    pytest.importorskip("timm" if name == "vit_tiny" else "torchvision")
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        classifier = make_classifier(name, SMALL)
        add_unit(classifier, SMALL, "dia_lstm", shared=True, options={})
        made.append(classifier.model.eval())
    x = torch.randn(4, 3, 32, 32)
    made[1].load_state_dict(made[0].state_dict())
    expected = made[0](x)
    assert torch.equal(made[1](x), expected)
    program = torch.export.export(made[0], (x,))
    torch.testing.assert_close(program.module()(x), expected, rtol=1e-5, atol=1e-5)
    expected.square().sum().backward()
    units = [p for n, p in made[0].named_parameters() if n.startswith("shared_attention")]
    assert units
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in units if p.ndim > 1)


@pytest.mark.parametrize(
    ("name", "has_norm", "has_skip"),
    [
        ("resnet", True, True),
        ("resnet", False, True),
        ("resnet", True, False),
        ("preact_resnet164", False, False),
        ("wrn52_4", False, False),
    ],
)
def test_blocks_without_norm_or_skip(name: str, has_norm: bool, has_skip: bool) -> None:
    classifier = make_classifier(name, SMALL, has_norm=has_norm, has_skip=has_skip)
    kinds = [type(module) for module in classifier.model.modules()]
    assert (nn.BatchNorm2d in kinds) == has_norm
    blocks = [m for m in classifier.model.modules() if hasattr(m, "shortcut")]
    assert all((block.shortcut is not None) == has_skip for block in blocks)
    add_unit(classifier, SMALL, "se", shared=True, options={})
    with torch.no_grad():
        assert classifier.model.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 10)


# ---------------------------------------------------------------- recipes and the command


def test_the_papers_learning_rates() -> None:
    recipe = RECIPES["cifar"]
    factors = [recipe.lr_factor(epoch) for epoch in (0, 81.9, 82, 122.9, 123, 163)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    group = recipe.make_optimizer(nn.Linear(2, 2)).param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.9, 1e-4)
    vit = RECIPES["vit"]
    assert vit.lr_factor(0) < 0.001
    assert vit.lr_factor(2.5) == pytest.approx(0.5, abs=1e-3)
    assert vit.lr_factor(150) == pytest.approx(0.5)
    assert vit.lr_factor(299.9) < 1e-5


def test_a_command_line_becomes_a_task(tmp_path: Path) -> None:
    words = f"--workdir {tmp_path} --unit dia_lstm --option reduction=8 --option activation=tanh"
    task = make_task(parser().parse_args(words.split()))
    unit = dict(task.model.named_modules())["shared_attention.stage1.unit"]
    assert task.facts["unit_weights"] == sum(10 * n * n // 8 for n in (16, 32, 64))
    assert unit.cell.activation == "tanh"
    assert task.recipe == RECIPES["digits"]
    assert read_options(["a=1", "b=0.5", "c=shared"]) == {"a": 1, "b": 0.5, "c": "shared"}
    changed = "--workdir x --num_epochs 3 --batch_size 32 --learning_rate 0.2"
    recipe = chosen_recipe(parser().parse_args([*changed.split(), "--data", "cifar100"]))
    assert (recipe.num_epochs, recipe.batch_size, recipe.learning_rate) == (3, 32, 0.2)
    assert recipe.milestones == (0.5, 0.75)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--depth 21", "--depth 21: allowed is 6 n \\+ 2"),
        ("--depth 110 --model resnet --num_epochs 0", "--num_epochs 0: allowed is 1 or more"),
        ("--unit sse", "--unit sse: unit must be one of"),
        ("--unit se --option reduction", "must be KEY=VALUE"),
        ("--unit se --option nothing=1", "there is no option 'nothing'"),
        ("--unit none --unshared", "give --unit"),
        ("--model vit_tiny --no_norm", "--no_norm: not with --model vit_tiny"),
        ("--model tv_resnet18", "takes images of 3 channels"),
        ("--num_train 10", "--num_train 10: allowed is 64, a batch, to 1437"),
        ("--batch_size 5000", "larger than the 1437 training images"),
        ("--seed -1", "--seed -1: allowed is"),
        ("--data cifar100 --path nowhere", "no cifar100 here"),
        ("--data stl10 --path nowhere", "no stl10 here"),
        ("--data folder --path nowhere", "no folder train"),
        ("--data parquet --path nowhere", "no file or folder"),
    ],
)
def test_wrong_input_is_one_line(
    words: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--workdir", str(tmp_path / "run"), *words.split()])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.count("\n") == 1
    assert re.search(told, error)
    assert not (tmp_path / "run").exists()


def test_different_classes_are_refused(tmp_path: Path) -> None:
    path = image_folder(tmp_path, {"train": ("cat", "dog"), "val": ("cat", "cow")})
    with pytest.raises(InputError, match="different classes"):
        load_data("folder", str(path), Recipe(), augments=True, seed=0)


def test_images_without_a_class_are_refused() -> None:
    images = numbered()
    images.labels[3] = -1  # type: ignore[index]
    with pytest.raises(InputError, match="images without a class"):
        ImagesInMemory("x", images, numbered(), Recipe(batch_size=4), augments=True, seed=0)
