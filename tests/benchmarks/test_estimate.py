"""What large runs would take.

The counts against real runs of small networks, and what the docs say.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import estimate
from benchmarks.floor import step_flops
from benchmarks.subjects import config_of
from tests.support.forked import start_ranks
from tests.support.runs import step_folder, train
from uvit_dia.config.files import read_config_json
from uvit_dia.config.schema import Config
from uvit_dia.models.build import make_model

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]


def small(unit: str = "dia_lstm") -> Config:
    return config_of("digits", unit, device=CPU, short=True)


def really_kept(config: Config, batch_size: int) -> int:
    """Return the bytes that autograd keeps in a forward pass of real numbers."""
    model, shape = make_model(config), config.model
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, tuple[int, Tensor]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    x_t = torch.randn(batch_size, shape.in_chans, shape.img_size, shape.img_size)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(x_t, torch.zeros(batch_size, dtype=torch.long))
    return sum(num_bytes for num_bytes, _ in found.values())


@pytest.mark.parametrize("unit", ["none", "dia_lstm", "dia_lstm_light"])
def test_what_autograd_keeps_is_counted_as_a_real_run_keeps_it(unit: str) -> None:
    config = small(unit)
    assert estimate.count(config).kept == really_kept(config, 3) - really_kept(config, 2)


def test_autocast_keeps_less() -> None:
    whole, half = estimate.count(small()), estimate.count(small(), bf16=True)
    assert whole.kept / 2 < half.kept < whole.kept


def test_weights_are_those_of_the_authors() -> None:
    # arXiv:2209.12152, Table 1: 44M, 287M and 501M; 133 GFLOPs a forward pass count products as one
    found = [estimate.count(estimate.config_of(name, "none")).weights for name in estimate.SIZES]
    assert [round(weights / 1e6) for weights in found] == [44, 287, 501]
    assert step_flops(estimate.config_of(estimate.HUGE, "none").model, 1) / 6e9 == pytest.approx(
        133.25, rel=0.002
    )


def test_a_checkpoint_has_the_size_that_is_told(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, {"train.num_steps": 2})
    step = step_folder(run, 2)
    on_disk = sum(file.stat().st_size for file in step.rglob("*") if file.is_file())
    weights = estimate.count(read_config_json(run / "config.json")).weights
    told = estimate.FLOAT32 * estimate.CHECKPOINT_NUMBERS * weights
    assert told < on_disk < told + 60_000  # names, steps of the optimizer, and JSON files


def _sum_gradients(expected: int) -> None:
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo")
    config = small()
    model = DistributedDataParallel(make_model(config))
    handed = []

    def count(state: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        handed.append(bucket.buffer().numel() * bucket.buffer().element_size())
        done: torch.futures.Future[Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    model.register_comm_hook(None, count)
    shape = config.model
    x_t = torch.randn(2, shape.in_chans, shape.img_size, shape.img_size)
    model(x_t, torch.zeros(2, dtype=torch.long)).sum().backward()
    assert sum(handed) == expected, (sum(handed), expected)
    dist.destroy_process_group()


@pytest.mark.multiprocess
def test_ddp_sums_as_many_bytes_as_is_told() -> None:
    # of two in a ring, each sends as many bytes as the gradients have
    expected = estimate.sent_bytes(estimate.count(small()).weights, 2, sharded=False)
    for child in start_ranks(2, _sum_gradients, expected):
        finished = child.wait()
        assert finished.exit_code == 0, finished.stderr


def test_the_docs_have_what_is_printed() -> None:
    page = (ROOT / "docs" / "speed.md").read_text()
    table = estimate.huge_table(estimate.MEASURED_TFLOPS, 50)
    assert "\n".join(table) in page


@pytest.mark.slow
def test_the_docs_have_all_that_is_printed() -> None:
    assert "\n".join(estimate.sizes_table()) in (ROOT / "docs" / "speed.md").read_text()


def test_rates_must_be_above_zero(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        estimate.main(["--tflops", "0"])
    assert "above 0" in capsys.readouterr().err
