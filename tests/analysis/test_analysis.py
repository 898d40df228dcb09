"""Looking inside trained runs.

Each analysis against a truth that was planted, and the commands as a user calls them.
"""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import eval_fid
import train
from tests.support.runs import step_folder, tiny_config, train_arguments
from uvit_dia.analysis import __main__ as analysis
from uvit_dia.analysis.arguments import COMMANDS, AnalysisArguments
from uvit_dia.analysis.correlation import (
    analyse_correlation,
    map_correlations,
    split_correlations,
)
from uvit_dia.analysis.cost import Inputs, make_variants
from uvit_dia.analysis.cost_measures import count_costs, time_interleaved
from uvit_dia.analysis.gates import gate_statistics
from uvit_dia.analysis.gradients import block_gradients
from uvit_dia.analysis.importance import map_importances
from uvit_dia.analysis.probe import Observations, observe, replaced_gates, watched
from uvit_dia.analysis.sensitivity import analyse_sensitivity, removals
from uvit_dia.analysis.subject import Subject, make_subject
from uvit_dia.models.build import make_model
from uvit_dia.models.units.protocol import AttentionUnit, UnitState
from uvit_dia.models.units.registry import ATTENTION_NAMES, DEFAULT_OPTIONS, make_attention_unit
from uvit_dia.runs.trained_model import load_run
from uvit_dia.system.accelerator import make_accelerator
from uvit_dia.system.errors import InputError
from uvit_dia.system.files import sha256_file

FEW = ("--num_images", "24")
SAMPLING = ("--num_images", "64", "--sampler", "dpmpp_2m", "--num_steps", "2")
FLAGS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("correlation", "importance", "gates", "gradients"), FEW),
    "sensitivity": SAMPLING,
    "neighbours": SAMPLING,
    "cost": ("--num_rounds", "2", "--batch_size", "4"),
}
QUICK = {
    "train.num_steps": 3,
    "optimizer.learning_rate": 0.02,
    "ema.decay": 0.2,
    "sample.batch_size": 32,
    "eval.num_images": 64,
}
RUNS: dict[str, dict[str, object]] = {
    "shared": {},
    "unshared": {"model.attention_options.shared": False},
    "se": {"model.attention": "se", "model.attention_options.shared": False},
    "none": {"model.attention": "none"},
    "single": {"model.attention_options.blocks": "1"},
}


@pytest.fixture(scope="module")
def trained_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train runs of three steps, so that no unit is the identity any more; tests only read them."""
    folder = tmp_path_factory.mktemp("runs")
    for name, changes in RUNS.items():
        train.main(["train.py", *train_arguments(folder / name, {**QUICK, **changes})])
    return folder


@pytest.fixture
def runs(trained_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the runs that a test may change, as its working folder."""
    shutil.copytree(trained_runs, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def subject_of(trained_runs: Path) -> Callable[..., Subject]:
    """Return a function that loads one of the runs with 24 images."""

    def load(name: str, **changes: Any) -> Subject:
        accelerator = make_accelerator()
        arguments = AnalysisArguments("gates", trained_runs / name, num_images=24)
        model = load_run(trained_runs / name, use_ema=True, device=accelerator.device)
        return make_subject(model, replace(arguments, **changes), accelerator)

    return load


def analyse(command: str, run: str, *flags: str) -> dict:
    analysis.main(["analysis.py", command, "--checkpoint", run, *FLAGS[command], *flags])
    return json.loads((Path(run) / "analysis" / f"{command}.json").read_text())


# ---------------------------------------------------------------- correlation


def correlated_maps(num_images: int, num_channels: int) -> Tensor:
    """Return (4, N, D) maps.

    That of block 0 correlates with the others by 0.5, 0.99 and 0, for every image.
    """
    vectors = torch.randn(num_images, num_channels, 4, generator=torch.Generator().manual_seed(0))
    vectors -= vectors.mean(dim=1, keepdim=True)
    a, b, c, d = torch.linalg.qr(vectors)[0].permute(2, 0, 1)  # orthonormal, of mean 0
    half, near = math.sqrt(1 - 0.5**2), math.sqrt(1 - 0.99**2)
    return 0.5 + 0.1 * torch.stack([a, 0.5 * a + half * b, 0.99 * a + near * c, d])


def test_known_correlations_are_found() -> None:
    found = map_correlations(correlated_maps(8, 32))
    assert found.shape == (8, 4, 4)
    expected = torch.tensor([1.0, 0.5, 0.99, 0.0], dtype=torch.float64).expand(8, 4)
    torch.testing.assert_close(found[:, 0], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(found, found.transpose(1, 2), atol=1e-12, rtol=0)


def test_correlation_agrees_with_numpy() -> None:
    maps = torch.rand(3, 5, 16, generator=torch.Generator().manual_seed(1))
    for image, found in enumerate(map_correlations(maps)):
        expected = np.corrcoef(maps[:, image].double().numpy())
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-10)


def test_constant_map_has_no_correlation() -> None:
    maps = torch.rand(3, 2, 16)
    maps[1] = 0.25 + 1e-8 * torch.randn(2, 16)  # rounding
    found = map_correlations(maps)
    assert found[:, 1].isnan().all()
    assert found[:, :, 1].isnan().all()
    assert found[:, 0, 2].isfinite().all()


def test_what_all_images_have_is_told_from_what_varies() -> None:
    """Two blocks whose fixed patterns are alike and whose changes are opposite."""
    draw = torch.Generator().manual_seed(2)
    pattern, other = torch.randn(2, 16, generator=draw)
    changes = 0.1 * torch.randn(6, 16, generator=draw)
    changes -= changes.mean(dim=0)
    maps = torch.stack([pattern + changes, 2 * pattern - changes, (other + 1).expand(6, 16)])
    parts = split_correlations(maps)
    assert parts["static_matrix"][0, 1] == pytest.approx(1.0, abs=1e-6)
    assert parts["varying_matrix"][0, 1] == pytest.approx(-1.0, abs=1e-5)
    expected = np.corrcoef(pattern.numpy(), other.numpy())[0, 1]
    assert parts["static_matrix"][0, 2] == pytest.approx(expected, abs=1e-6)
    assert np.isnan(parts["varying_matrix"][2]).all()  # it never changes
    whole = maps.double() - maps.double().mean(dim=2, keepdim=True)
    shares = whole.var(dim=1, correction=0).sum(dim=1) / whole.square().mean(dim=1).sum(dim=1)
    np.testing.assert_allclose(parts["varying_share"], shares, atol=1e-12)
    assert parts["varying_share"][2] == pytest.approx(0.0, abs=1e-9)


class PlantedUnit(AttentionUnit):
    """A unit whose map is looked up by block."""

    def __init__(self, maps: Tensor) -> None:
        super().__init__(maps.shape[-1], num_extra_tokens=1)
        self.maps = maps

    def full_gate(
        self, y: Tensor, state: UnitState, block_index: int, grid: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, UnitState]:
        attention_map = self.maps[block_index].expand(len(y), -1)
        return attention_map[:, None], attention_map, state


@pytest.mark.parametrize("name", ["shared", "unshared"])
def test_maps_planted_in_a_network_are_seen(name: str, subject_of: Callable[..., Subject]) -> None:
    subject = subject_of(name)
    maps = correlated_maps(1, 16)[:3]
    planted = {str(index): PlantedUnit(maps) for index in range(3)}
    units: nn.Module = planted["0"] if name == "shared" else nn.ModuleDict(planted)
    subject.trained.model.attention_unit = units
    seen = observe(subject)
    assert seen.blocks == (0, 1, 2)
    torch.testing.assert_close(seen.maps, maps.expand(-1, 24, -1), atol=0, rtol=0)
    means = map_correlations(seen.maps).mean(dim=0)
    assert means[0, 1] == pytest.approx(0.5, abs=0.02)
    assert means[0, 2] == pytest.approx(0.99, abs=0.02)
    assert means[1, 2] == pytest.approx(0.495, abs=0.02)


def test_correlation_file_holds_matrix_and_distribution(runs: Path) -> None:
    results = analyse("correlation", "unshared")["results"]
    matrix = np.array(results["matrix"])
    np.testing.assert_allclose(np.diag(matrix), 1, atol=1e-6)
    assert results["blocks"] == [0, 1, 2]
    assert sum(results["histogram_counts"]) == 24 * 3  # images times pairs
    upper = matrix[np.triu_indices(3, k=1)]
    assert results["mean"] == pytest.approx(upper.mean(), abs=1e-6)
    assert results["undefined_share"] == 0


@pytest.mark.parametrize(("lowest", "shown"), [(-0.52, -0.55), (0.3, 0.0)])
def test_the_histogram_shows_every_correlation(
    lowest: float, shown: float, subject_of: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two blocks; one image of 24 has the lowest value, which the mean over images hides."""
    subject = subject_of("shared")
    a, b = torch.tensor([1.0, 1, -1, -1]), torch.tensor([1.0, -1, 1, -1])
    wanted = torch.full((24, 1), 0.8).index_fill(0, torch.tensor([5]), lowest)
    maps = torch.stack([a.expand(24, 4), wanted * a + (1 - wanted**2).sqrt() * b])
    seen = Observations((0, 1), maps, maps, subject.timesteps)
    monkeypatch.setattr("uvit_dia.analysis.correlation.observe", lambda subject: seen)
    arguments = AnalysisArguments("correlation", Path("shared"), num_images=24)
    result = analyse_correlation(arguments, subject.trained, subject.accelerator)
    (histogram,) = (axes for axes in result.figure.axes if axes.get_xlabel() == "correlation")
    assert histogram.get_xlim() == pytest.approx((shown, 1.0))


# ---------------------------------------------------------------- importance


def test_planted_source_is_found() -> None:
    noise = torch.Generator().manual_seed(2)
    maps = torch.rand(5, 40, 50, generator=noise)
    maps[3] = maps[1] ** 2 + 0.01 * torch.rand(40, 50, generator=noise)
    importances, scores = map_importances(maps, seed=0)
    assert importances.shape == (4, 4)
    assert importances[2, 1] > 0.95  # row of block 3, feature of block 1
    assert scores[2] > 0.95
    assert scores[3] < 0.1  # block 4 is noise: whatever its importances are, they mean nothing
    for row in range(4):
        assert importances[row, : row + 1].sum() == pytest.approx(1)
        assert np.isnan(importances[row, row + 1 :]).all()


def test_importance_of_a_constant_map_is_undefined() -> None:
    maps = torch.rand(3, 10, 20)
    maps[2] = 0.25
    importances, scores = map_importances(maps, seed=0)
    assert np.isfinite(importances[0, 0])
    assert np.isnan(importances[1]).all()
    assert np.isnan(scores[1])


# ---------------------------------------------------------------- gates


@pytest.mark.parametrize("name", ["shared", "unshared", "se"])
def test_gates_are_what_multiplies_the_tokens(
    name: str, subject_of: Callable[..., Subject]
) -> None:
    subject = subject_of(name)
    model = subject.trained.model
    ratios: dict[int, list[Tensor]] = {0: [], 1: [], 2: []}

    def keep(unit: nn.Module, y: Tensor, block_index: int, output: Any) -> None:
        largest = y.abs().argmax(dim=1, keepdim=True)  # where a ratio is exact
        ratio = output[0].gather(1, largest) / y.gather(1, largest)
        ratios[block_index].append(ratio[:, 0])

    with watched(model, keep), torch.no_grad():
        for batch in subject.batches():
            model(batch.x_t, batch.timesteps)
    seen = observe(subject)
    expected = torch.stack([torch.cat(parts) for parts in ratios.values()])
    torch.testing.assert_close(seen.gates, expected, atol=1e-5, rtol=1e-5)
    start = 0.25 if name != "se" else 0.5
    by_hand = 1 + torch.tanh(4 * (seen.maps - start))  # these runs start as the identity
    torch.testing.assert_close(seen.gates, by_hand, atol=1e-6, rtol=0)
    assert (seen.gates - 1).abs().max() > 1e-3  # and are no longer there


def test_gate_statistics_tell_channels_from_images_and_noise_levels() -> None:
    channels = torch.tensor([0.2, 0.6])  # std 0.2
    images = torch.tensor([-0.1, 0.1, -0.1, 0.1])  # std 0.1
    gates = torch.stack([channels + images[:, None], torch.ones(4, 2)])
    timesteps = torch.tensor([0, 99, 100, 999])
    values: dict = gate_statistics(Observations((1, 4), gates, gates, timesteps), 1000)
    by_block = values["by_block"]
    np.testing.assert_allclose(by_block["mean"], [0.4, 1], atol=1e-6)
    np.testing.assert_allclose(by_block["std_between_channels"], [0.2, 0], atol=1e-6)
    np.testing.assert_allclose(by_block["std_between_images"], [0.1, 0], atol=1e-6)
    np.testing.assert_allclose(by_block["std"], [math.sqrt(0.05), 0], atol=1e-6)
    np.testing.assert_allclose(values["by_channel"]["mean"], [[0.2, 0.6], [1, 1]], atol=1e-6)
    np.testing.assert_allclose(values["by_channel"]["std"], [[0.1, 0.1], [0, 0]], atol=1e-6)
    by_timestep = values["by_timestep"]
    assert by_timestep["num_images"] == [2, 1, 0, 0, 0, 0, 0, 0, 0, 1]
    np.testing.assert_allclose(by_timestep["mean"][0, [0, 1, 9]], [0.4, 0.3, 0.5], atol=1e-6)
    assert np.isnan(by_timestep["mean"][0, 2:9]).all()
    assert by_timestep["timestep_edges"] == list(range(0, 1001, 100))


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("name", ["shared", "none"])
def test_gradients_predict_how_a_loss_changes(
    name: str, subject_of: Callable[..., Subject]
) -> None:
    """Once more by hand.

    A change of a block's output, along the gradient itself, must change the loss by its norm.
    """
    subject = subject_of(name)
    model: Any = subject.trained.model
    found = block_gradients(subject)
    for block, module in enumerate([*model.in_blocks, model.mid_block, *model.out_blocks]):
        outputs: list[Tensor] = []
        changes: list[Tensor] = []

        def change(
            module: nn.Module, inputs: Any, output: Any, kept: Any = (outputs, changes)
        ) -> Any:
            if kept[1]:
                return output[0] + kept[1][0], output[1]
            kept[0].append(output[0])
            return None

        handle = module.register_forward_hook(change)
        (batch,) = subject.batches()
        batch.x_t.requires_grad_(True)
        loss = subject.losses(batch).sum()
        (gradient,) = torch.autograd.grad(loss, outputs[0])
        norms = gradient.flatten(1).norm(dim=1)
        size = 1e-2
        with torch.no_grad():
            direction = size * gradient / norms[:, None, None]
            changes.append(direction)
            above = subject.losses(batch)
            changes[0] = -direction
            below = subject.losses(batch)
        handle.remove()
        measured = ((above - below) / (2 * size)).double().numpy()
        np.testing.assert_allclose(found.image_norms[block], measured, rtol=0.02, atol=1e-4)
        assert found.mean[block] == pytest.approx(float(gradient.mean()), rel=1e-3, abs=1e-9)
        assert found.std[block] == pytest.approx(float(gradient.std()), rel=1e-3)


def test_gradients_do_not_depend_on_the_batch_size(subject_of: Callable[..., Subject]) -> None:
    whole, parts = (block_gradients(subject_of("shared", batch_size=size)) for size in (24, 7))
    np.testing.assert_allclose(whole.std, parts.std, rtol=1e-4)
    np.testing.assert_allclose(whole.image_norms, parts.image_norms, rtol=1e-3)
    np.testing.assert_allclose(
        whole.absolute_quantiles, parts.absolute_quantiles, rtol=1e-2, atol=1e-7
    )


def test_gradients_of_another_run_stand_beside(runs: Path) -> None:
    record = analyse("gradients", "shared", "--compare", "none")
    both = record["results"]["runs"]
    alone = analyse("gradients", "none")["results"]["runs"]
    assert [run["name"] for run in both] == ["dia_lstm, step 3", "no unit, step 3"]
    assert both[1] == alone[0]  # the same images and noise
    assert record["compare"]["weights_sha256"] != record["weights_sha256"]
    assert record["compare"]["attention"] == "none"


# ---------------------------------------------------------------- sensitivity


def test_replaced_gates_take_the_unit_out(subject_of: Callable[..., Subject]) -> None:
    subject = subject_of("shared")
    model = subject.trained.model
    plain = make_model(tiny_config({"model.attention": "none"})).eval()
    kept = {k: v for k, v in model.state_dict().items() if not k.startswith("attention_unit.")}
    plain.load_state_dict(kept, strict=True)
    (batch,) = subject.batches()
    with torch.no_grad():
        before = model(batch.x_t, batch.timesteps)
        with replaced_gates(model, dict.fromkeys(range(3))):
            without = model(batch.x_t, batch.timesteps)
        with replaced_gates(model, {1: torch.full((16,), 0.5)}):
            halved = model(batch.x_t, batch.timesteps)
        torch.testing.assert_close(without, plain(batch.x_t, batch.timesteps), atol=1e-6, rtol=0)
        torch.testing.assert_close(model(batch.x_t, batch.timesteps), before, atol=0, rtol=0)
    for other in (without, halved):
        assert (other - before).abs().max() > 1e-4


class Measured(Exception):
    """Ends an analysis that has come to what a test asks for."""


@pytest.mark.parametrize("gate_init", ["paper", "identity"])
@pytest.mark.parametrize("name", ["cbam", "sge", "dia_lstm"])
def test_mean_gates_keep_the_scale(
    name: str,
    gate_init: str,
    subject_of: Callable[..., Subject],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What "mean" puts in is the mean of what multiplied a token, patches and time alike."""
    subject = subject_of("shared")
    model: Any = subject.trained.model
    options = {**DEFAULT_OPTIONS, "gate_init": gate_init}
    torch.manual_seed(0)
    model.attention_unit = make_attention_unit(name, 16, 1, options).eval()
    for parameter in model.attention_unit.parameters():
        nn.init.normal_(parameter, std=0.5)
    ratios: dict[int, list[Tensor]] = {0: [], 1: [], 2: []}

    def keep(unit: nn.Module, y: Tensor, block_index: int, output: Any) -> None:
        ratios[block_index].append(output[0] / y)  # B L D

    def measure() -> dict[int, Tensor]:
        for parts in ratios.values():
            parts.clear()
        with watched(model, keep), torch.no_grad():
            for batch in subject.batches():
                model(batch.x_t, batch.timesteps)
        return {block: torch.cat(parts).mean(dim=0) for block, parts in ratios.items()}

    def find(subject: Subject, distance: Any, cases: Any, means: dict[int, Tensor]) -> None:
        measured = measure()
        assert measured.keys() == means.keys()
        for block, ratio in measured.items():
            found = means[block].expand_as(ratio)
            torch.testing.assert_close(found, ratio, rtol=1e-4, atol=1e-5)
        assert name == "dia_lstm" or ratio.std(dim=0).max() > 1e-3  # tokens do differ
        with replaced_gates(model, means):
            for block, ratio in measure().items():
                found = means[block].expand_as(ratio)
                torch.testing.assert_close(found, ratio, rtol=1e-4, atol=1e-5)
        raise Measured

    monkeypatch.setattr("uvit_dia.analysis.sensitivity._measure_all", find)
    arguments = AnalysisArguments("sensitivity", Path("shared"), num_images=24)
    with pytest.raises(Measured):
        analyse_sensitivity(arguments, subject.trained, subject.accelerator)


def test_thirds_hold_all_blocks() -> None:
    named = {removal.name: removal.blocks for removal in removals(list(range(13)), 13)}
    assert named["block 12"] == (12,)
    assert named["first third"] == (0, 1, 2, 3, 4)
    assert named["middle third"] == (5, 6, 7, 8)
    assert named["last third"] == (9, 10, 11, 12)
    assert len(named) == 16
    some = {removal.name: removal.blocks for removal in removals([0, 1, 8], 9)}
    assert some == {
        "block 0": (0,),
        "block 1": (1,),
        "block 8": (8,),
        "first third": (0, 1),
        "last third": (8,),
    }


def test_sensitivity_measures_what_eval_measures(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = analyse("sensitivity", "shared", "--batch_size", "32", "--seed", "5")
    results = record["results"]
    capsys.readouterr()
    eval_fid.main(
        ["eval_fid.py", "--checkpoint", "shared", *SAMPLING, "--batch_size", "32", "--seed", "5"]
    )
    line = json.loads(capsys.readouterr().out)
    assert results["metric"] == "fd"
    assert results["baseline"]["distance"] == pytest.approx(line["fd"], rel=1e-6)
    assert record["floor"] == pytest.approx(line["floor"], rel=1e-6)
    for name in (
        "extractor",
        "extractor_sha256",
        "reference_sha256",
        "nfe",
        "sampler",
        "num_steps",
    ):
        assert record[name] == line[name]
    assert [(row["name"], row["way"]) for row in results["removals"]] == [
        (f"block {block}", way) for block in range(3) for way in ("one", "mean")
    ]
    for row in results["removals"]:
        loss_change = row["loss"] - results["baseline"]["loss"]
        assert row["loss_change"] == pytest.approx(loss_change, abs=1e-5)
        assert row["loss_change"] != 0
        change = row["distance"] - results["baseline"]["distance"]
        assert row["distance_change"] == pytest.approx(change, abs=1e-5)


def test_a_gate_of_a_quarter_is_missed_in_the_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changes = {**QUICK, "model.attention_options.gate_init": "paper"}
    train.main(["train.py", *train_arguments(tmp_path / "paper", changes)])
    rows = analyse("sensitivity", "paper")["results"]["removals"]
    assert all(row["distance_change"] != 0 for row in rows if row["way"] == "one")


def test_nothing_is_lost_where_the_gate_is_one(runs: Path) -> None:
    """Adam's first step of a rate of nearly nothing leaves the identity what it was."""
    changes = {**QUICK, "train.num_steps": 1, "optimizer.learning_rate": 1e-30}
    train.main(["train.py", *train_arguments(Path("fresh"), changes)])
    record = analyse("sensitivity", "fresh", "--num_images", "8")
    results = record["results"]
    assert record["comparable"] is False  # fewer images than features
    assert all(
        row["loss_change"] == 0 and row["distance_change"] == 0 for row in results["removals"]
    )
    correlation = analyse("correlation", "fresh")["results"]
    assert correlation["undefined_share"] == 1  # maps without a pattern have no correlation
    assert correlation["mean"] is None
    assert analyse("importance", "fresh")["results"]["r2_out_of_bag"] == [None, None]


# ---------------------------------------------------------------- cost


def cost_inputs() -> Inputs:
    pixels = torch.zeros(4, 1, 8, 8)
    return Inputs(pixels, torch.arange(4), pixels, torch.arange(4))


def test_cost_counts_every_variant() -> None:
    variants, skipped = make_variants(tiny_config(), cost_inputs(), torch.device("cpu"))
    assert tuple(variants) == ATTENTION_NAMES
    assert skipped == {}
    none, unit = (count_costs(variants[name]) for name in ("none", "dia_lstm"))
    n, r, blocks = 16, 4, 3
    added = 10 * n * n // r + 8 * n + 2 * n // r
    assert unit["weights"] - none["weights"] == added
    assert unit["flops_forward"] - none["flops_forward"] == 2 * 10 * n * n // r * blocks  # an image
    assert unit["flops_step"] > unit["flops_forward"] * 2
    assert not any(key.startswith("peak") for key in unit)  # of CUDA only, whose allocator counts


def test_variants_that_do_not_fit_are_left_out_with_a_reason(runs: Path) -> None:
    changes = {"model.attention": "none", "model.attention_options.reduction": 3}
    variants, skipped = make_variants(tiny_config(changes), cost_inputs(), torch.device("cpu"))
    assert {"none", "lstm", "eca"} <= set(variants)
    assert {"dia_lstm", "dia_lstm_light", "se"} <= set(skipped)
    assert "reduction" in skipped["dia_lstm"]
    assert set(variants) | set(skipped) == set(ATTENTION_NAMES)


def test_srm_is_left_out_where_there_is_one_image(runs: Path) -> None:
    record = analyse("cost", "none", "--batch_size", "1")
    assert set(record["results"]["variants"]) == {*ATTENTION_NAMES} - {"srm"}
    assert "srm normalises over the batch" in record["results"]["skipped"]["srm"]
    check_cost(record["results"]["variants"], left_out=("srm",))


def test_rounds_take_turns() -> None:
    calls: list[str] = []
    variants = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    seconds = time_interleaved(variants, num_rounds=3, device=torch.device("cpu"), label="test")  # type: ignore[arg-type]
    timed = "".join(calls[-9:])
    assert timed == "abcbcacab"
    assert all((values > 0).all() and len(values) == 3 for values in seconds.values())


def check_cost(variants: dict[str, dict], left_out: tuple[str, ...] = ()) -> None:
    """Check that a cost analysis holds ratios to none."""
    assert tuple(variants) == tuple(name for name in ATTENTION_NAMES if name not in left_out)
    for key, value in variants["none"].items():
        if key.endswith("_ratio"):
            assert (value["median"] if isinstance(value, dict) else value) == 1, key
    unit, none = variants["lstm"], variants["none"]
    assert unit["weights_ratio"] == pytest.approx(unit["weights"] / none["weights"], rel=1e-6)
    assert unit["seconds_step"]["quartile_1"] <= unit["seconds_step"]["median"]


# ---------------------------------------------------------------- commands


@pytest.mark.parametrize("command", [*COMMANDS])
def test_command_writes_the_same_again(
    command: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = "se" if command in ("gates", "importance") else "shared"
    record = analyse(command, run)
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{run}/analysis/{command}.json: ")
    assert captured.out.count("\n") == 1
    assert "%|" in captured.err  # a progress bar
    folder = Path(run) / "analysis"
    assert sorted(path.name for path in folder.iterdir()) == [
        f"{command}.{suffix}" for suffix in ("json", "png", "svg")
    ]
    assert (folder / f"{command}.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (folder / f"{command}.svg").read_bytes()[:400]
    facts = {
        "command": command,
        "seed": 0,
        "step": 3,
        "weights": "ema",
        "weights_sha256": sha256_file(step_folder(Path(run), 3) / "ema.safetensors"),
        "num_images": {"sensitivity": 64, "neighbours": 64, "cost": 4}.get(command, 24),
    }
    assert facts.items() <= record.items()
    if command != "neighbours":  # samples have all timesteps
        assert len(record["timesteps"]) == facts["num_images"]
        assert all(0 <= timestep < 1000 for timestep in record["timesteps"])
    assert {"torch", "scikit-learn"} <= set(record["versions"])
    assert record["title"]
    assert record["how_to_read"]
    if command == "cost":
        check_cost(record["results"]["variants"])
        return
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    analyse(command, run)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    other = analyse(command, run, "--seed", "1")
    assert other["results"] != record["results"]


def test_weights_can_be_those_of_training(runs: Path) -> None:
    average, raw = analyse("gates", "shared"), analyse("gates", "shared", "--nouse_ema")
    assert raw["weights"] == "model"
    assert raw["weights_sha256"] == sha256_file(
        step_folder(Path("shared"), 3) / "model.safetensors"
    )
    assert raw["results"] != average["results"]


def test_output_and_step_folder(runs: Path) -> None:
    flags = ["--checkpoint", str(step_folder(Path("shared"), 3)), *FEW, "--timesteps", "7,900"]
    analysis.main(["analysis.py", "gates", *flags, "--output", "a/b"])
    record = json.loads(Path("a/b/gates.json").read_text())
    assert record["timesteps"] == [7, 900] * 12
    assert record["results"]["by_timestep"]["num_images"] == [12, 0, 0, 0, 0, 0, 0, 0, 0, 12]
    analysis.main(["analysis.py", "gates", *flags])
    assert json.loads(Path("shared/analysis/gates.json").read_text()) == record


def test_help_names_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        analysis.main(["analysis.py", "--help"])
    assert ended.value.code == 0
    listed = capsys.readouterr().out.partition("Commands:\n")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in listed.splitlines()] == [*COMMANDS]


@pytest.mark.reliability("G5", "malformed inputs refused in one line")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the command is missing"),
        (["--checkpoint", "shared"], "the command is missing"),
        (["correlations"], "did you mean correlation?"),
        (["gates"], "--checkpoint is missing"),
        (["gates", "--checkpoint", "nowhere"], "--checkpoint: no folder nowhere"),
        (["gates", "--checkpoint", "."], "neither a run nor a step folder"),
        (["gates", "--checkpoint", "none"], "gates needs a run with one"),
        (["correlation", "--checkpoint", "none"], "correlation needs a run with one"),
        (["importance", "--checkpoint", "none"], "importance needs a run with one"),
        (["sensitivity", "--checkpoint", "none"], "sensitivity needs a run with one"),
        (["correlation", "--checkpoint", "single"], "needs a run with 2 or more"),
        (["importance", "--checkpoint", "single"], "needs a run with 2 or more"),
        (["gates", "--checkpoint", "shared", "--num_images", "1"], "--num_images 1: allowed is 2"),
        (["sensitivity", "--checkpoint", "shared", "--num_images=1"], "--num_images 1: allowed"),
        (["gates", "--checkpoint", "shared", "--num_images=9999"], "digits has 1797"),
        (["gates", "--checkpoint", "shared", "--seed=-1"], "--seed -1: allowed is 0"),
        (["gates", "--checkpoint", "shared", "--batch_size=0"], "--batch_size 0: allowed is 1"),
        (["gates", "--checkpoint", "shared", "--timesteps", "1000"], "allowed is 0 to 999"),
        (["gates", "--checkpoint", "shared", "--timesteps", "few"], "takes integers such as"),
        (["gates", "--checkpoint", "shared", "--compare", "none"], "unknown flag --compare"),
        (["gradients", "--checkpoint", "shared", "--compare", "x"], "--compare: no folder x"),
        (["cost", "--checkpoint", "shared", "--num_rounds", "1"], "--num_rounds 1: allowed is 2"),
        (["sensitivity", "--checkpoint", "shared", "--sampler", "ddp"], "did you mean ddpm?"),
        (["gates", "--checkpoint", "shared", "more"], "unexpected word 'more'"),
        (["gates", "--checkpoint", "shared", "--output", "shared/config.json"], "is a file"),
        (
            ["gates", "--checkpoint", "shared", *FEW, "--output", "shared/config.json/x"],
            "cannot make",
        ),
    ],
)
def test_wrong_input_is_told_in_one_line(runs: Path, words: list[str], said: str) -> None:
    before = sorted(runs.rglob("*"))
    with pytest.raises(InputError) as caught:
        analysis.main(["analysis.py", *words])
    message = " ".join(str(caught.value).split())
    assert said in message
    assert len(message) <= 250
    assert caught.value.exit_code == 2
    assert sorted(runs.rglob("*")) == before  # nothing was written


def test_compared_runs_must_have_the_same_loss(runs: Path) -> None:
    changes = {**QUICK, "train.num_steps": 1, "diffusion.prediction_type": "epsilon"}
    train.main(["train.py", *train_arguments(Path("epsilon"), changes)])
    with pytest.raises(
        InputError, match=r"--compare: diffusion.prediction_type is 'epsilon' there"
    ):
        analyse("gradients", "shared", "--compare", "epsilon")


def test_compared_runs_may_differ_in_flips(runs: Path) -> None:
    """The images of an analysis are never flipped."""
    changes = {**QUICK, "train.num_steps": 1, "data.random_flip": True}
    train.main(["train.py", *train_arguments(Path("flipped"), changes)])
    both = analyse("gradients", "shared", "--compare", "flipped")["results"]["runs"]
    assert len(both) == 2


def test_missing_matplotlib_is_told(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uvit_dia.analysis.__main__.find_spec", lambda name: None)
    with pytest.raises(InputError, match="matplotlib is not installed"):
        analyse("gates", "shared")
