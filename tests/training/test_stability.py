"""Spikes and the gradient noise scale, on problems whose answers are known."""

import pytest
import torch
from torch.testing import assert_close

from uvit_dia.training.stability import count_spikes, noise_scale_terms, squared_norm


def test_spikes_are_counted_at_any_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    values = 1 + 0.1 * torch.randn(200, generator=generator, dtype=torch.float64)
    assert count_spikes(values) == 0
    values[[3, 50, 120]] = torch.tensor([2.5, 40.0, 3.0], dtype=torch.float64)
    for scale in (1e-6, 1.0, 1e6):
        assert count_spikes(values * scale) == 3


def test_no_spikes_in_few_or_equal_values() -> None:
    assert count_spikes(torch.tensor([1.0] * 18 + [100.0])) == 0  # 19 values say too little
    assert count_spikes(torch.tensor([1.0] * 19 + [100.0])) == 1
    assert count_spikes(torch.ones(50)) == 0


def test_noise_scale_of_a_problem_with_a_known_answer() -> None:
    """Of gradients G + noise of a diagonal covariance, both terms and their ratio come out."""
    generator = torch.Generator().manual_seed(1)
    signal = torch.linspace(0.1, 0.5, 20, dtype=torch.float64)
    sigma = torch.linspace(0.5, 2.0, 20, dtype=torch.float64)
    small_batch, big_batch, repeats = 4, 16, 20_000
    noise = torch.randn(repeats, big_batch, 20, generator=generator, dtype=torch.float64)
    gradients = signal + sigma * noise  # repeats, images, parameters
    small = gradients[:, :small_batch].mean(1).square().sum(1)
    big = gradients.mean(1).square().sum(1)
    terms = [
        noise_scale_terms(s, b, small_batch, big_batch)
        for s, b in zip(small.tolist(), big.tolist(), strict=True)
    ]
    found_signal, found_noise = torch.tensor(terms, dtype=torch.float64).mean(0)
    true_signal, true_noise = signal.square().sum(), sigma.square().sum()
    assert_close(found_signal, true_signal, rtol=0.02, atol=0.0)
    assert_close(found_noise, true_noise, rtol=0.02, atol=0.0)
    assert_close(found_noise / found_signal, true_noise / true_signal, rtol=0.03, atol=0.0)


def test_noise_scale_without_noise_is_all_signal() -> None:
    assert noise_scale_terms(9.0, 9.0, 2, 8) == (9.0, 0.0)


@pytest.mark.parametrize(("small", "big"), [(0, 4), (4, 4), (8, 4), (-1, 4)])
def test_batch_sizes_must_grow(small: int, big: int) -> None:
    with pytest.raises(ValueError, match="small_batch < big_batch"):
        noise_scale_terms(1.0, 1.0, small, big)


def test_squared_norm() -> None:
    tensors = [torch.tensor([[3.0, 4.0]]), torch.tensor([12.0])]
    assert_close(squared_norm(tensors), torch.tensor(169.0))
