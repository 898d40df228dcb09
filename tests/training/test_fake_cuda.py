"""Steps on CUDA tensors without a GPU: no mix of devices, and the host waits for nothing."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensorDeviceMismatchError,
    unset_fake_temporarily,
)

from benchmarks.subjects import config_of
from tests.support.fake_cuda import CUDA, backward, fake_cuda, move
from tests.support.networks import make_uvit, randomise
from uvit_dia.data.batches import TrainingBatches
from uvit_dia.data.images import ImageSet, to_uint8
from uvit_dia.diffusion import Diffusion
from uvit_dia.evaluation.digits_classifier import load_digits_classifier
from uvit_dia.evaluation.extractor_files import DIGITS_FILE
from uvit_dia.models.build import make_model
from uvit_dia.runs.data_identity import DataIdentity
from uvit_dia.runs.folder import RunFolder
from uvit_dia.runs.resume import RunCheckpoints
from uvit_dia.system.accelerator import make_accelerator
from uvit_dia.training import networks
from uvit_dia.training.log import TrainLog
from uvit_dia.training.optimizer import make_optimizer
from uvit_dia.training.trainer import Trainer

CPU = torch.device("cpu")
UNITS = ("none", "dia_lstm", "dia_lstm_light", "se", "cbam", "srm")


@pytest.fixture
def on_cuda() -> Iterator[None]:
    with fake_cuda():
        yield


def cuda_trainer(folder: Path, attention: str, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """Make a trainer whose device is fake CUDA; call it within `fake_cuda`."""
    changes = {"model.attention_options.gate_init": "paper", "optimizer.max_grad_norm": 1.0}
    config = config_of("digits", attention, device=CPU, short=True, changes=changes)
    accelerator = make_accelerator(mixed_precision=config.train.mixed_precision)
    monkeypatch.setattr(accelerator.state, "device", CUDA)
    with unset_fake_temporarily():  # the draws of initial weights look at numbers, on the CPU
        model, averaged = (make_model(config) for _ in range(2))
    move(model)
    # torch's copy of a fake parameter reads memory that is not there
    monkeypatch.setattr(networks, "copy", SimpleNamespace(deepcopy=lambda _: move(averaged)))
    images = ImageSet("random", torch.empty(64, 1, 8, 8, dtype=torch.uint8, device=CUDA))
    run = RunFolder(folder)
    log = TrainLog(accelerator, run, batch_size=4, num_steps=100, show_progress=False)
    batches = TrainingBatches(images, 4, seed=0, random_flip=True, device=CUDA)
    identity = DataIdentity(64, "", None)
    return Trainer(
        accelerator,
        model,
        make_optimizer(model, config.optimizer),
        diffusion=Diffusion(config.diffusion, CUDA),
        batches=batches,
        config=config,
        checkpoints=RunCheckpoints(run, config, data=identity, num_processes=1, warn=log.warn),
        log=log,
    )


@pytest.mark.parametrize("attention", UNITS)
def test_a_training_step_reads_nothing_back(
    attention: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_cuda: None
) -> None:
    """Draws, forward, backward, clipping, fused AdamW, average, and what the log collects."""
    trainer = cuda_trainer(tmp_path, attention, monkeypatch)
    trainer.train_step()
    assert trainer.step == 1
    assert trainer.log.window().device == CUDA
    with pytest.raises(DataDependentOutputException):
        trainer._raise_if_diverged()  # as on log steps, where the host does wait


def test_a_read_back_in_a_step_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_cuda: None
) -> None:
    trainer = cuda_trainer(tmp_path, "dia_lstm", monkeypatch)
    trainer.guard.skips_updates = False  # the step then looks at once, as on a CPU
    with pytest.raises(DataDependentOutputException):
        trainer.train_step()


@torch.no_grad()
@pytest.mark.parametrize("attention", ["none", "dia_lstm", "dia_lstm_light"])
def test_a_network_call_of_sampling_reads_nothing_back(attention: str) -> None:
    """The schedulers of diffusers read the timestep back, which is not ours to change."""
    model = make_uvit(attention=attention)
    with fake_cuda():
        move(model)
        x_t = torch.empty(4, 3, 8, 8, device=CUDA)
        images = to_uint8(model(x_t, torch.full((4,), 999, device=CUDA)))
        assert images.device == CUDA
        with pytest.raises(FakeTensorDeviceMismatchError):
            model(x_t, torch.full((4,), 999))


@torch.no_grad()
def test_an_evaluation_batch_reads_back_its_features_alone() -> None:
    network = load_digits_classifier(DIGITS_FILE)
    with fake_cuda():
        move(network)
        features = network(torch.empty(4, 1, 8, 8, dtype=torch.uint8, device=CUDA))
        assert features.device == CUDA
        with pytest.raises(RuntimeError, match="device"):
            network(torch.empty(4, 1, 8, 8, dtype=torch.uint8))


def test_a_walk_of_the_graph_gives_the_gradients_of_autograd() -> None:
    models = [make_uvit(attention="dia_lstm").train() for _ in range(2)]
    x_t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for model, call in zip(models, (torch.Tensor.backward, backward), strict=True):
        randomise(model)
        call(model(x_t, torch.tensor([3, 700])).square().mean())
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-7)
