"""The samplers with which the U-ViT authors measured their weights, in continuous time.

euler_maruyama solves the reverse SDE (Song et al. 2021, arXiv:2011.13456, Eq. 6 and Appendix D.2)
on num_steps times from 1 to 0.001, evenly spaced, and from there to 0 without noise. dpm_solver is
DPM-Solver-fast (Lu et al. 2022, arXiv:2206.00927, Sec. 3.4 and Algorithms 1 and 2): steps of order
3 that are even in lambda = log(signal / noise), ended by lower orders so that num_steps counts
network calls, down to t = 0.0001.
"""

import math

import torch
from torch import Tensor

from uvit_dia.config.schema import DiffusionConfig, SampleConfig
from uvit_dia.diffusion.vp_sde import LABEL_SCALE, beta, log_alpha_bar, time_of
from uvit_dia.sampling.chain import Denoiser
from uvit_dia.sampling.safeguards import NO_SAFEGUARDS

FIRST_TIME_OF_EULER, LAST_TIME_OF_DPM_SOLVER = 1e-3, 1e-4


class VPSDEChain:
    """euler_maruyama or dpm_solver with its loop; arguments as for `Chain`.

    The network predicts epsilon, and is told 999 t.
    """

    def __init__(self, settings: SampleConfig, diffusion: DiffusionConfig) -> None:
        self.settings = settings
        self.safeguards = NO_SAFEGUARDS

    @torch.no_grad()
    def run(
        self, denoiser: Denoiser, noise: Tensor, generators: list[torch.Generator]
    ) -> tuple[Tensor, int]:
        """Run the sampler; arguments and result as for `Chain.run`."""

        def eps_of(x_t: Tensor, t: Tensor) -> Tensor:
            label = (LABEL_SCALE * t).float().to(x_t.device)
            return denoiser(x_t, label.expand(len(x_t))).float()

        if self.settings.sampler == "euler_maruyama":
            return _euler_maruyama(eps_of, noise, generators, self.settings.num_steps)
        return _dpm_solver(eps_of, noise, self.settings.num_steps)


def _euler_maruyama(
    eps_of: Denoiser, x: Tensor, generators: list[torch.Generator], num_steps: int
) -> tuple[Tensor, int]:
    first = torch.linspace(FIRST_TIME_OF_EULER, 1, num_steps, dtype=torch.float64)
    times = torch.cat((torch.zeros(1, dtype=torch.float64), first))
    if num_steps == 1:
        times[1] = 1  # of which linspace makes the first time
    for before, t in zip(times[:-1].flip(0), times[1:].flip(0), strict=True):
        rate, sigma = float(beta(t)), float((-torch.expm1(log_alpha_bar(t))).sqrt())
        # dx = (-beta / 2 x - beta score) dt + sqrt(beta) dw, with the score -eps / sigma
        drift = -rate / 2 * x + rate / sigma * eps_of(x, t)
        step = float(t - before)
        x = x - drift * step
        if before > 0:
            fresh = torch.stack([torch.randn(x.shape[1:], generator=g) for g in generators])
            x = x + math.sqrt(rate * step) * fresh.to(x.device)
    return x, num_steps


def orders_of(num_calls: int) -> list[int]:
    """Return the orders of DPM-Solver-fast's steps, which call the network num_calls times."""
    thirds, rest = divmod(num_calls, 3)
    if rest:
        return [3] * thirds + [rest]
    return [3] * (thirds - 1) + [2, 1]


def _dpm_solver(eps_of: Denoiser, x: Tensor, num_calls: int) -> tuple[Tensor, int]:
    orders = orders_of(num_calls)
    ends = torch.tensor([1.0, LAST_TIME_OF_DPM_SOLVER], dtype=torch.float64)
    first, last = (float(end) for end in _half_log_snr(ends))
    lambdas = torch.linspace(first, last, len(orders) + 1, dtype=torch.float64)
    for order, low, high in zip(orders, lambdas[:-1], lambdas[1:], strict=True):
        x = _STEPS[order](eps_of, x, low, high - low)
    return x, num_calls


def _first_order(eps_of: Denoiser, x: Tensor, low: Tensor, h: Tensor) -> Tensor:
    return _moved(x, eps_of(x, _time(low)), low, h)


def _second_order(eps_of: Denoiser, x: Tensor, low: Tensor, h: Tensor) -> Tensor:
    middle = _moved(x, eps_of(x, _time(low)), low, h / 2)
    return _moved(x, eps_of(middle, _time(low + h / 2)), low, h)


def _third_order(eps_of: Denoiser, x: Tensor, low: Tensor, h: Tensor) -> Tensor:
    """Algorithm 2, with r_1 = 1/3 and r_2 = 2/3."""
    r_1, r_2 = 1 / 3, 2 / 3
    eps = eps_of(x, _time(low))
    x_1 = _moved(x, eps, low, r_1 * h)
    change_1 = eps_of(x_1, _time(low + r_1 * h)) - eps
    x_2 = _moved(x, eps, low, r_2 * h) - _curve(low, r_2 * h) * r_2 / r_1 * change_1
    change_2 = eps_of(x_2, _time(low + r_2 * h)) - eps
    return _moved(x, eps, low, h) - _curve(low, h) / r_2 * change_2


_STEPS = {1: _first_order, 2: _second_order, 3: _third_order}


def _moved(x: Tensor, eps: Tensor, low: Tensor, h: Tensor) -> Tensor:
    """Return the exact solution for a constant eps from lambda = low to low + h (Eq. 3.7)."""
    (signal, _), (new_signal, new_noise) = _levels(low), _levels(low + h)
    return float(new_signal / signal) * x - float(new_noise * torch.expm1(h)) * eps


def _curve(low: Tensor, h: Tensor) -> float:
    """Return the weight of a change of eps: sigma (expm1(h) / h - 1)."""
    return float(_levels(low + h)[1] * (torch.expm1(h) / h - 1))


def _half_log_snr(t: Tensor) -> Tensor:
    """Return lambda(t) = log(signal / noise)."""
    log_alpha = log_alpha_bar(t)
    return (log_alpha - torch.log(-torch.expm1(log_alpha))) / 2


def _levels(half_log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """Return signal and noise, the roots of alpha-bar and of 1 - alpha-bar."""
    return torch.sigmoid(2 * half_log_snr).sqrt(), torch.sigmoid(-2 * half_log_snr).sqrt()


def _time(half_log_snr: Tensor) -> Tensor:
    """Return the t of a lambda."""
    return time_of(torch.nn.functional.logsigmoid(2 * half_log_snr))
