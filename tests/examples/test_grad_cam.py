"""Grad-CAM against its definition, its checks, and a planted object on which it must lie."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from examples.grad_cam import draw_side_by_side, heat_maps, share_inside
from uvit_dia import share_attention
from uvit_dia.system.errors import InputError

pytest.importorskip("pytorch_grad_cam")

SIDE = 6


class Convolutions(nn.Module):
    """Keeps the images' size up to `last`, so that a map needs no scaling."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.last, self.dropout = nn.Conv2d(4, 4, 3, padding=1), nn.Dropout(0.5)
        self.unused, self.head = nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        weights = self.unused.weight  # by a function: no hook of the module sees it
        x = F.relu(F.conv2d(self.last(x), weights))
        return self.head(self.dropout(x).mean(dim=(2, 3)))


class Tokens(nn.Module):
    """Patches of one pixel behind a class token, as in a ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Linear(1, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x.flatten(2).transpose(1, 2))
        tokens = torch.cat([torch.full_like(tokens[:, :1], 9.0), tokens], dim=1)
        return self.head(torch.tanh(self.mix(tokens)).pow(2).mean(dim=1))


class Detached(Convolutions):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.first(x)
        return self.head(self.last(x).mean(dim=(2, 3)))


def images(count: int = 5, side: int = SIDE) -> Tensor:
    return torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(3))


def by_definition(model: nn.Module, x: Tensor, classes: list[int], layer: str) -> np.ndarray:
    """Return Eqs. 1 and 2 of arXiv:1610.02391 at a layer as large as the image, in [0, 1]."""
    kept: list[Tensor] = []
    module = model.get_submodule(layer)
    hook = module.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    logits = model.eval()(x)
    hook.remove()
    chosen = sum(row[index] for row, index in zip(logits, classes, strict=True))
    assert isinstance(chosen, Tensor)
    (gradients,) = torch.autograd.grad(chosen, kept)
    features = kept[0]
    if features.dim() == 3:  # one token before the pixels
        features, gradients = (
            each[:, 1:].transpose(1, 2).unflatten(2, x.shape[2:]) for each in (features, gradients)
        )
    maps = F.relu((gradients.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1)).detach()
    maps = maps - maps.amin(dim=(1, 2), keepdim=True)
    top = maps.amax(dim=(1, 2), keepdim=True)
    assert int((top > 0).sum()) >= 3  # of 5
    return (maps / torch.where(top > 0, top, 1)).numpy()


@pytest.mark.parametrize("unit", [None, "dia_lstm", "se"])
def test_a_map_is_the_papers_and_of_gated_features_where_there_is_a_unit(unit: str | None) -> None:
    torch.manual_seed(0)
    model, classes = Convolutions(), [0, 1, 2, 0, 1]
    if unit:
        share_attention(model, ["norm", "last"], unit, reduction=1)
    expected = by_definition(model, images(), classes, "last")
    np.testing.assert_allclose(heat_maps(model, images(), classes, "last"), expected, atol=1e-5)


@pytest.mark.parametrize("unit", [None, "dia_lstm"])
def test_tokens_are_put_on_their_grid(unit: str | None) -> None:
    torch.manual_seed(0)
    model, x, classes = Tokens(), images()[:, :, :4], [2, 0, 1, 1, 0]
    if unit:
        share_attention(model, ["embed", "mix"], unit, reduction=1)
    expected = by_definition(model, x, classes, "mix")
    found = heat_maps(model, x, classes, "mix", num_extra_tokens=1, grid=(4, SIDE))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_square_grid_is_found() -> None:
    torch.manual_seed(0)
    model, classes = Tokens(), [0, 1, 2, 0, 1]
    found = heat_maps(model, images(), classes, "mix", num_extra_tokens=1)
    np.testing.assert_allclose(found, by_definition(model, images(), classes, "mix"), atol=1e-5)


def test_many_images_are_mapped_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, classes = Convolutions(), [0, 1, 2, 0, 1]
    whole = heat_maps(model, images(), classes, "last")
    monkeypatch.setattr("examples.grad_cam.BATCH_SIZE", 2)
    np.testing.assert_allclose(heat_maps(model, images(), classes, "last"), whole, atol=1e-5)


def test_the_model_is_left_as_it_was_and_may_be_frozen() -> None:
    model = Convolutions().train()
    model.norm.eval()
    attention = share_attention(model, ["norm", "last"], reduction=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = {name: len(module._forward_hooks) for name, module in model.named_modules()}
    classes = [0, 1, 2, 0, 1]
    free = heat_maps(model, images(), classes, "last")
    assert model.training
    assert not model.norm.training
    assert hooks == {name: len(module._forward_hooks) for name, module in model.named_modules()}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(stage._live.state is None for stage in attention.stages())
    for part in (model.first, model.norm, attention):  # the layer itself is behind frozen parts
        part.requires_grad_(False)
    np.testing.assert_array_equal(heat_maps(model, images(), classes, "last"), free)
    model.requires_grad_(False)
    with torch.no_grad():
        np.testing.assert_array_equal(heat_maps(model, images(), classes, "last"), free)


@pytest.mark.parametrize(
    ("model", "layer", "said"),
    [
        (Convolutions(), "lastt", "no layer 'lastt'; did you mean last?"),
        (Convolutions(), "", "no layer ''"),
        (Convolutions(), "unused", "'unused' runs 0 times in a pass, not once"),
        (Convolutions(), "head", r"gives out \[1, 3\]; Grad-CAM needs"),
        (nn.Sequential(*[nn.Conv2d(1, 1, 1)] * 2), "0", "runs 2 times in a pass"),
        (Detached(), "first", "no gradient reaches layer 'first'"),
        (Tokens(), "mix", r"gives out 37 tokens, 0 of them extra; .* no grid of 6 x 6"),
    ],
)
def test_layers_that_do_not_fit(model: nn.Module, layer: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        heat_maps(model, images(), [0] * 5, layer)
    assert "\n" not in str(caught.value)
    assert model.training  # as it was


def test_classes_that_do_not_fit() -> None:
    model = Convolutions()
    with pytest.raises(InputError, match="class 3: the model has classes 0 to 2") as caught:
        heat_maps(model, images(2), [0, 3], "last")
    assert not model.last._forward_hooks  # while the error is still looked at
    assert caught.value.__traceback__ is not None
    with pytest.raises(InputError, match="2 images need as many classes, got 1"):
        heat_maps(Convolutions(), images(2), [0], "last")


def test_heat_inside() -> None:
    heat = np.zeros((3, 4, 4), dtype=np.float32)
    masks = np.zeros((3, 4, 4), dtype=bool)
    heat[0, :2, :2], heat[0, 3, 3], masks[0, :2] = 0.5, 1.0, True  # 2 of 3
    heat[1], masks[2, 0, 0] = 1.0, True  # an empty mask; no heat
    found = share_inside(heat, masks)
    assert found[0] == pytest.approx(2 / 3)
    assert np.isnan(found[1:]).all()
    with pytest.raises(InputError, match=r"masks of shape \[3, 5, 4\] do not fit"):
        share_inside(heat, np.zeros((3, 5, 4), dtype=bool))


@pytest.mark.parametrize("unit", [None, "dia_lstm"])
def test_the_heat_of_a_planted_object_lies_on_it(unit: str | None) -> None:
    """Stripes of two directions in noise, at random places: issue's figure, 0.6 of the heat."""
    draw = np.random.default_rng(0)
    side, box = 24, 10
    pictures = draw.normal(0, 0.5, (256, side, side)).astype(np.float32)
    masks = np.zeros(pictures.shape, dtype=bool)
    labels = draw.integers(0, 2, len(pictures))
    stripes = np.where(np.arange(box) % 4 < 2, 1.5, -1.5) * np.ones((box, 1))
    for row, label in enumerate(labels):
        top, left = draw.integers(0, side - box + 1, 2)
        pictures[row, top : top + box, left : left + box] += stripes if label else stripes.T
        masks[row, top : top + box, left : left + box] = True
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2))
    if unit:
        share_attention(model, ["1", "5"], unit)
    x, y = torch.from_numpy(pictures)[:, None], torch.from_numpy(labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(60):
        rows = slice(step * 32 % 192, step * 32 % 192 + 32)
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    shares = share_inside(heat_maps(model, x[192:], labels[192:].tolist(), "6"), masks[192:])
    with torch.no_grad():
        assert (model.eval()(x[192:]).argmax(dim=1) == y[192:]).float().mean() > 0.95
    assert np.isfinite(shares).mean() > 0.9
    assert np.nanmean(shares) >= 0.6  # the box is 0.17 of the picture


def test_a_picture_shows_heat_and_masks(tmp_path: Path) -> None:
    plain = np.full((2, 16, 16), 128, dtype=np.uint8)
    hot = np.zeros((2, 16, 16), dtype=np.float32)
    hot[:, 4:12, 4:12] = 1
    masks = hot > 0
    columns = {"without": np.zeros_like(hot), "with": hot}
    for name, drawn in (("bare", None), ("masked", masks)):
        draw_side_by_side(tmp_path / f"{name}.png", plain, columns, ["a", "b"], drawn)
    bare = np.asarray(Image.open(tmp_path / "bare.png").convert("RGB")).astype(int)
    spread = np.ptp(bare, axis=2).sum(axis=0)  # how coloured each column of pixels is
    third = len(spread) // 3
    assert spread[: 2 * third].sum() < 0.05 * spread[2 * third :].sum()
    masked = np.asarray(Image.open(tmp_path / "masked.png").convert("RGB")).astype(int)
    assert masked.shape == bare.shape
    assert (masked != bare).any()
