"""The analyses of maps and gates on models that `share_attention` gave a unit."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from uvit_dia import share_attention
from uvit_dia.analysis.backbone import analyse_stage, find_stage, observe_stage
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
        (make_network, "cost", [IMAGES], None, "unknown analysis 'cost'; allowed is"),
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
