"""Every sampler on every schedule, in few steps and many, on data of a known answer."""

from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.configs import diffusion_config
from tests.support.denoisers import exact_denoiser, gaussian_mean, images_mean, settings_of
from uvit_dia.config.network import BETA_SCHEDULES, PREDICTION_TYPES
from uvit_dia.config.schema import (
    SAMPLERS,
    DiffusionConfig,
    SampleConfig,
)
from uvit_dia.diffusion import alphas_cumprod_of
from uvit_dia.sampling.chain import Chain
from uvit_dia.sampling.noise_levels import clip_x_0, noise_levels
from uvit_dia.sampling.probe import sampler_fault, sampler_notes
from uvit_dia.sampling.safeguards import safeguards
from uvit_dia.system.errors import InputError

COSINE = "squaredcos_cap_v2"
STEPS = (4, 10, 20, 50, 100)
MEAN, STD = 0.25, 0.32  # of the Gaussian data: in [-1, 1] but for one pixel in 100
SOLVERS = ("dpmpp_2m", "dpmpp_2m_sde", "unipc", "euler", "heun")
KNOWN = (torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 1.8 - 0.9).double()


def run(
    settings: SampleConfig, schedule: DiffusionConfig, denoiser: object, shape: tuple[int, ...]
) -> Tensor:
    generators = [torch.Generator().manual_seed(i) for i in range(shape[0])]
    noise = torch.stack([torch.randn(shape[1:], generator=g) for g in generators])
    return Chain(settings, schedule).run(denoiser, noise, generators)[0]  # type: ignore[arg-type]


def spread(settings: SampleConfig, schedule: DiffusionConfig, error: float = 0.0) -> float:
    """Return which multiple of its spread Gaussian data come out with."""
    denoiser = exact_denoiser(schedule, gaussian_mean(MEAN, STD), error)
    return run(settings, schedule, denoiser, (2, 1, 32, 32)).std().item() / STD


def share_between(settings: SampleConfig, schedule: DiffusionConfig) -> float:
    """Return the share of images that are none of four known ones."""
    x_0 = run(settings, schedule, exact_denoiser(schedule, images_mean(KNOWN)), (64, 1, 4, 4))
    nearest = (x_0[:, None].double() - KNOWN).abs().amax((2, 3, 4)).amin(1)
    return (nearest > 0.3).double().mean().item()


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("beta_schedule", BETA_SCHEDULES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_reaches_the_data_or_says_that_it_does_not(
    name: str, beta_schedule: str, prediction_type: str
) -> None:
    schedule = diffusion_config(beta_schedule=beta_schedule, prediction_type=prediction_type)
    for num_steps in STEPS:
        settings = settings_of(name, num_steps, clip_sample=True)
        try:
            fault = sampler_fault(settings, schedule)
        except InputError:
            assert (name, prediction_type) == ("pndm", "sample")
            continue
        assert fault is None or num_steps == 4, fault
        if fault is None:
            for error, tolerance in ((0.0, 0.12), (0.01, 0.25)):
                reached = spread(settings, schedule, error)
                assert 0.45 < reached < 1.4, (num_steps, error)
                assert num_steps < 50 or reached == pytest.approx(1, abs=tolerance)
            assert share_between(settings, schedule) < {4: 0.6, 10: 0.4}.get(num_steps, 0.15)


@pytest.mark.parametrize(
    ("name", "beta_schedule", "prediction_type", "words"),
    [
        ("heun", "linear", "epsilon", "times their contrast"),
        ("heun", "scaled_linear", "sample", "times their contrast"),
        ("heun", COSINE, "v_prediction", "times their contrast"),
        ("pndm", "linear", "epsilon", "of their pixels at neither"),
        ("dpmpp_2m", "linear", "epsilon", "times their contrast"),
    ],
)
def test_four_steps_that_cannot_be_right_are_told_in_one_line(
    name: str, beta_schedule: str, prediction_type: str, words: str
) -> None:
    schedule = diffusion_config(beta_schedule=beta_schedule, prediction_type=prediction_type)
    settings = settings_of(name, 4, clip_sample=True)
    (*_, told) = sampler_notes(settings, schedule)
    assert told.startswith(f"{name} in 4 steps is wrong on this schedule")
    assert words in told
    assert "\n" not in told and len(told) < 200
    reached = spread(settings, schedule)
    assert not 0.6 < reached < 1.4 or share_between(settings, schedule) > 0.5


# --- heun ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_heun_is_not_blown_out_on_the_cosine_schedule(prediction_type: str) -> None:
    schedule = diffusion_config(beta_schedule=COSINE, prediction_type=prediction_type)
    for num_steps, limit in ((10, 1.3), (14, 1.2), (20, 1.12), (40, 1.08), (50, 1.1), (100, 1.05)):
        assert 0.95 < spread(settings_of("heun", num_steps), schedule) < limit, num_steps


def test_heun_in_few_steps_takes_the_noise_levels_of_karras() -> None:
    """Karras et al. 2022, Eq. 5, from 80 to the smallest noise level of the schedule."""
    schedule = diffusion_config(beta_schedule=COSINE, prediction_type="v_prediction")
    settings = settings_of("heun", 12)
    scheduler = Chain(settings, schedule).scheduler
    scheduler.set_timesteps(12)
    own = noise_levels(alphas_cumprod_of(schedule)).numpy()
    ends = np.array([80.0, own[0]]) ** (1 / 7)
    expected = (ends[0] + np.linspace(0, 1, 12) * (ends[1] - ends[0])) ** 7
    found = scheduler.sigmas.double().numpy()
    np.testing.assert_allclose(np.append(found[:1], found[1:-1:2]), expected, rtol=1e-5)
    levels = np.interp(scheduler.timesteps.numpy(), np.arange(1000), np.log(own))
    np.testing.assert_allclose(levels, np.log(np.repeat(expected, 2)[1:]), atol=1e-3)
    assert safeguards(settings, schedule).facts() == {"sigmas": "karras", "sigma_max": 80.0}
    (note,) = sampler_notes(settings, schedule)
    assert note.startswith("heun in 12 steps takes the noise levels of Karras et al. 2022 from 80")


# --- epsilon where next to no signal is left -----------------------------------------------------


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("num_steps", [10, 20, 50, 100])
def test_an_error_of_epsilon_is_not_multiplied_by_20000(name: str, num_steps: int) -> None:
    schedule = diffusion_config(beta_schedule=COSINE, prediction_type="epsilon")
    settings = settings_of(name, num_steps, clip_sample=True)
    assert spread(settings, schedule, error=0.01) == pytest.approx(1, abs=0.45)
    unclipped = replace(settings, clip_sample=False)
    if name != "heun":  # which does not begin there
        (note,) = sampler_notes(settings, schedule)
        assert note.startswith(f"{name} clips x_0 to [-1, 1]")
        assert safeguards(settings, schedule).facts() == {"clips_x_0": True}
        assert safeguards(unclipped, schedule).facts() == {}
        (note,) = sampler_notes(unclipped, schedule)
        assert note.startswith(f"sample.clip_sample = False leaves {name} wrong")
    if name in ("dpmpp_2m", "euler"):
        assert spread(unclipped, schedule, error=0.01) > 1.5


def test_other_schedules_that_lose_the_signal_are_seen_too() -> None:
    """The rule is about how far the noise level falls, not about the name of a schedule."""
    short = diffusion_config(num_train_timesteps=100, beta_schedule=COSINE)
    for name in SOLVERS[:-1]:
        settings = settings_of(name, 20, clip_sample=True)
        assert safeguards(settings, short).clips_x_0
        assert safeguards(replace(settings, clip_sample=False), short).lacks_clipping
    assert safeguards(settings_of("heun", 20), short).karras_sigma_max == 80
    smooth = diffusion_config(beta_schedule="linear", beta_end=0.05)  # to 340,000, in small steps
    assert noise_levels(alphas_cumprod_of(smooth))[-1] > 300_000
    for name in SOLVERS[:-1]:
        assert safeguards(settings_of(name, 20, clip_sample=True), smooth).facts() == {}
        assert sampler_fault(settings_of(name, 20), smooth) is None


def test_clipping_changes_only_what_is_outside() -> None:
    generator = torch.Generator().manual_seed(0)
    x_t, eps = torch.randn(2, 3, 1, 8, 8, generator=generator)
    for sigma in (0.01, 1.0, 20_000.0):
        signal, noise = (1 + sigma**2) ** -0.5, sigma * (1 + sigma**2) ** -0.5
        x_0 = (x_t - noise * eps) / signal
        clipped = clip_x_0(eps, x_t, sigma)
        inside = x_0.abs() < 1
        assert torch.equal(clipped[inside], eps[inside])
        again = (x_t.double() - noise * clipped.double()) / signal
        torch.testing.assert_close(
            again[~inside], x_0[~inside].sign().double(), rtol=0, atol=3e-3 * max(1, sigma / 1000)
        )
    assert torch.isnan(clip_x_0(torch.full((1, 1, 1, 1), torch.nan), x_t[:1], 1.0)).all()


# --- what was right stays as it was --------------------------------------------------------------


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("beta_schedule", BETA_SCHEDULES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_what_was_right_without_safeguards_gets_none(
    name: str, beta_schedule: str, prediction_type: str
) -> None:
    schedule = diffusion_config(beta_schedule=beta_schedule, prediction_type=prediction_type)
    for num_steps in STEPS:
        if (name, prediction_type) == ("pndm", "sample"):
            continue  # refused
        found = safeguards(settings_of(name, num_steps, clip_sample=True), schedule)
        is_cosine, is_eps = beta_schedule == COSINE, prediction_type == "epsilon"
        heun = name == "heun" and is_cosine and (num_steps < 50 or is_eps)
        assert (found.karras_sigma_max is not None) == heun
        assert found.clips_x_0 == (is_cosine and is_eps and name in SOLVERS and name != "heun")
        if not heun and not found.clips_x_0:
            assert found.facts() == {} and found.notes(settings_of(name, num_steps)) == []


@pytest.mark.parametrize("num_steps", [50, 100])
def test_heun_in_many_steps_is_the_plain_one(num_steps: int) -> None:
    schedule = diffusion_config(beta_schedule=COSINE, prediction_type="v_prediction")
    ours = Chain(settings_of("heun", num_steps), schedule).scheduler
    plain = diffusers.HeunDiscreteScheduler(
        num_train_timesteps=1000, beta_schedule=COSINE, timestep_spacing="linspace"
    )
    ours.set_timesteps(num_steps)
    plain.set_timesteps(num_steps)
    assert torch.equal(ours.sigmas, plain.sigmas)
    assert torch.equal(ours.timesteps, plain.timesteps)
