"""The analyses of maps and gates on models that `share_attention` gave a unit."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from uvit_dia import share_attention
from uvit_dia.analysis.backbone import analyse_stage, observe_stage
from uvit_dia.analysis.backbone_cost import without_units
from uvit_dia.analysis.backbone_gradients import target_gradients
from uvit_dia.analysis.backbone_parts import find_stage
from uvit_dia.analysis.gradient_statistics import gradient_statistics
from uvit_dia.analysis.gradients_figure import describe_gradients
from uvit_dia.system.errors import InputError


class Residual(nn.Module):
    """Three residual blocks on eight channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean features, (B, 8)."""
        x = self.stem(x)
        for branch in self.branches:
            x = torch.relu(x + branch(x))
        return x.mean(dim=(2, 3))


IMAGES = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.zeros(10, dtype=torch.int64)
TARGETS = {"all": "branches.*.1"}


def make_network(unit: str = "dia_lstm", **options: Any) -> Residual:
    torch.manual_seed(0)
    model = Residual()
    share_attention(model, TARGETS, unit, **options)
    return model


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("options", [{}, {"gate_init": "identity"}])
def test_gates_are_what_multiplies_the_targets_outputs(
    shared: bool, options: dict[str, str]
) -> None:
    model = make_network(shared=shared, **options)
    with torch.no_grad():  # so that no gate is the same number in all channels
        for parameter in model.shared_attention.parameters():  # type: ignore[union-attr]
            parameter.add_(0.3 * torch.randn_like(parameter))
    before: list[Tensor] = []
    after: list[Tensor] = []
    for branch in model.branches:
        norm = branch[1]  # type: ignore[index]
        norm.register_forward_hook(lambda _m, _i, out: before.append(out), prepend=True)
        norm.register_forward_hook(lambda _m, _i, out: after.append(out))
    seen = observe_stage(model, [(IMAGES, LABELS)])
    assert seen.maps.shape == seen.gates.shape == (3, 10, 8)
    for gate, plain, gated in zip(seen.gates, before, after, strict=True):
        torch.testing.assert_close(plain * gate[:, :, None, None], gated, atol=1e-6, rtol=1e-5)
    assert seen.gates.std(dim=1).max() > 1e-5  # they differ between images


def test_batches_do_not_matter_and_the_model_is_as_before() -> None:
    model = make_network().train()
    model.branches[0].eval()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    whole = observe_stage(model, [IMAGES[:7]])
    parts = observe_stage(model, IMAGES.split(3), num_images=7)
    assert parts.maps.shape[1] == 7
    torch.testing.assert_close(parts.maps, whole.maps)
    torch.testing.assert_close(parts.gates, whole.gates)
    assert model.training
    assert not model.branches[0].training
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_a_constant_unit_has_its_gate_everywhere() -> None:
    result = analyse_stage("gates", make_network("constant"), [IMAGES])
    by_block: Any = result.values["by_block"]
    assert by_block["mean"] == pytest.approx([0.25] * 3)
    assert by_block["std_between_images"] == pytest.approx([0.0] * 3)
    assert "by_timestep" not in result.values
    assert "Bottom" not in result.how_to_read
    assert len(result.figure.axes) == 3  # boxes, channels and their colour bar


def test_correlation_and_importance_are_of_the_stages_maps() -> None:
    model = make_network("se", shared=False, reduction=2)
    seen = observe_stage(model, [IMAGES])
    result = analyse_stage("correlation", model, [IMAGES])
    matrix: Any = result.values["matrix"]
    each = [torch.corrcoef(seen.maps[:, image])[0, 2] for image in range(10)]
    assert matrix[0, 2] == pytest.approx(float(torch.stack(each).mean()), abs=1e-4)
    assert result.facts["targets"] == [f"branches.{i}.1" for i in range(3)]
    rows: Any = analyse_stage("importance", model, [IMAGES]).values["importances"]
    assert rows[1].sum() == pytest.approx(1.0)


def several_stages() -> nn.Module:
    model = Residual()
    share_attention(model, {"early": "branches.0.1", "late": ["branches.1.1", "branches.2.1"]})
    return model


@pytest.mark.parametrize(
    ("model", "command", "loader", "stage", "message"),
    [
        (Residual, "gates", [IMAGES], None, "no attention unit; call share_attention"),
        (several_stages, "gates", [IMAGES], None, "several stages; name one of early, late"),
        (several_stages, "gates", [IMAGES], "lat", "no stage 'lat'; allowed is early, late"),
        (several_stages, "correlation", [IMAGES], "early", "'early' has 1 target; correlation"),
        (make_network, "gates", [], None, "the loader yields 0 images"),
        (make_network, "gates", [IMAGES[:1]], None, "the loader yields 1 images"),
        (make_network, "gates", ["x"], None, "the loader yields str; it must yield images"),
        (make_network, "costs", [IMAGES], None, "unknown analysis 'costs'.*did you mean cost"),
        (make_network, "gradients", [IMAGES], None, "no labels"),
        (make_network, "cost", [IMAGES], None, "no labels"),
        (make_network, "cost", [], None, "the loader yields 0 images"),
        (make_network, "gradients", [(IMAGES[:1], LABELS[:1])], None, "the loader yields 1 images"),
        (make_network, "gradients", [(IMAGES, LABELS.float())], None, "no labels"),
        (Residual, "gradients", [(IMAGES, LABELS)], None, "no attention unit"),
        (several_stages, "cost", [(IMAGES, LABELS)], "lat", "no stage 'lat'"),
    ],
)
def test_wrong_input_is_told_in_one_line(
    model: Any, command: str, loader: Any, stage: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        analyse_stage(command, model(), loader, stage)
    assert "\n" not in str(caught.value)


def test_a_target_that_the_model_does_not_call_is_told() -> None:
    class Early(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return self.branches[0](self.stem(x))

    model = Early()
    share_attention(model, TARGETS)
    with pytest.raises(InputError, match=r"branches\.1\.1 saw 0 of 10 images"):
        analyse_stage("gates", model, [IMAGES])


def test_the_only_stage_needs_no_name() -> None:
    assert find_stage(make_network())[0] == "all"


# ---------------------------------------------------------------- gradients


class InPlace(Residual):
    """The same function, which overwrites what its branches give, as torchvision's blocks do."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            y = branch(x)
            y += x
            x = torch.relu_(y)
        return x.mean(dim=(2, 3))


NAMES = [f"branches.{i}.1" for i in range(3)]
LABELLED = [(IMAGES, torch.arange(10) % 8)]


def gradients_by_hand(model: Residual) -> list[Tensor]:
    """Add zeros to what each branch gives, gated, and differentiate each image's loss by them."""
    zeros = [torch.zeros(10, 8, 6, 6, requires_grad=True) for _ in range(3)]
    model.eval()
    x = model.stem(IMAGES)
    stage = find_stage(model)[1]
    state: Any = None
    for index, (branch, zero) in enumerate(zip(model.branches, zeros, strict=True)):
        conv, norm = branch  # type: ignore[misc]
        y = nn.functional.batch_norm(
            conv(x), norm.running_mean, norm.running_var, norm.weight, norm.bias
        )
        tokens = y.flatten(2).transpose(1, 2)
        unit = stage.unit_of(index)
        state = unit.initial_state(tokens) if state is None else state
        gated, _, state = unit(tokens, state, index, (6, 6))
        x = torch.relu(x + gated.transpose(1, 2).reshape_as(y) + zero)
    losses = nn.functional.cross_entropy(x.mean(dim=(2, 3)), LABELLED[0][1], reduction="sum")
    return list(torch.autograd.grad(losses, zeros))


@pytest.mark.parametrize("kind", [Residual, InPlace])
def test_gradients_are_those_of_each_images_loss_by_the_gated_output(kind: type[Residual]) -> None:
    torch.manual_seed(0)
    model = kind()
    share_attention(model, TARGETS)
    expected = gradients_by_hand(model)
    result = analyse_stage("gradients", model, LABELLED)
    (run,) = result.values["runs"]  # type: ignore[misc]
    for block, gradient in enumerate(expected):
        assert run["mean"][block] == pytest.approx(float(gradient.mean()), rel=1e-4)
        assert run["std"][block] == pytest.approx(float(gradient.std(correction=0)), rel=1e-4)
    found = target_gradients(model, NAMES, LABELLED)
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in expected])
    np.testing.assert_allclose(found.image_norms, norms, rtol=1e-4)
    assert result.facts["targets"] == NAMES


def test_the_picture_shows_a_mean_square_above_all_boxes() -> None:
    rare = torch.zeros(4, 1024)
    rare[0, :3] = 100.0  # fewer than the whiskers show
    found = gradient_statistics([[rare + 1e-3]], seed=0)
    (axes,) = describe_gradients({"one": found}, {}).figure.axes
    assert found.absolute_quantiles.max() < 0.01 < found.root_mean_square[0] < axes.get_ylim()[1]


def test_gradients_leave_the_model_and_do_not_depend_on_batches_or_frozen_weights() -> None:
    model = make_network().train()
    whole = target_gradients(model, NAMES, LABELLED)
    images, labels = LABELLED[0]
    parts = list(zip(images.split(3), labels.split(3), strict=True))
    model.requires_grad_(False)
    frozen = target_gradients(model, NAMES, parts)
    np.testing.assert_allclose(whole.image_norms, frozen.image_norms, rtol=1e-4)
    np.testing.assert_allclose(whole.absolute_quantiles, frozen.absolute_quantiles, rtol=1e-3)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not images.requires_grad


def test_gradients_of_blocks_of_other_shapes_and_without_units() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(108, 8))
    found = target_gradients(model, ["0", "2"], LABELLED)
    scores = torch.softmax(model(IMAGES), dim=1) - nn.functional.one_hot(LABELLED[0][1], 8)
    np.testing.assert_allclose(found.image_norms[1], scores.norm(dim=1).detach(), rtol=1e-4)
    assert found.image_norms.shape == (2, 10)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["branches.1.1"], "branches.1.1 did not run"),
        (["stem", "branches.2.1"], "branches.2.1 did not run"),
        (["unused"], "the loss does not depend on unused"),
        (["pair"], "pair returns tuple"),
    ],
)
def test_modules_without_a_gradient_are_told(names: list[str], message: str) -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    class Early(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.unused, self.pair = nn.Conv2d(8, 1, 1), Pair()

        def forward(self, x: Tensor) -> Tensor:
            x, _ = self.pair(self.branches[0](self.stem(x)))
            self.unused(x)
            return x.mean(dim=(2, 3))

    with pytest.raises(InputError, match=message):
        target_gradients(Early(), names, LABELLED)


# ---------------------------------------------------------------- cost


def test_a_copy_without_units_is_the_plain_network() -> None:
    model = make_network()
    torch.manual_seed(0)
    plain = Residual()
    copied = without_units(model, ["all"])
    assert list(copied.state_dict()) == list(plain.state_dict())
    assert torch.equal(copied.eval()(IMAGES), plain.eval()(IMAGES))
    share_attention(copied, TARGETS, "se", reduction=2)  # there is room again
    assert not torch.equal(model.eval()(IMAGES), plain(IMAGES))  # the units still work


def test_one_stage_can_be_taken_out() -> None:
    model = several_stages().eval()
    copied = without_units(model, ["early"]).eval()
    assert find_stage(copied)[0] == "late"
    assert observe_stage(copied, [IMAGES]).maps.shape == (2, 10, 8)  # that still works
    gate = observe_stage(model, [IMAGES], "early").gates[0]
    for part, norm in ((model, model.branches[0][1]), (copied, copied.branches[0][1])):  # type: ignore[index]
        outputs: list[Tensor] = []
        norm.register_forward_hook(lambda _m, _i, out, kept=outputs: kept.append(out))
        part(IMAGES)
        if part is model:
            gated = outputs[0]
        else:
            torch.testing.assert_close(outputs[0] * gate[:, :, None, None], gated)


def test_costs_are_of_the_model_with_and_without_its_units() -> None:
    model = make_network("se", reduction=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = analyse_stage("cost", model, LABELLED, num_rounds=2)
    rows: Any = result.values["variants"]
    assert list(rows) == ["none", "unit"]
    added = sum(p.numel() for p in find_stage(model)[1].parameters())
    assert rows["unit"]["weights"] - rows["none"]["weights"] == added
    products = 3 * 2 * (8 * 4 + 4 * 8)  # of three targets, an image
    assert rows["unit"]["flops_forward"] - rows["none"]["flops_forward"] == products
    assert rows["unit"]["weights_ratio"] == rows["unit"]["weights"] / rows["none"]["weights"]
    assert result.facts["num_images"] == 10
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name  # copies were trained


def test_the_loss_can_be_ones_own() -> None:
    def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return 3 * model(batch[0]).sum(dim=1).mean()

    model = make_network()
    found = target_gradients(model, ["branches.2.1"], [IMAGES], loss=loss)
    assert found.absolute_quantiles[0, -1] == pytest.approx(3 / 36)  # of a mean of 6 x 6, or 0
    rows: Any = analyse_stage("cost", model, [IMAGES], loss=loss, num_rounds=2).values["variants"]
    assert rows["unit"]["flops_step"] > rows["unit"]["flops_forward"]
