"""The U-ViT authors' continuous process.

Its formulas, and its samplers on data with a known answer.
"""

import math

import pytest
import torch
from torch import Tensor

from tests.support.configs import diffusion_config
from tests.support.denoisers import settings_of
from uvit_dia.config.schema import DiffusionConfig
from uvit_dia.diffusion import Diffusion, alphas_cumprod_of
from uvit_dia.diffusion.vp_sde import beta, label_of_steps, log_alpha_bar, time_of
from uvit_dia.rng import position_generator
from uvit_dia.sampling.chain import Chain
from uvit_dia.sampling.vp_sde_chain import VPSDEChain, orders_of

MEAN, STD = 0.3, 0.4  # of the data, pixel by pixel


def official(**changes: object) -> DiffusionConfig:
    return diffusion_config(
        beta_schedule="linear",
        prediction_type="epsilon",
        **{"time_labels": "vp_sde", **changes},
    )


def eps_of_gaussian(x_t: Tensor, label: Tensor) -> Tensor:
    """Return E[eps | x_t] of data N(MEAN, STD^2), for a network that is told 999 t."""
    log_alpha = log_alpha_bar(label.double() / 999)[:, None, None, None]
    signal, noise = torch.exp(log_alpha / 2), (-torch.expm1(log_alpha)).sqrt()
    variance = signal**2 * STD**2 + noise**2
    return (noise / variance * (x_t.double() - signal * MEAN)).float()


# ---------------------------------------------------------------- the process


def test_alpha_bar_is_the_integral_of_beta() -> None:
    t = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    integral = torch.cumulative_trapezoid(beta(t), t)
    torch.testing.assert_close(log_alpha_bar(t)[1:], -integral, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(time_of(log_alpha_bar(t)), t, rtol=1e-9, atol=1e-12)


def test_labels_of_the_discrete_schedule_are_near_its_steps() -> None:
    """As ecosystem notes have them: 0.916 for step 0, 10.65 for 10, 1002.4 for 999."""
    labels = label_of_steps(alphas_cumprod_of(official()).double())
    found = [float(labels[step]) for step in (0, 10, 999)]
    assert found == pytest.approx([0.916, 10.65, 1002.4], rel=1e-3)


def test_a_network_is_told_labels_only_if_its_config_says_so() -> None:
    steps = torch.tensor([0, 10, 999])
    assert Diffusion(official(time_labels="steps")).network_time(steps) is steps
    told = Diffusion(official()).network_time(steps)
    torch.testing.assert_close(told, torch.tensor([0.916, 10.65, 1002.4]), rtol=1e-3, atol=0)
    between = Diffusion(official()).network_time(torch.tensor([10.0, 10.5]))
    assert between[0] == told[1] and 10.65 < between[1] < 12


# ---------------------------------------------------------------- samplers


def sampled(name: str, num_steps: int, shape: tuple[int, int, int] = (1, 64, 64)) -> Tensor:
    chain = VPSDEChain(settings_of(name, num_steps), official())
    generators = [position_generator(0, "sample", index) for index in range(4)]
    noise = torch.stack([torch.randn(shape, generator=g) for g in generators])
    x_0, nfe = chain.run(eps_of_gaussian, noise, generators)
    assert nfe == num_steps
    return x_0


def test_euler_maruyama_in_1000_steps_reaches_the_gaussian() -> None:
    x_0 = sampled("euler_maruyama", 1000)
    assert float(x_0.mean()) == pytest.approx(MEAN, abs=0.015)
    assert float(x_0.std()) == pytest.approx(STD, abs=0.01)
    coarse = sampled("euler_maruyama", 100)
    assert abs(float(coarse.std()) - STD) > abs(float(x_0.std()) - STD)


def test_euler_maruyama_draws_an_image_from_its_own_generator() -> None:
    shape = (1, 8, 8)
    alone = VPSDEChain(settings_of("euler_maruyama", 20), official())
    generator = position_generator(0, "sample", 2)
    noise = torch.randn(shape, generator=generator)[None]
    x_0, _ = alone.run(eps_of_gaussian, noise, [generator])
    torch.testing.assert_close(x_0[0], sampled("euler_maruyama", 20, shape)[2])


def exact_end(noise: Tensor) -> Tensor:
    """Return where the probability flow takes noise by t = 0.0001: marginals N(., .) line up."""
    ends = torch.tensor([1.0, 1e-4], dtype=torch.float64)
    signal = torch.exp(log_alpha_bar(ends) / 2)
    std = (signal**2 * STD**2 - torch.expm1(log_alpha_bar(ends))).sqrt()
    return signal[1] * MEAN + std[1] / std[0] * (noise.double() - signal[0] * MEAN)


def error_of_dpm_solver(num_calls: int) -> float:
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(9, 1, 1, 1)
    chain = VPSDEChain(settings_of("dpm_solver", num_calls), official())

    def in_double(x_t: Tensor, label: Tensor) -> Tensor:
        return eps_of_gaussian(x_t, label)

    x_0, nfe = chain.run(in_double, noise, [])
    assert nfe == num_calls
    return float((x_0 - exact_end(noise)).abs().max())


def test_dpm_solver_in_50_calls_reaches_the_gaussian() -> None:
    assert error_of_dpm_solver(50) < 1e-3
    errors = [error_of_dpm_solver(calls) for calls in (12, 24, 48)]
    assert errors[0] / errors[1] > 3 and errors[1] / errors[2] > 3, errors  # of order 2 at least


@pytest.mark.parametrize("calls", range(1, 60))
def test_orders_of_dpm_solver_add_up(calls: int) -> None:
    orders = orders_of(calls)
    assert sum(orders) == calls
    assert all(order == 3 for order in orders[:-2])
    assert orders[-1] < 3 or calls == 0


def test_ddpm_with_these_labels_is_near_euler_maruyama() -> None:
    """What the authors' sampler amounts to on the discrete schedule, with its network."""
    settings = settings_of("ddpm", 1000, variance_type="fixed_large")
    generators = [position_generator(0, "sample", index) for index in range(2)]
    noise = torch.stack([torch.randn((1, 64, 64), generator=g) for g in generators])
    x_0, _ = Chain(settings, official()).run(eps_of_gaussian, noise, generators)
    assert float(x_0.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(x_0.std()) == pytest.approx(STD, abs=0.01)
    wrong, _ = Chain(settings, official(time_labels="steps")).run(
        lambda x, t: eps_of_gaussian(x, 0.5 * t), noise, generators
    )
    assert not math.isclose(float(wrong.std()), STD, abs_tol=0.05)  # it would show
