"""The average of the weights: its closed form, its decay, and memory of its own."""

import copy

import pytest
import torch
from torch import nn

from uvit_dia.config.schema import EMAConfig
from uvit_dia.training.ema import EMA, ema_decay


def make_model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def set_weights(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def values(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# ---------------------------------------------------------------- average


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
def test_closed_form_after_k_steps(decay: float) -> None:
    """ema_k = d^k w_0 + (1 - d) sum_j d^(k - j) w_j."""
    model = make_model()
    first = values(model).double()
    ema = EMA(model, copy.deepcopy(model))
    num_steps = 7
    for step in range(1, num_steps + 1):
        set_weights(model, 0.1 * step**2)
        ema.update(decay)
    weights = [(1 - decay) * decay ** (num_steps - j) * 0.1 * j**2 for j in range(1, num_steps + 1)]
    expected = decay**num_steps * first + sum(weights)
    torch.testing.assert_close(values(ema.model).double(), expected, rtol=1e-5, atol=1e-6)


def test_every_parameter_is_averaged() -> None:
    model = make_model()
    ema = EMA(model, copy.deepcopy(model))
    before = values(ema.model).clone()
    set_weights(model, 100.0)
    ema.update(0.9)
    assert (values(ema.model) != before).all()
    for (name, average), (model_name, _) in zip(
        ema.model.named_parameters(), model.named_parameters(), strict=True
    ):
        assert name == model_name
        assert average.is_contiguous()


def test_average_starts_at_the_weights_and_shares_no_memory_with_them() -> None:
    model = make_model()
    ema = EMA(model, copy.deepcopy(model))
    start = values(model).clone()
    torch.testing.assert_close(values(ema.model), start, rtol=0, atol=0)
    set_weights(model, 3.0)  # as an optimizer does, in place
    torch.testing.assert_close(values(ema.model), start, rtol=0, atol=0)
    ema.update(0.5)
    torch.testing.assert_close(values(model), torch.full_like(start, 3.0), rtol=0, atol=0)
    pointers = {p.data_ptr() for p in model.parameters()}
    assert pointers.isdisjoint(p.data_ptr() for p in ema.model.parameters())


def test_average_is_for_evaluation_and_takes_no_gradient() -> None:
    model = make_model().train()
    ema = EMA(model, copy.deepcopy(model))
    assert not ema.model.training
    assert not any(p.requires_grad for p in ema.model.parameters())
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_updates_follow_an_optimizer() -> None:
    """The weights that an optimizer steps in place are the ones that are averaged."""
    model = make_model()
    ema = EMA(model, copy.deepcopy(model))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(2, 3)).square().sum().backward()
    optimizer.step()
    ema.update(0.0)
    torch.testing.assert_close(values(ema.model), values(model), rtol=0, atol=1e-7)


# ---------------------------------------------------------------- decay


def test_a_decay_a_step_is_taken_as_it_is() -> None:
    assert ema_decay(0, 32, EMAConfig(decay=0.999, halflife_images=0, rampup_ratio=0.0)) == 0.999
    assert (
        ema_decay(10**6, 512, EMAConfig(decay=0.999, halflife_images=0, rampup_ratio=0.0)) == 0.999
    )


@pytest.mark.parametrize("batch_size", [16, 32, 128, 1000])
def test_half_life_in_images_does_not_depend_on_the_batch_size(batch_size: int) -> None:
    """After 64,000 images, half of the past is forgotten."""
    decay = ema_decay(0, batch_size, EMAConfig(decay=0.0, halflife_images=64_000, rampup_ratio=0.0))
    assert decay ** (64_000 / batch_size) == pytest.approx(0.5, rel=1e-12)


def test_ramp_up_bounds_the_half_life_by_the_images_seen() -> None:
    batch_size, ratio = 100, 0.05
    for step in (0, 9, 999):
        seen = (step + 1) * batch_size
        decay = ema_decay(
            step, batch_size, EMAConfig(decay=0.0, halflife_images=10**9, rampup_ratio=ratio)
        )
        halflife = batch_size * torch.tensor(0.5).log() / torch.tensor(decay).double().log()
        assert float(halflife) == pytest.approx(ratio * seen, rel=1e-5)


@pytest.mark.parametrize(
    "settings", [{"decay": 0.9, "halflife_images": 0}, {"decay": 0.0, "halflife_images": 700}]
)
def test_ramp_up_ends_at_the_decay(settings: dict) -> None:
    decays = [
        ema_decay(step, 100, EMAConfig(rampup_ratio=0.05, **settings)) for step in range(1000)
    ]
    final = ema_decay(0, 100, EMAConfig(rampup_ratio=0.0, **settings))
    assert decays == sorted(decays)
    assert decays[0] < 1e-5
    assert decays[-1] == final
    assert sum(decay < final for decay in decays) == pytest.approx(
        float(torch.tensor(0.5).log() / torch.tensor(final).log()) / 0.05, abs=1.5
    )


def test_buffers_are_copied() -> None:
    """Running statistics belong to the latest weights; samples of the average use them too."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    average = EMA(model, copy.deepcopy(model))
    model(torch.randn(8, 3))
    norm, copied = model[1], average.model[1]
    assert not torch.equal(copied.running_var, norm.running_var)
    average.update(0.9)
    assert torch.equal(copied.running_var, norm.running_var)
    assert copied.num_batches_tracked == 1
