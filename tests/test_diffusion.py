"""The forward process and its targets against diffusers and closed forms; loss weights."""

import dataclasses
import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor

from tests.support.configs import diffusion_config
from uvit_dia.config.network import BETA_SCHEDULES, PREDICTION_TYPES, DiffusionConfig
from uvit_dia.diffusion import (
    Diffusion,
    alphas_cumprod_of,
    min_snr_weight,
    scheduler_arguments,
)

TIMESTEPS = torch.tensor([0, 1, 10, 250, 500, 998, 999])


def tensors(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(len(TIMESTEPS), 3, 4, 4, generator=generator) for _ in range(count)]


def scheduler(schedule: DiffusionConfig) -> DDPMScheduler:
    return DDPMScheduler(**scheduler_arguments(schedule))


def alphas_cumprod_in_float64(schedule: DiffusionConfig) -> Tensor:
    """Compute alpha-bar from the definitions (Ho et al. 2020; Nichol and Dhariwal 2021, Eq. 17)."""
    num = schedule.num_train_timesteps
    if schedule.beta_schedule == "squaredcos_cap_v2":

        def alpha_bar(t: float) -> float:
            return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

        betas = [min(1 - alpha_bar((i + 1) / num) / alpha_bar(i / num), 0.999) for i in range(num)]
        return (1 - torch.tensor(betas, dtype=torch.float64)).cumprod(0)
    power = 0.5 if schedule.beta_schedule == "scaled_linear" else 1.0
    first, last = schedule.beta_start**power, schedule.beta_end**power
    betas_of_steps = torch.linspace(first, last, num, dtype=torch.float64) ** (1 / power)
    return (1 - betas_of_steps).cumprod(0)


# ---------------------------------------------------------------- forward process


@pytest.mark.parametrize("beta_schedule", BETA_SCHEDULES)
def test_alphas_cumprod_has_its_closed_form(beta_schedule: str) -> None:
    schedule = diffusion_config(beta_schedule=beta_schedule)
    found = alphas_cumprod_of(schedule).double()
    expected = alphas_cumprod_in_float64(schedule)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("beta_schedule", BETA_SCHEDULES)
def test_noised_images_agree_with_diffusers(beta_schedule: str) -> None:
    schedule = diffusion_config(beta_schedule=beta_schedule)
    x_0, eps = tensors(2)
    found = Diffusion(schedule).add_noise(x_0, eps, TIMESTEPS)
    expected = scheduler(schedule).add_noise(x_0, eps, TIMESTEPS)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("beta_schedule", BETA_SCHEDULES)
def test_velocities_agree_with_diffusers(beta_schedule: str) -> None:
    schedule = diffusion_config(beta_schedule=beta_schedule, prediction_type="v_prediction")
    x_0, eps = tensors(2)
    found = Diffusion(schedule).target(x_0, eps, TIMESTEPS)
    expected = scheduler(schedule).get_velocity(x_0, eps, TIMESTEPS)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("beta_schedule", BETA_SCHEDULES)
def test_noised_images_and_targets_have_their_closed_forms(beta_schedule: str) -> None:
    schedule = diffusion_config(beta_schedule=beta_schedule)
    alphas_cumprod = alphas_cumprod_of(schedule).double()
    signal = alphas_cumprod[TIMESTEPS].sqrt().reshape(-1, 1, 1, 1)
    noise = (1 - alphas_cumprod[TIMESTEPS]).sqrt().reshape(-1, 1, 1, 1)
    x_0, eps = tensors(2)
    targets = {
        "epsilon": eps.double(),
        "v_prediction": signal * eps.double() - noise * x_0.double(),
        "sample": x_0.double(),
    }
    for prediction_type, expected in targets.items():
        diffusion = Diffusion(dataclasses.replace(schedule, prediction_type=prediction_type))
        target = diffusion.target(x_0, eps, TIMESTEPS)
        torch.testing.assert_close(target.double(), expected, rtol=1e-6, atol=1e-6)
        x_t = diffusion.add_noise(x_0, eps, TIMESTEPS)
        expected_x_t = signal * x_0.double() + noise * eps.double()
        torch.testing.assert_close(x_t.double(), expected_x_t, rtol=1e-6, atol=1e-6)


def test_each_image_has_its_own_timestep() -> None:
    x_0, eps = tensors(2)
    diffusion = Diffusion(diffusion_config())
    whole = diffusion.add_noise(x_0, eps, TIMESTEPS)
    for k in range(len(TIMESTEPS)):
        alone = diffusion.add_noise(x_0[k : k + 1], eps[k : k + 1], TIMESTEPS[k : k + 1])
        torch.testing.assert_close(whole[k : k + 1], alone, rtol=0, atol=0)


# ---------------------------------------------------------------- loss


def test_loss_is_the_mean_squared_error_of_each_image() -> None:
    prediction, target = tensors(2)
    found = Diffusion(diffusion_config()).loss(prediction, target, TIMESTEPS)
    expected = (prediction.double() - target.double()).square().mean(dim=(1, 2, 3))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


def test_loss_of_bfloat16_predictions_is_computed_in_float32() -> None:
    prediction, target = tensors(2)
    short = prediction.to(torch.bfloat16)
    diffusion = Diffusion(diffusion_config())
    found = diffusion.loss(short, target, TIMESTEPS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found, diffusion.loss(short.float(), target, TIMESTEPS), rtol=0, atol=0
    )


@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_min_snr_weights_agree_with_diffusers(prediction_type: str, gamma: float) -> None:
    """The formulas of diffusers' training scripts; for x_0 the weight is min(snr, gamma) itself."""
    schedule = diffusion_config(prediction_type=prediction_type)
    weighting = {"loss_weighting": "min_snr", "min_snr_gamma": gamma}
    diffusion = Diffusion(dataclasses.replace(schedule, **weighting))
    prediction, target = tensors(2)
    weighted = diffusion.loss(prediction, target, TIMESTEPS)
    plain = Diffusion(schedule).loss(prediction, target, TIMESTEPS)
    snr = compute_snr(scheduler(schedule), TIMESTEPS)
    weight = torch.stack([snr, gamma * torch.ones_like(snr)], dim=1).min(dim=1)[0]
    if prediction_type == "epsilon":
        weight = weight / snr
    elif prediction_type == "v_prediction":
        weight = weight / (snr + 1)
    assert (snr < gamma).any() and (snr > gamma).any()  # both branches are tried
    torch.testing.assert_close(weighted / plain, weight, rtol=1e-4, atol=0)


def test_weighted_losses_agree_over_the_prediction_types() -> None:
    """An error of the network has one loss, whatever it predicts: the weight is of the x_0 loss."""
    x_0, eps, error = tensors(3)
    losses = []
    for prediction_type in PREDICTION_TYPES:
        schedule = diffusion_config(prediction_type=prediction_type, loss_weighting="min_snr")
        diffusion = Diffusion(schedule)
        x_t = diffusion.add_noise(x_0, eps, TIMESTEPS)
        alphas_cumprod = alphas_cumprod_of(schedule)[TIMESTEPS].reshape(-1, 1, 1, 1)
        wrong_x_0 = x_0 + error
        wrong_eps = (x_t - alphas_cumprod.sqrt() * wrong_x_0) / (1 - alphas_cumprod).sqrt()
        prediction = diffusion.target(wrong_x_0, wrong_eps, TIMESTEPS)
        target = diffusion.target(x_0, eps, TIMESTEPS)
        losses.append(diffusion.loss(prediction, target, TIMESTEPS))
    torch.testing.assert_close(losses[1], losses[2], rtol=1e-2, atol=0)
    usable = slice(1, None)  # at t = 0 the error of eps drowns in float32
    torch.testing.assert_close(losses[0][usable], losses[2][usable], rtol=1e-2, atol=0)


def test_min_snr_weight_in_closed_form() -> None:
    alphas_cumprod = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)  # snr 9, 1, 1/9
    expected = {
        "epsilon": [5 / 9, 1.0, 1.0],
        "v_prediction": [0.5, 0.5, 0.1],
        "sample": [5.0, 1.0, 1 / 9],
    }
    for prediction_type, weights in expected.items():
        found = min_snr_weight(alphas_cumprod, prediction_type, 5.0)
        torch.testing.assert_close(
            found, torch.tensor(weights, dtype=torch.float64), rtol=1e-12, atol=0
        )
