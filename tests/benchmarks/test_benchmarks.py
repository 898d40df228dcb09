"""The benchmarks: that each runs, in its short form, and that what they compare with is right."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import floor, measure
from benchmarks.__main__ import NAMES
from benchmarks.plain_uvit import PlainUViT
from benchmarks.profile import by_kind, kind_of
from benchmarks.subjects import config_of
from tests.support.networks import randomise
from uvit_dia.models.build import make_model

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", NAMES)
def test_each_runs_and_writes_what_it_measured(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # which a benchmark sets
    output = tmp_path / "out" / "found.json"
    more = ["--sizes", "digits"] if name in ("step", "sampling", "checkpoint") else []
    importlib.import_module(f"benchmarks.{name}").main(["--short", "--output", str(output), *more])
    record = json.loads(output.read_text())
    assert record["benchmark"] == name
    assert torch.__version__.startswith(record["machine"]["versions"]["torch"])
    assert record["seconds"] or record["facts"]
    for ratio in record["ratios"].values():
        assert ratio["low"] <= ratio["median"] <= ratio["high"]
        assert ratio["rounds"] == 1


@pytest.mark.parametrize("size", ["digits", "small"])
def test_the_plain_network_computes_the_same_function(size: str) -> None:
    config = config_of(size, device=CPU, short=True).model
    model = make_model(config_of(size, device=CPU, short=True)).eval()
    randomise(model)
    plain = PlainUViT(config)
    plain.load_state_dict(model.state_dict())
    x_t = torch.randn(3, config.in_chans, config.img_size, config.img_size)
    timesteps = torch.tensor([0, 7, 999])
    with torch.no_grad():
        torch.testing.assert_close(plain(x_t, timesteps), model(x_t, timesteps))


@pytest.mark.parametrize("size", ["digits", "small"])
def test_flops_of_the_floor_are_those_that_torch_counts(size: str) -> None:
    config = config_of(size, device=CPU, short=True).model
    plain = PlainUViT(config)
    x_t = torch.randn(2, config.in_chans, config.img_size, config.img_size)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        plain(x_t, torch.tensor([0, 7]))
    assert counter.get_total_flops() == 2 * floor.forward_flops(config)


@pytest.mark.parametrize(
    ("count", "rank"), [(1, 0), (2, 0), (5, 0), (6, 0), (9, 1), (15, 3), (25, 7)]
)
def test_the_interval_holds_the_median(count: int, rank: int) -> None:
    """Ranks from a table of the sign test at 95 %, counted from 0."""
    ratio = measure.Ratio.of([float(value) for value in reversed(range(count))])
    assert (ratio.low, ratio.high) == (rank, count - 1 - rank)
    assert ratio.median == (count - 1) / 2
    assert ratio.rounds == count


def test_variants_are_called_in_turn() -> None:
    calls: list[str] = []
    variants = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = measure.in_turn(variants, rounds=3, device=CPU, min_seconds=0.0, warm_ups=1)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(of.wall) for name, of in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_share_is_the_floor_over_the_time() -> None:
    bounds = floor.Floor(CPU, torch.float32, short=True)
    times = {
        "product": measure.Times(wall=[2.0, 4.0]),
        "copy": measure.Times(wall=[1.0, 2.0]),
        "step": measure.Times(wall=[20.0, 40.0]),
    }
    flops, moved = 3 * 2 * 64**3, 4 * 2 * 2**16  # three products and four copies: 10 seconds
    share = bounds.share(times, "step", flops, moved)
    assert (share.low, share.high) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::addmm", "products"),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopB_bias_TNN", "products"),
        ("sm80_xmma_gemm_f32f32_f32f32_f32_nn_n_tilesize128x128x8", "products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("fmha_cutlassF_f32_aligned_64x64_rf_sm80", "attention"),
        ("triton_red_fused_native_layer_norm_mean_3", "fused"),
        ("aten::native_layer_norm_backward", "normalisation"),
        ("aten::_fused_adamw_", "update"),
        ("aten::mul", "element-wise, sums"),
    ],
)
def test_work_is_told_apart_by_names(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_kinds_and_idle_time_add_up_to_the_step() -> None:
    events = [("aten::mm", 3000.0), ("aten::addmm", 1000.0), ("aten::mul", 500.0)]
    found = by_kind(events, 4.0, steps=2)
    expected = {"products": 2.0, "idle": 1.75, "element-wise, sums": 0.25, "total": 4.0}
    assert found == pytest.approx(expected)
    assert sum(found.values()) == 2 * found["total"]
